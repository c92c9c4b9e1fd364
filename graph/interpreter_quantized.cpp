// Quantized weights as the interpreter meets them in a graph that is not fused: dequantized to
// fp32, then as any float. The general DequantizeLinear of arrays is here too.
#include <algorithm>
#include <cmath>

#include "graph/interpreter_nibble.h"
#include "graph/ops.h"
#include "graph/quantized_nodes.h"
#include "jit/error.h"

namespace nibble::graph {
namespace {

// x W^T (+ bias) over the dequantized weight.
Outputs op_matmul_nbits(const OpCall& call) {
  const Array& x = call.in(0);
  const SharedMatrix matrix = matmul_nbits_weight(call.graph, call.node);
  const RowShape shape = row_shape(x);
  if (shape.width != matrix->k) {
    fail("Rows of {} do not fit a weight with K = {}.", shape.width, matrix->k);
  }
  const float* bias = weight_floats(call, 5, matrix->n);
  const std::vector<float> weight = MatrixSource::whole(matrix).to_k_major();
  Shape out_shape = x.shape;
  out_shape.back() = matrix->n;
  std::vector<float> out(static_cast<size_t>(array_size(out_shape)));
  multiply(x.floats().data(), weight.data(), out.data(), shape.rows, matrix->k, matrix->n);
  for (size_t i = 0; bias != nullptr && i < out.size(); ++i) {
    out[i] += bias[i % static_cast<size_t>(matrix->n)];
  }
  return {Array::of(std::move(out_shape), std::move(out))};
}

Outputs op_gather_block_quantized(const OpCall& call) {
  const Array& ids = call.in(1);
  const SharedMatrix table = gather_block_table(call.graph, call.node);
  Shape shape = ids.shape;
  shape.push_back(table->k);
  std::vector<float> out(static_cast<size_t>(array_size(shape)));
  float* row = out.data();
  for (int64_t id : ids.ints()) {
    if (id < -table->n || id >= table->n) {
      fail("The index {} is outside a table of {} rows.", id, table->n);
    }
    if (id < 0) id += table->n;
    table->read_column(id, {row, static_cast<size_t>(table->k)});
    row += table->k;
  }
  return {Array::of(std::move(shape), std::move(out))};
}

// y = (x - zero) * scale; the scale is one number, one a place along the axis, or one a block of
// places along it.
Outputs op_dequantize_linear(const OpCall& call) {
  const Array &x = call.in(0), &scale = call.in(1);
  const Array* zero = call.optional(2);
  const bool single = scale.size() == 1;
  constexpr int64_t kMostBlock = int64_t{1} << 40;
  const int64_t block = std::min(call.node.get_int("block_size", 0), kMostBlock);
  const size_t axis =
      single && block == 0 ? 0 : normal_axis(call.node.get_int("axis", 1), x.shape.size());
  int64_t inner = 1;
  for (size_t d = axis + 1; d < x.shape.size(); ++d) inner *= x.shape[d];
  const int64_t length = x.shape.empty() ? 1 : x.shape[axis];
  const int64_t scales = block > 0 ? (length + block - 1) / block : length;
  const int64_t outer = length == 0 ? 0 : x.size() / (inner * length);
  if (!single && scale.size() != (block > 0 ? outer * scales * inner : scales)) {
    fail("Scales of shape {} do not fit axis {} of {} in blocks of {}.", to_string(scale.shape),
         axis, to_string(x.shape), block);
  }
  if (zero != nullptr && zero->size() != scale.size()) {
    fail("Zero points of shape {} do not fit scales of shape {}.", to_string(zero->shape),
         to_string(scale.shape));
  }
  std::vector<float> out(static_cast<size_t>(x.size()));
  for (int64_t i = 0; i < x.size(); ++i) {
    const int64_t place = i / inner % length;
    int64_t at = single ? 0 : place;
    if (!single && block > 0)
      at = (i / (inner * length) * scales + place / block) * inner + i % inner;
    const int64_t z = zero != nullptr ? zero->ints()[static_cast<size_t>(at)] : 0;
    out[static_cast<size_t>(i)] = static_cast<float>(x.ints()[static_cast<size_t>(i)] - z) *
                                  scale.floats()[static_cast<size_t>(at)];
  }
  return {Array::of(x.shape, std::move(out))};
}

// y = round(x / scale) + zero in 0..255, over the whole array.
Outputs op_dynamic_quantize_linear(const OpCall& call) {
  const Array& x = call.in(0);
  float low = 0, high = 0;
  for (const float value : x.floats()) {
    low = std::min(low, value);
    high = std::max(high, value);
  }
  const float scale = (high - low) / 255;
  const auto clamped = [](float value) {
    return static_cast<int64_t>(std::clamp(std::nearbyint(value), 0.0F, 255.0F));
  };
  const int64_t zero = scale > 0 ? clamped(-low / scale) : 0;
  std::vector<int64_t> out;
  for (const float value : x.floats()) {
    out.push_back(scale > 0 ? clamped(std::nearbyint(value / scale) + static_cast<float>(zero))
                            : zero);
  }
  return {Array::of(x.shape, std::move(out)), Array::of({}, std::vector<float>{scale}),
          Array::of({}, std::vector<int64_t>{zero})};
}

// (a - a_zero) (b - b_zero), integers; b is a matrix, whose zero point may be one a column.
Outputs op_matmul_integer(const OpCall& call) {
  const Array &a = call.in(0), &b = call.in(1);
  const Array *a_zero = call.optional(2), *b_zero = call.optional(3);
  const RowShape rows = row_shape(a);
  if (b.shape.size() != 2 || b.shape[0] != rows.width ||
      (a_zero != nullptr && a_zero->size() != 1) ||
      (b_zero != nullptr && b_zero->size() != 1 && b_zero->size() != b.shape[1])) {
    fail("Integers of shape {} cannot be multiplied by {}.", to_string(a.shape),
         to_string(b.shape));
  }
  const int64_t k = b.shape[0], n = b.shape[1];
  const int64_t za = a_zero != nullptr ? a_zero->ints()[0] : 0;
  Shape shape = a.shape;
  shape.back() = n;
  std::vector<int64_t> out(static_cast<size_t>(array_size(shape, sizeof(int64_t))), 0);
  for (int64_t r = 0; r < rows.rows; ++r) {
    for (int64_t kk = 0; kk < k; ++kk) {
      const int64_t left = a.ints()[static_cast<size_t>(r * k + kk)] - za;
      for (int64_t c = 0; c < n; ++c) {
        const int64_t zb = b_zero == nullptr
                               ? 0
                               : b_zero->ints()[static_cast<size_t>(b_zero->size() == 1 ? 0 : c)];
        out[static_cast<size_t>(r * n + c)] +=
            left * (b.ints()[static_cast<size_t>(kk * n + c)] - zb);
      }
    }
  }
  return {Array::of(std::move(shape), std::move(out))};
}

constexpr OpEntry kQuantizedOps[] = {
    {kMicrosoftDomain, "MatMulNBits", op_matmul_nbits},
    {kMicrosoftDomain, "GatherBlockQuantized", op_gather_block_quantized},
    {kMicrosoftDomain, "DequantizeLinear", op_dequantize_linear},
    {"", "DequantizeLinear", op_dequantize_linear},
    {"", "DynamicQuantizeLinear", op_dynamic_quantize_linear},
    {"", "MatMulInteger", op_matmul_integer},
};

}  // namespace

std::span<const OpEntry> quantized_ops() { return kQuantizedOps; }

}  // namespace nibble::graph
