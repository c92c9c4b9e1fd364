#include "frontends/decoder/weights.h"

#include <fmt/format.h>

#include <algorithm>
#include <array>
#include <string_view>
#include <utility>

#include "jit/error.h"
#include "jit/packed_layout.h"

namespace nibble::frontends::decoder {
namespace {

using graph::ColumnSegment;
using graph::DType;
using graph::MatrixSource;

// Buffers that old files carry along: causal masks, and frequencies that follow from the
// configuration.
constexpr std::array<std::string_view, 5> kBuffers = {"rotary_emb.inv_freq", ".attn.bias",
                                                      ".attn.masked_bias", ".attention.bias",
                                                      ".attention.masked_bias"};

bool is_buffer(std::string_view name) {
  return std::any_of(kBuffers.begin(), kBuffers.end(),
                     [&](std::string_view end) { return name.ends_with(end); });
}

// Projections side by side, then the columns wanted of them, weights and biases alike. Segments
// with part -1 are zeros.
Projection select(std::span<const Projection> parts, std::span<const ColumnSegment> columns) {
  std::vector<MatrixSource> sources;
  std::vector<float> biases;
  for (const Projection& part : parts) {
    sources.push_back(part.weight);
    biases.insert(biases.end(), part.bias.begin(), part.bias.end());
  }
  Projection result;
  result.weight = select_columns(graph::concatenate(sources), columns);
  if (biases.empty()) return result;
  for (const ColumnSegment& segment : columns) {
    const auto end = result.bias.size() + static_cast<size_t>(segment.count);
    if (segment.part >= 0) {
      const auto from = biases.begin() + segment.begin;
      result.bias.insert(result.bias.end(), from, from + segment.count);
    }
    result.bias.resize(end, 0.0F);
  }
  return result;
}

}  // namespace

Weights::Weights(const Description& description, Checkpoint& checkpoint)
    : d_(description), checkpoint_(checkpoint) {
  const std::string& name = d_.names.embedding;
  const std::string& base = d_.names.base;
  if (checkpoint.has(name + ".weight") || !name.starts_with(base)) return;
  without_base_ = checkpoint.has(name.substr(base.size()) + ".weight");
}

std::string Weights::full_name(int64_t layer, const std::string& name, const char* suffix) const {
  std::string full = layer == kOutside
                         ? name + suffix
                         : fmt::format("{}{}.{}{}", d_.names.layers, layer, name, suffix);
  if (without_base_ && full.starts_with(d_.names.base)) full.erase(0, d_.names.base.size());
  return full;
}

const graph::TensorData& Weights::tensor(const std::string& full, const graph::Shape& shape) {
  const graph::TensorData& found = checkpoint_.take(full, shape);
  if (found.shape != shape) {
    fail("{}: the tensor '{}' has shape {}, but the model's description expects {}.",
         checkpoint_.path(), full, graph::to_string(found.shape), graph::to_string(shape));
  }
  if (found.dtype != DType::f32 && found.dtype != DType::f16 && found.dtype != DType::bf16) {
    fail("{}: the tensor '{}' is {}, but f32, f16 or bf16 is expected.", checkpoint_.path(), full,
         graph::dtype_name(found.dtype));
  }
  return found;
}

MatrixSource Weights::source(const std::string& full, int64_t n, int64_t k, bool k_major) {
  if (const MatrixSource* matrix = checkpoint_.take_matrix(full, n, k)) {
    if (matrix->n == n && matrix->k == k) return *matrix;
    fail("{}: the tensor '{}' has shape {}, but the model's description expects {}.",
         checkpoint_.path(), full, graph::to_string({matrix->n, matrix->k}),
         graph::to_string({n, k}));
  }
  const graph::Shape shape = k_major ? graph::Shape{k, n} : graph::Shape{n, k};
  return MatrixSource::whole(tensor(full, shape), k_major);
}

MatrixSource Weights::matrix(const std::string& name, int64_t n, int64_t k) {
  const std::string base = full_name(kOutside, name, "");
  if (is_quantized(d_.quantization, base, checkpoint_)) {
    return MatrixSource::whole(quantized_matrix(d_.quantization, base, n, k, checkpoint_));
  }
  return source(base + ".weight", n, k, false);
}

graph::TensorData Weights::table(const std::string& name, int64_t rows, int64_t width) {
  const graph::TensorData& found = tensor(full_name(kOutside, name, ".weight"), {rows, width});
  return found.dtype == DType::f32 ? found : graph::make_f32(found.shape, graph::to_f32(found));
}

std::vector<float> Weights::vector(int64_t layer, const std::string& name, const char* suffix,
                                   int64_t count) {
  return graph::to_f32(tensor(full_name(layer, name, suffix), {count}));
}

std::vector<float> Weights::rows(int64_t layer, const std::string& name, const char* suffix,
                                 int64_t rows, int64_t width) {
  return graph::to_f32(tensor(full_name(layer, name, suffix), {rows, width}));
}

Projection Weights::projection(int64_t layer, const std::string& name, int64_t n, int64_t k,
                               bool bias) {
  const std::string base = full_name(layer, name, "");
  Projection result;
  if (is_quantized(d_.quantization, base, checkpoint_)) {
    result.weight = MatrixSource::whole(quantized_matrix(d_.quantization, base, n, k, checkpoint_));
    if (!bias) pass_over_zeros(base + ".bias");
  } else {
    result.weight = source(base + ".weight", n, k, d_.k_major);
  }
  if (bias) result.bias = vector(layer, name, ".bias", n);
  return result;
}

void Weights::pass_over_zeros(const std::string& full) {
  if (!checkpoint_.has(full)) return;
  const std::vector<float> values = graph::to_f32(checkpoint_.take(full));
  if (std::all_of(values.begin(), values.end(), [](float value) { return value == 0; })) return;
  fail("{}: the tensor '{}' is not zero, but {} has no bias there.", checkpoint_.path(), full,
       d_.family);
}

Projection Weights::qkv(int64_t layer) {
  const int64_t d = d_.head_dim, q = d_.heads * d, kv = d_.kv_heads * d;
  const bool bias = d_.biases.qkv;
  if (d_.qkv == QkvLayout::separate) {
    const Projection parts[] = {projection(layer, d_.names.q, q, d_.hidden, bias),
                                projection(layer, d_.names.k, kv, d_.hidden, bias),
                                projection(layer, d_.names.v, kv, d_.hidden, bias)};
    const ColumnSegment all[] = {{0, 0, q + 2 * kv}};
    return select(parts, all);
  }
  Projection whole = projection(layer, d_.names.qkv, q + 2 * kv, d_.hidden, bias);
  if (d_.qkv == QkvLayout::blocks) return whole;
  const int64_t queries = d_.heads / d_.kv_heads, group = (queries + 2) * d;
  std::vector<ColumnSegment> columns;
  for (int64_t g = 0; g < d_.kv_heads; ++g) columns.push_back({0, g * group, queries * d});
  for (int64_t part : {queries, queries + 1}) {
    for (int64_t g = 0; g < d_.kv_heads; ++g) columns.push_back({0, g * group + part * d, d});
  }
  return select({&whole, 1}, columns);
}

Projection Weights::o(int64_t layer) {
  return projection(layer, d_.names.o, d_.hidden, d_.heads * d_.head_dim, d_.biases.o);
}

Projection Weights::up(int64_t layer) {
  const int64_t n = d_.mlp, k = d_.hidden;
  const bool bias = d_.biases.mlp;
  if (d_.mlp_layout == MlpLayout::plain) return projection(layer, d_.names.up, n, k, bias);
  std::vector<Projection> parts;
  if (d_.mlp_layout == MlpLayout::gate_up) {
    parts.push_back(projection(layer, d_.names.gate, 2 * n, k, bias));
  } else {
    parts.push_back(projection(layer, d_.names.gate, n, k, bias));
    parts.push_back(projection(layer, d_.names.up, n, k, bias));
  }
  std::vector<ColumnSegment> columns;
  for (int64_t begin = 0; begin < n; begin += jit::kColumnBlock) {
    const int64_t count = std::min(jit::kColumnBlock, n - begin);
    for (int64_t start : {begin, n + begin}) {
      columns.push_back({0, start, count});
      if (count < jit::kColumnBlock) columns.push_back({-1, 0, jit::kColumnBlock - count});
    }
  }
  return select(parts, columns);
}

Projection Weights::down(int64_t layer) {
  return projection(layer, d_.names.down, d_.hidden, d_.mlp, d_.biases.mlp);
}

void Weights::refuse_untaken() const {
  const std::string head = full_name(kOutside, d_.names.head, ".weight");
  for (const std::string& name : checkpoint_.untaken()) {
    if (is_buffer(name) || (d_.tied && name == head)) continue;
    fail("{}: the tensor '{}' has no place in the description of {}, so the model is another one.",
         checkpoint_.path(), name, d_.family);
  }
}

}  // namespace nibble::frontends::decoder
