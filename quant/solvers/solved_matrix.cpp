#include "quant/solvers/solved_matrix.h"

#include <algorithm>
#include <cmath>

#include "jit/error.h"
#include "quant/formats/group_grid.h"
#include "quant/formats/nested_scales.h"
#include "quant/products/parallel_rows.h"
#include "quant/products/sizes.h"

namespace nibble::quant {
namespace {

using jit::kColumnBlock;
using jit::WeightFormat;
using jit::WeightType;

void check_sizes(const SolvedMatrix& solved, const GroupShape& shape) {
  const size_t groups = elements(solved.n, shape.groups);
  if (solved.q.size() == elements(solved.n, solved.k) && solved.scales.size() == groups &&
      solved.zeros.size() == groups) {
    return;
  }
  fail(
      "A quantized matrix of {} x {} has {} values, {} scales and {} zero points, expected {}, {} "
      "and {}.",
      solved.n, solved.k, solved.q.size(), solved.scales.size(), solved.zeros.size(),
      solved.n * solved.k, groups, groups);
}

void check_row(const SolvedMatrix& solved, const GroupShape& shape, int64_t row) {
  const int top = jit::top_value(solved.format.type);
  const uint8_t* q = solved.q.data() + row * solved.k;
  const uint8_t* largest = std::max_element(q, q + solved.k);
  if (*largest > top) {
    fail("The quantized weight in column {} at k = {} is {}, expected at most {}.", row,
         largest - q, *largest, top);
  }
  for (int64_t g = 0; g < shape.groups; ++g) {
    const size_t at = elements(row, shape.groups) + static_cast<size_t>(g);
    if (!std::isfinite(solved.scales[at])) {
      fail("The scale of column {}, group {} is {}, expected a finite number.", row, g,
           solved.scales[at]);
    }
    const int zero = solved.zeros[at];
    if (solved.format.asym ? zero > top : zero != symmetric_zero(solved.format)) {
      fail("The zero point of column {}, group {} is {}, which its format cannot hold.", row, g,
           zero);
    }
  }
}

// The scales of one column as they are stored, and of q8 the numbers above them.
struct StoredScales {
  std::vector<float> scales, supers;
};

StoredScales stored_scales(const SolvedMatrix& solved, const GroupShape& shape, int64_t row) {
  StoredScales out;
  const auto first = solved.scales.begin() + row * shape.groups;
  out.scales.assign(first, first + shape.groups);
  if (solved.format.scale != jit::ScaleType::q8) return out;
  out.supers.resize(static_cast<size_t>(solved.k / jit::kSuperBlock));
  const std::span<const uint8_t> q(solved.q.data() + row * solved.k, static_cast<size_t>(solved.k));
  nest_scales(shape.group, symmetric_zero(solved.format), q, out.scales, out.supers);
  return out;
}

}  // namespace

GroupShape group_shape(const WeightFormat& format, int64_t n, int64_t k) {
  if (format.type == WeightType::f32) fail("Weights kept in f32 are not quantized.");
  const jit::PackedShape shape = jit::packed_shape(format, n, k);
  return {k, shape.group, shape.groups};
}

SolvedMatrix make_solved(const WeightFormat& format, int64_t n, int64_t k) {
  const GroupShape shape = group_shape(format, n, k);
  SolvedMatrix solved{.format = format, .n = n, .k = k, .q = {}, .scales = {}, .zeros = {}};
  solved.q.resize(elements(n, k));
  solved.scales.resize(elements(n, shape.groups));
  solved.zeros.resize(elements(n, shape.groups));
  return solved;
}

runtime::PackedMatrix pack(const SolvedMatrix& solved, runtime::ThreadPool& pool) {
  const GroupShape shape = group_shape(solved.format, solved.n, solved.k);
  check_sizes(solved, shape);
  runtime::PackedBuffer buffer =
      runtime::allocate_packed(solved.format, solved.n, solved.k, &pool.placement());
  const int64_t kpad = jit::packed_shape(solved.format, solved.n, solved.k).kpad;
  std::vector<std::vector<uint8_t>> rooms(static_cast<size_t>(pool.size()));
  const int64_t blocks = (solved.n + kColumnBlock - 1) / kColumnBlock;
  for_each_row(pool, blocks, [&](int64_t block, int thread) {
    std::vector<uint8_t>& q = rooms[static_cast<size_t>(thread)];
    q.resize(elements(kColumnBlock, kpad));
    std::vector<float> scales, supers;
    const int64_t first = block * kColumnBlock;
    const int64_t count = std::min(kColumnBlock, solved.n - first);
    for (int64_t c = 0; c < count; ++c) {
      check_row(solved, shape, first + c);
      // k past the end holds the zero point.
      const uint8_t zero = solved.zeros[elements(first + c + 1, shape.groups) - 1];
      uint8_t* row = q.data() + c * kpad;
      std::fill(std::copy_n(solved.q.data() + (first + c) * solved.k, solved.k, row), row + kpad,
                zero);
      const StoredScales stored = stored_scales(solved, shape, first + c);
      scales.insert(scales.end(), stored.scales.begin(), stored.scales.end());
      supers.insert(supers.end(), stored.supers.begin(), stored.supers.end());
    }
    jit::pack_block(solved.format, solved.n, solved.k, block, q.data(), scales.data(),
                    solved.zeros.data() + first * shape.groups, buffer.data, buffer.scales,
                    buffer.zeros, nullptr, {supers.data(), nullptr});
  });
  return std::move(buffer.matrix);
}

std::vector<float> dequantize(const SolvedMatrix& solved, runtime::ThreadPool& pool) {
  const GroupShape shape = group_shape(solved.format, solved.n, solved.k);
  check_sizes(solved, shape);
  std::vector<float> w(elements(solved.n, solved.k));
  for_each_row(pool, solved.n, [&](int64_t row, int) {
    const uint8_t* q = solved.q.data() + row * solved.k;
    float* out = w.data() + row * solved.k;
    const StoredScales stored = stored_scales(solved, shape, row);
    for (int64_t g = 0; g < shape.groups; ++g) {
      const int zero = solved.zeros[elements(row, shape.groups) + static_cast<size_t>(g)];
      const float scale = stored.scales[static_cast<size_t>(g)];
      for (int64_t i = shape.begin(g); i < shape.end(g); ++i) {
        out[i] = static_cast<float>(q[i] - zero) * scale;
      }
    }
  });
  return w;
}

void check_weights(std::span<const float> w, int64_t n, int64_t k, runtime::ThreadPool& pool) {
  if (n < 1 || k < 1 || w.size() != elements(n, k)) {
    fail("A weight matrix of {} x {} has {} elements, expected {}.", n, k, w.size(), n * k);
  }
  for_each_row(pool, n, [&](int64_t row, int) {
    const float* values = w.data() + row * k;
    for (int64_t i = 0; i < k; ++i) {
      if (std::isfinite(values[i])) continue;
      fail("The weight in column {} at k = {} is {}, expected a finite number.", row, i, values[i]);
    }
  });
}

}  // namespace nibble::quant
