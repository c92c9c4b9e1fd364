#include <algorithm>
#include <cmath>
#include <utility>

#include "graph/interpreter_broadcast.h"
#include "graph/interpreter_ops.h"
#include "graph/ops.h"
#include "jit/error.h"

namespace nibble::graph {

// Columns in blocks whose rows of c stay in L1; four k at a time, so that c is loaded and stored
// once for four products (added in order: unrolling changes no bits).
void multiply(const float* a, const float* b, float* c, int64_t m, int64_t k, int64_t n) {
  constexpr int64_t kBlock = 256;
  spend(m * k * n);
  std::fill(c, c + m * n, 0.0F);
  for (int64_t j0 = 0; j0 < n; j0 += kBlock) {
    const int64_t width = std::min(kBlock, n - j0);
    for (int64_t i = 0; i < m; ++i) {
      const float* row = a + i * k;
      float* __restrict to = c + i * n + j0;
      int64_t kk = 0;
      for (; kk + 4 <= k; kk += 4) {
        const float* __restrict b0 = b + kk * n + j0;
        const float* __restrict b1 = b0 + n;
        const float* __restrict b2 = b1 + n;
        const float* __restrict b3 = b2 + n;
        const float a0 = row[kk], a1 = row[kk + 1], a2 = row[kk + 2], a3 = row[kk + 3];
        for (int64_t j = 0; j < width; ++j) {
          to[j] = (((to[j] + a0 * b0[j]) + a1 * b1[j]) + a2 * b2[j]) + a3 * b3[j];
        }
      }
      for (; kk < k; ++kk) {
        const float* __restrict line = b + kk * n + j0;
        for (int64_t j = 0; j < width; ++j) to[j] += row[kk] * line[j];
      }
    }
  }
}

namespace {

Array product(const Array& left, const Array& right) {
  const auto a = left.floats(), b = right.floats();
  Shape sa = left.shape, sb = right.shape;
  if (sa.empty() || sb.empty()) fail("A scalar is no matrix.");
  const bool row = sa.size() == 1, column = sb.size() == 1;
  if (row) sa.insert(sa.begin(), 1);
  if (column) sb.push_back(1);
  const int64_t m = sa[sa.size() - 2], k = sa.back(), n = sb.back();
  if (sb[sb.size() - 2] != k) {
    fail("Matrices of shapes {} and {} cannot be multiplied.", to_string(left.shape),
         to_string(right.shape));
  }
  const Shape batch_a(sa.begin(), sa.end() - 2), batch_b(sb.begin(), sb.end() - 2);
  const Shape batch = broadcast_shape(batch_a, batch_b);
  Shape shape = batch;
  if (!row) shape.push_back(m);
  if (!column) shape.push_back(n);
  std::vector<float> c(static_cast<size_t>(array_size(shape)));
  const bool shared = element_count(batch_b) == 1;  // one right matrix: all rows are one matrix
  if (shared && element_count(batch) == element_count(batch_a)) {
    multiply(a.data(), b.data(), c.data(), element_count(batch) * m, k, n);
    return Array::of(std::move(shape), std::move(c));
  }
  const LoopNest<2> loop(batch,
                         {broadcast_strides(batch_a, batch), broadcast_strides(batch_b, batch)});
  loop.run([&](int64_t at, const auto& offsets, int64_t count, const auto& steps) {
    for (int64_t j = 0; j < count; ++j) {
      multiply(a.data() + (offsets[0] + j * steps[0]) * m * k,
               b.data() + (offsets[1] + j * steps[1]) * k * n, c.data() + (at + j) * m * n, m, k,
               n);
    }
  });
  return Array::of(std::move(shape), std::move(c));
}

Outputs op_matmul(const OpCall& call) { return {product(call.in(0), call.in(1))}; }

// The last two dimensions change places.
Array transposed(const Array& x) {
  const size_t rank = x.shape.size();
  if (rank < 2) fail("An array of shape {} is no matrix to transpose.", to_string(x.shape));
  Shape shape = x.shape, strides(rank, 1);
  for (size_t d = rank - 1; d-- > 0;) strides[d] = strides[d + 1] * x.shape[d + 1];
  std::swap(shape[rank - 1], shape[rank - 2]);
  std::swap(strides[rank - 1], strides[rank - 2]);
  return strided_copy(x, shape, strides, 0);
}

void scale(std::vector<float>& values, float factor) {
  if (factor == 1.0F) return;
  for (float& value : values) value *= factor;
}

// alpha * a * b, with a and b transposed or not: what onnxruntime makes of Transpose, MatMul, Mul.
Outputs op_fused_matmul(const OpCall& call) {
  const Node& node = call.node;
  for (const char* key : {"transBatchA", "transBatchB"}) {
    if (node.get_int(key, 0) != 0) fail("{} is not supported.", key);
  }
  const bool swap_a = node.get_int("transA", 0) != 0, swap_b = node.get_int("transB", 0) != 0;
  const Array &a = call.in(0), &b = call.in(1);
  const Array c = product(swap_a ? transposed(a) : a, swap_b ? transposed(b) : b);
  std::vector<float> scaled(c.floats().begin(), c.floats().end());
  scale(scaled, node.get_float("alpha", 1.0F));
  return {Array::of(c.shape, std::move(scaled))};
}

// alpha * a * b + beta * c
Outputs op_gemm(const OpCall& call) {
  const Node& node = call.node;
  Array a = call.in(0), b = call.in(1);
  if (a.shape.size() != 2 || b.shape.size() != 2) {
    fail("Operands of shapes {} and {} are not both matrices.", to_string(a.shape),
         to_string(b.shape));
  }
  if (node.get_int("transA", 0) != 0) a = transposed(a);
  if (node.get_int("transB", 0) != 0) b = transposed(b);
  const int64_t m = a.shape[0], k = a.shape[1], n = b.shape[1];
  if (b.shape[0] != k) {
    fail("Matrices of shapes {} and {} cannot be multiplied.", to_string(a.shape),
         to_string(b.shape));
  }
  const Shape shape{m, n};
  std::vector<float> c(static_cast<size_t>(array_size(shape)));
  multiply(a.floats().data(), b.floats().data(), c.data(), m, k, n);
  const float alpha = node.get_float("alpha", 1.0F), beta = node.get_float("beta", 1.0F);
  scale(c, alpha);
  if (const Array* added = call.optional(2)) {
    const auto from = added->floats();
    if (broadcast_shape(shape, added->shape) != shape) {
      fail("A bias of shape {} does not fit a product of shape {}.", to_string(added->shape),
           to_string(shape));
    }
    const Shape strides = broadcast_strides(added->shape, shape);
    for (int64_t i = 0; i < m; ++i) {
      for (int64_t j = 0; j < n; ++j) {
        c[static_cast<size_t>(i * n + j)] +=
            beta * from[static_cast<size_t>(i * strides[0] + j * strides[1])];
      }
    }
  }
  return {Array::of(shape, std::move(c))};
}

// A Gemm and the activation after it.
Outputs op_fused_gemm(const OpCall& call) {
  const std::string name = call.node.get_string("activation", "");
  const auto apply = [&](float (*function)(float)) {
    const Outputs made = op_gemm(call);
    std::vector<float> values(made[0].floats().begin(), made[0].floats().end());
    for (float& value : values) value = function(value);
    return Outputs{Array::of(made[0].shape, std::move(values))};
  };
  if (name == "Relu") return apply([](float x) { return std::max(x, 0.0F); });
  if (name == "Tanh") return apply([](float x) { return std::tanh(x); });
  if (name == "Sigmoid") return apply([](float x) { return 1 / (1 + std::exp(-x)); });
  fail("Its activation is \"{}\", expected Relu, Tanh or Sigmoid.", name);
}

constexpr OpEntry kMatmulOps[] = {
    {"", "MatMul", op_matmul},
    {"", "Gemm", op_gemm},
    {kMicrosoftDomain, "FusedMatMul", op_fused_matmul},
    {kMicrosoftDomain, "FusedGemm", op_fused_gemm},
};

}  // namespace

std::span<const OpEntry> matmul_ops() { return kMatmulOps; }

}  // namespace nibble::graph
