// Norms and activations that newer opsets and com.microsoft have as one operator, in double.
#include <algorithm>
#include <cmath>

#include "graph/interpreter_nibble.h"
#include "graph/ops.h"
#include "jit/error.h"

namespace nibble::graph {
namespace {

struct NormCall {
  const float* weight = nullptr;
  const float* bias = nullptr;
  double epsilon = 0;
  bool centre = false;
};

// y, mean and inverse deviation of rows of `width`.
Outputs normalised(const Array& x, int64_t width, const NormCall& norm) {
  const auto from = x.floats();
  std::vector<float> out(from.size()), means, inverses;
  for (size_t base = 0; base < from.size(); base += static_cast<size_t>(width)) {
    const auto row = from.subspan(base, static_cast<size_t>(width));
    double mean = 0, squares = 0;
    if (norm.centre) {
      for (const float value : row) mean += value;
      mean /= static_cast<double>(width);
    }
    for (const float value : row) squares += (value - mean) * (value - mean);
    const double inverse = 1 / std::sqrt(squares / static_cast<double>(width) + norm.epsilon);
    for (size_t j = 0; j < row.size(); ++j) {
      const double y = (row[j] - mean) * inverse * norm.weight[j];
      out[base + j] = static_cast<float>(norm.bias != nullptr ? y + norm.bias[j] : y);
    }
    means.push_back(static_cast<float>(mean));
    inverses.push_back(static_cast<float>(inverse));
  }
  const auto rows = static_cast<int64_t>(means.size());
  return {Array::of(x.shape, std::move(out)), Array::of({rows}, std::move(means)),
          Array::of({rows}, std::move(inverses))};
}

const float* need_weight(const OpCall& call, size_t i, int64_t width) {
  const float* weight = weight_floats(call, i, width);
  if (weight == nullptr) fail("The weight is missing.");
  return weight;
}

Outputs op_rms_normalization(const OpCall& call) {
  const Array& x = call.in(0);
  const size_t axis = normal_axis(call.node.get_int("axis", -1), x.shape.size());
  int64_t width = 1;
  for (size_t d = axis; d < x.shape.size(); ++d) width *= x.shape[d];
  if (width == 0) return {x, Array::of({0}, std::vector<float>{})};
  Outputs all = normalised(
      x, width,
      {need_weight(call, 1, width), nullptr, call.node.get_float("epsilon", 1e-5F), false});
  return {all[0], all[2]};
}

// x + skip (+ bias): `skip` may lack the batch, or have one of 1.
Array skipped(const OpCall& call, size_t bias_input) {
  const Array &x = call.in(0), &skip = call.in(1);
  const int64_t width = row_shape(x).width;
  const float* bias = weight_floats(call, bias_input, width);
  const auto count = static_cast<size_t>(skip.size());
  const int64_t rows = x.shape.size() < 2 ? 1 : x.shape[x.shape.size() - 2];
  if (skip.size() != x.size() && skip.size() != rows * width) {
    fail("A skip of shape {} does not fit {}.", to_string(skip.shape), to_string(x.shape));
  }
  if (count == 0) return x;
  std::vector<float> sum(x.floats().begin(), x.floats().end());
  for (size_t i = 0; i < sum.size(); ++i) {
    sum[i] += skip.floats()[i % count];
    if (bias != nullptr) sum[i] += bias[i % static_cast<size_t>(width)];
  }
  return Array::of(x.shape, std::move(sum));
}

Outputs op_skip_simplified(const OpCall& call) {
  const Array sum = skipped(call, 3);
  const int64_t width = row_shape(sum).width;
  Outputs all = normalised(
      sum, width,
      {need_weight(call, 2, width), nullptr, call.node.get_float("epsilon", 1e-12F), false});
  all.push_back(sum);
  return all;
}

Outputs op_skip_layer(const OpCall& call) {
  const Array sum = skipped(call, 4);
  const int64_t width = row_shape(sum).width;
  Outputs all = normalised(sum, width,
                           {need_weight(call, 2, width), weight_floats(call, 3, width),
                            call.node.get_float("epsilon", 1e-12F), true});
  all.push_back(sum);
  return all;
}

template <typename F>
Outputs mapped(const OpCall& call, const F& f) {
  const Array& x = call.in(0);
  const int64_t width = row_shape(x).width;
  const float* bias = weight_floats(call, 1, width);
  std::vector<float> out(x.floats().begin(), x.floats().end());
  for (size_t i = 0; i < out.size(); ++i) {
    if (bias != nullptr) out[i] += bias[i % static_cast<size_t>(width)];
    out[i] = f(out[i]);
  }
  return {Array::of(x.shape, std::move(out))};
}

Outputs op_gelu_microsoft(const OpCall& call) {
  return mapped(call, [](float x) { return activate(jit::Activation::gelu, x); });
}

Outputs op_fast_gelu(const OpCall& call) {
  return mapped(call, [](float x) { return activate(jit::Activation::gelu_tanh, x); });
}

// x / (1 + e^(-alpha x))
Outputs sigmoid_gate(const OpCall& call, float alpha) {
  return mapped(call, [alpha](float x) {
    return static_cast<float>(x / (1 + std::exp(-static_cast<double>(alpha) * x)));
  });
}

Outputs op_quick_gelu(const OpCall& call) {
  return sigmoid_gate(call, call.node.get_float("alpha", 1.702F));
}

Outputs op_swish(const OpCall& call) {
  return sigmoid_gate(call, call.node.get_float("alpha", 1.0F));
}

constexpr OpEntry kContribOps[] = {
    {"", "RMSNormalization", op_rms_normalization},
    {"", "SimplifiedLayerNormalization", op_rms_normalization},
    {kMicrosoftDomain, "SimplifiedLayerNormalization", op_rms_normalization},
    {kMicrosoftDomain, "SkipSimplifiedLayerNormalization", op_skip_simplified},
    {kMicrosoftDomain, "SkipLayerNormalization", op_skip_layer},
    {kMicrosoftDomain, "Gelu", op_gelu_microsoft},
    {kMicrosoftDomain, "BiasGelu", op_gelu_microsoft},
    {kMicrosoftDomain, "FastGelu", op_fast_gelu},
    {kMicrosoftDomain, "QuickGelu", op_quick_gelu},
    {"", "Swish", op_swish},
};

}  // namespace

std::span<const OpEntry> contrib_ops() { return kContribOps; }

}  // namespace nibble::graph
