#include "quant/solvers/cholesky.h"

#include <algorithm>
#include <cmath>
#include <limits>
#include <vector>

#include "jit/error.h"
#include "quant/products/parallel_rows.h"

namespace nibble::quant {
namespace {

constexpr int64_t kDiagonalBlock = 128;
constexpr double kNoise = 4 * std::numeric_limits<float>::epsilon();  // of a diagonal element
constexpr int64_t kStrip = 512;  // rows of the inverse that are multiplied at a time

void check_square(const Matrix& a) {
  if (a.rows == a.columns && a.rows >= 0 && a.stride >= a.columns) return;
  fail("A matrix of {} x {} with {} elements between rows is factorised, expected a square one.",
       a.rows, a.columns, a.stride);
}

Matrix part(const Matrix& a, int64_t row, int64_t column, int64_t rows, int64_t columns) {
  return {a.data + row * a.stride + column, rows, columns, a.stride};
}

// A block of the diagonal in double, [size][size].
struct DiagonalBlock {
  int64_t size;
  std::vector<double> data;

  explicit DiagonalBlock(const Matrix& a)
      : size(a.rows), data(static_cast<size_t>(a.rows * a.rows)) {
    for (int64_t r = 0; r < size; ++r) {
      for (int64_t c = 0; c <= r; ++c) at(r, c) = a.data[r * a.stride + c];
    }
  }
  double& at(int64_t r, int64_t c) { return data[static_cast<size_t>(r * size + c)]; }
  const double* row(int64_t r) const { return data.data() + r * size; }

  void store(const Matrix& a) {
    for (int64_t r = 0; r < size; ++r) {
      for (int64_t c = 0; c < size; ++c) {
        a.data[r * a.stride + c] = c <= r ? static_cast<float>(at(r, c)) : 0.0F;
      }
    }
  }
};

double dot(const double* a, const double* b, int64_t count) {
  double sums[4] = {0, 0, 0, 0};
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    for (int j = 0; j < 4; ++j) sums[j] += a[i + j] * b[i + j];
  }
  for (; i < count; ++i) sums[0] += a[i] * b[i];
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

// `diagonal` is what the matrix had before the columns to the left were taken off.
std::optional<BadPivot> factorise(DiagonalBlock& block, const std::vector<float>& diagonal) {
  for (int64_t r = 0; r < block.size; ++r) {
    for (int64_t c = 0; c < r; ++c) {
      block.at(r, c) = (block.at(r, c) - dot(block.row(r), block.row(c), c)) / block.at(c, c);
    }
    const double pivot = block.at(r, r) - dot(block.row(r), block.row(r), r);
    const double noise = kNoise * std::fabs(diagonal[static_cast<size_t>(r)]);
    if (!(pivot > noise) || !std::isfinite(pivot)) return BadPivot{r, pivot};
    block.at(r, r) = std::sqrt(pivot);
  }
  return std::nullopt;
}

// Row by row: x_r = (e_r - sum over i < r of l_ri x_i) / l_rr.
void invert(DiagonalBlock& block) {
  std::vector<double> row(static_cast<size_t>(block.size));
  for (int64_t r = 0; r < block.size; ++r) {
    std::fill(row.begin(), row.end(), 0.0);
    for (int64_t i = 0; i < r; ++i) {
      const double factor = block.at(r, i);
      const double* above = block.row(i);
      for (int64_t c = 0; c <= i; ++c) row[static_cast<size_t>(c)] -= factor * above[c];
    }
    const double inverse = 1 / block.at(r, r);
    for (int64_t c = 0; c < r; ++c) block.at(r, c) = row[static_cast<size_t>(c)] * inverse;
    block.at(r, r) = inverse;
  }
}

void copy_negated(runtime::ThreadPool& pool, const Matrix& from, float* to) {
  for_each_row(pool, from.rows, [&](int64_t r, int) {
    const float* row = from.data + r * from.stride;
    for (int64_t c = 0; c < from.columns; ++c) to[r * from.columns + c] = -row[c];
  });
}

}  // namespace

// Column blocks from left to right: each takes off the product of what lies to its left in one
// multiplication, and is written once.
std::optional<BadPivot> cholesky(runtime::ThreadPool& pool, Matrix a, const Steps& steps) {
  check_square(a);
  const int64_t k = a.rows;
  std::vector<float> left(static_cast<size_t>(std::min(k, kDiagonalBlock) * k));
  std::vector<float> inverse(static_cast<size_t>(kDiagonalBlock * kDiagonalBlock));
  std::vector<float> below(left.size());
  for (int64_t j = 0; j < k; j += kDiagonalBlock) {
    const int64_t width = std::min(kDiagonalBlock, k - j), rest = k - j - width;
    tell(steps, static_cast<double>(j) / static_cast<double>(k));
    std::vector<float> diagonal;
    for (int64_t i = j; i < j + width; ++i) diagonal.push_back(a.data[i * a.stride + i]);
    if (j > 0) {
      copy_negated(pool, part(a, j, 0, width, j), left.data());
      matmul(pool, part(a, j, 0, k - j, j), false, {left.data(), width, j, j}, true,
             part(a, j, j, k - j, width), true);
    }
    DiagonalBlock block(part(a, j, j, width, width));
    if (const auto bad = factorise(block, diagonal)) return BadPivot{j + bad->index, bad->value};
    block.store(part(a, j, j, width, width));
    for (int64_t r = 0; r < j; ++r) std::fill_n(a.data + r * a.stride + j, width, 0.0F);
    if (rest == 0) continue;
    invert(block);
    const Matrix inverted{inverse.data(), width, width, width};
    block.store(inverted);
    const Matrix panel = part(a, j + width, j, rest, width);
    for_each_row(pool, rest, [&](int64_t r, int) {
      std::copy_n(panel.data + r * panel.stride, width, below.data() + r * width);
    });
    matmul(pool, {below.data(), rest, width, width}, false, inverted, true, panel, false);
  }
  return std::nullopt;
}

// Column blocks from right to left: with X = L^-1, X_below,j = -X_below,below L_below,j X_jj.
void invert_lower(runtime::ThreadPool& pool, Matrix l, const Steps& steps) {
  check_square(l);
  const int64_t k = l.rows;
  if (k == 0) return;
  std::vector<float> turned(static_cast<size_t>(std::min(k, kDiagonalBlock) * k));
  std::vector<float> inverse(static_cast<size_t>(kDiagonalBlock * kDiagonalBlock));
  for (int64_t j = (k - 1) / kDiagonalBlock * kDiagonalBlock; j >= 0; j -= kDiagonalBlock) {
    const int64_t width = std::min(kDiagonalBlock, k - j), below = j + width, rest = k - below;
    tell(steps, static_cast<double>(rest) / static_cast<double>(k));
    DiagonalBlock block(part(l, j, j, width, width));
    invert(block);
    block.store(part(l, j, j, width, width));
    if (rest == 0) continue;
    const Matrix negated{inverse.data(), width, width, width};
    copy_negated(pool, part(l, j, j, width, width), negated.data);
    const Matrix product{turned.data(), rest, width, width};
    matmul(pool, part(l, below, j, rest, width), false, negated, false, product, false);
    for (int64_t r = 0; r < rest; r += kStrip) {
      const int64_t rows = std::min(kStrip, rest - r), depth = r + rows;
      matmul(pool, part(l, below + r, below, rows, depth), false,
             {turned.data(), depth, width, width}, false, part(l, below + r, j, rows, width),
             false);
    }
  }
}

std::optional<BadPivot> upper_factor_of_inverse(runtime::ThreadPool& pool, Matrix h,
                                                const Steps& steps) {
  check_square(h);
  if (h.stride != h.columns) {
    fail("A matrix of {} columns has {} elements between rows, expected a contiguous one.",
         h.columns, h.stride);
  }
  // Both orders of the indices reversed: the whole array backwards.
  const auto reverse = [&] { std::reverse(h.data, h.data + h.rows * h.columns); };
  reverse();
  if (const auto bad = cholesky(pool, h, part_of(steps, 0, 0.5)))
    return BadPivot{h.rows - 1 - bad->index, bad->value};
  invert_lower(pool, h, part_of(steps, 0.5, 1));
  reverse();
  return std::nullopt;
}

}  // namespace nibble::quant
