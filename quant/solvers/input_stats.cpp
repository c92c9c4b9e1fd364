#include "quant/solvers/input_stats.h"

#include <algorithm>
#include <cmath>

#include "jit/error.h"
#include "quant/products/dense_matmul.h"
#include "quant/products/parallel_rows.h"

namespace nibble::quant {
namespace {

constexpr int64_t kRowsAtATime = 4096;  // the Gram matrix is packed once for each

double dot(const float* a, const float* b, int64_t count) {
  double sums[4] = {0, 0, 0, 0};
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    for (int j = 0; j < 4; ++j) sums[j] += static_cast<double>(a[i + j]) * b[i + j];
  }
  for (; i < count; ++i) sums[0] += static_cast<double>(a[i]) * b[i];
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

size_t elements(int64_t rows, int64_t columns) { return static_cast<size_t>(rows * columns); }

}  // namespace

void check_stats(const InputStats& stats, int64_t k) {
  if (stats.k != k || stats.gram.size() != elements(k, k) ||
      stats.mean_abs.size() != static_cast<size_t>(k)) {
    fail(
        "Statistics of {} inputs with {} products and {} means do not fit weights of {} inputs: "
        "expected {} and {}.",
        stats.k, stats.gram.size(), stats.mean_abs.size(), k, k * k, k);
  }
  for (int64_t i = 0; i < k; ++i) {
    const float square = stats.gram[elements(i, k + 1)];
    if (std::isfinite(square) && square >= 0) continue;
    fail("The sum of squares of input {} is {}, expected a finite number that is not negative.", i,
         square);
  }
}

std::vector<float> diagonal_weights(const InputStats& stats) {
  std::vector<float> weights(static_cast<size_t>(stats.k));
  float largest = 0;
  for (int64_t i = 0; i < stats.k; ++i) {
    weights[static_cast<size_t>(i)] = stats.gram[elements(i, stats.k + 1)];
    largest = std::max(largest, weights[static_cast<size_t>(i)]);
  }
  if (largest == 0) return {};
  for (float& weight : weights) weight /= largest;
  return weights;
}

void row_errors(std::span<const float> d, int64_t n, int64_t k, std::span<const float> gram,
                runtime::ThreadPool& pool, std::span<double> out, std::span<float> product) {
  if (d.size() != elements(n, k) || gram.size() != elements(k, k) ||
      out.size() != static_cast<size_t>(n) || (!product.empty() && product.size() != d.size())) {
    fail("Errors of {} weights by {} products do not fit a matrix of {} x {}.", d.size(),
         gram.size(), n, k);
  }
  std::vector<float> own;
  if (product.empty()) own.resize(elements(std::min(n, kRowsAtATime), k));
  for (int64_t begin = 0; begin < n; begin += kRowsAtATime) {
    const int64_t rows = std::min(kRowsAtATime, n - begin);
    const float* a = d.data() + begin * k;
    float* p = product.empty() ? own.data() : product.data() + begin * k;
    matmul(pool, {a, rows, k, k}, false, {gram.data(), k, k, k}, false, {p, rows, k, k}, false);
    for_each_row(pool, rows, [&](int64_t row, int) {
      out[static_cast<size_t>(begin + row)] = dot(a + row * k, p + row * k, k);
    });
  }
}

OutputError output_error(std::span<const float> w, std::span<const float> changed, int64_t n,
                         int64_t k, std::span<const float> gram, runtime::ThreadPool& pool) {
  if (w.size() != elements(n, k) || changed.size() != w.size()) {
    fail("Weights of {} and {} elements are compared, expected {} x {} both.", w.size(),
         changed.size(), n, k);
  }
  std::vector<double> errors(static_cast<size_t>(n)), whole(static_cast<size_t>(n));
  std::vector<float> difference(elements(std::min(n, kRowsAtATime), k));
  for (int64_t begin = 0; begin < n; begin += kRowsAtATime) {
    const int64_t rows = std::min(kRowsAtATime, n - begin);
    const size_t count = elements(rows, k), first = elements(begin, k);
    for_each_row(pool, rows, [&](int64_t row, int) {
      for (int64_t i = row * k; i < (row + 1) * k; ++i) {
        const auto at = static_cast<size_t>(i);
        difference[at] = changed[first + at] - w[first + at];
      }
    });
    row_errors(std::span(difference).first(count), rows, k, gram, pool,
               std::span(errors).subspan(static_cast<size_t>(begin), static_cast<size_t>(rows)));
  }
  row_errors(w, n, k, gram, pool, whole);
  OutputError error;
  double all = 0;
  for (size_t row = 0; row < errors.size(); ++row) {
    error.sum += errors[row];
    all += whole[row];
  }
  error.relative = error.sum == 0 ? 0 : error.sum / all;
  return error;
}

}  // namespace nibble::quant
