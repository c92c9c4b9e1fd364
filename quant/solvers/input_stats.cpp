#include "quant/solvers/input_stats.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "jit/error.h"
#include "quant/products/dense_matmul.h"
#include "quant/products/parallel_rows.h"
#include "quant/products/sizes.h"

namespace nibble::quant {
namespace {

constexpr int64_t kGramRows = 4096;  // the Gram matrix is packed once for each
constexpr int64_t kPanel = 768;      // columns of the Gram matrix; two tasks of dense_matmul.cpp

double dot_by_fours(const float* a, const float* b, int64_t count) {
  double sums[4] = {0, 0, 0, 0};
  int64_t i = 0;
  for (; i + 4 <= count; i += 4) {
    for (int j = 0; j < 4; ++j) sums[j] += static_cast<double>(a[i + j]) * b[i + j];
  }
  for (; i < count; ++i) sums[0] += static_cast<double>(a[i]) * b[i];
  return (sums[0] + sums[1]) + (sums[2] + sums[3]);
}

void check_sizes(std::span<const float> d, int64_t n, int64_t k, std::span<const float> gram,
                 std::span<const double> out) {
  if (d.size() == elements(n, k) && gram.size() == elements(k, k) &&
      out.size() == static_cast<size_t>(n)) {
    return;
  }
  fail("Errors of {} weights by {} products do not fit a matrix of {} x {}.", d.size(), gram.size(),
       n, k);
}

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
                runtime::ThreadPool& pool, std::span<double> out, const Steps& steps) {
  check_sizes(d, n, k, gram, out);
  std::fill(out.begin(), out.end(), 0.0);
  std::vector<float> product(elements(std::min(n, kGramRows), std::min(k, kPanel)));
  const int64_t panels = (k + kPanel - 1) / kPanel;
  for (int64_t begin = 0; begin < n; begin += kGramRows) {
    const int64_t rows = std::min(kGramRows, n - begin);
    for (int64_t panel = 0; panel < panels; ++panel) {
      const int64_t first = panel * kPanel, width = std::min(kPanel, k - first);
      const double before =
          static_cast<double>(panel * panel) / static_cast<double>(panels * panels);
      tell(steps, (static_cast<double>(begin) + before * static_cast<double>(rows)) /
                      static_cast<double>(n));
      const float* a = d.data() + begin * k;
      // Columns [first, first + width) of the rows of G from `top`, each counted `times`.
      const auto add = [&](int64_t top, int64_t depth, double times) {
        matmul(pool, {a + top, rows, depth, k}, false,
               {gram.data() + top * k + first, depth, width, k}, false,
               {product.data(), rows, width, width}, false);
        for_each_row(pool, rows, [&](int64_t row, int) {
          out[static_cast<size_t>(begin + row)] +=
              times * dot_by_fours(a + row * k + first, product.data() + row * width, width);
        });
      };
      if (first > 0) add(0, first, 2);
      add(first, width, 1);
    }
  }
}

void row_errors_and_products(std::span<const float> d, int64_t n, int64_t k,
                             std::span<const float> gram, runtime::ThreadPool& pool,
                             std::span<double> out, std::span<float> product) {
  check_sizes(d, n, k, gram, out);
  if (product.size() != d.size()) {
    fail("Products of {} weights go into {} numbers.", d.size(), product.size());
  }
  matmul(pool, {d.data(), n, k, k}, false, {gram.data(), k, k, k}, false, {product.data(), n, k, k},
         false);
  for_each_row(pool, n, [&](int64_t row, int) {
    out[static_cast<size_t>(row)] = dot_by_fours(d.data() + row * k, product.data() + row * k, k);
  });
}

double output_square(std::span<const float> w, int64_t n, int64_t k, std::span<const float> gram,
                     runtime::ThreadPool& pool, const Steps& steps) {
  std::vector<double> rows(static_cast<size_t>(n));
  row_errors(w, n, k, gram, pool, rows, steps);
  return std::accumulate(rows.begin(), rows.end(), 0.0);
}

double output_error_sum(std::span<const float> w, std::span<const float> changed, int64_t n,
                        int64_t k, std::span<const float> gram, runtime::ThreadPool& pool,
                        const Steps& steps) {
  if (w.size() != elements(n, k) || changed.size() != w.size()) {
    fail("Weights of {} and {} elements are compared, expected {} x {} both.", w.size(),
         changed.size(), n, k);
  }
  std::vector<double> errors(static_cast<size_t>(n));
  std::vector<float> difference(elements(std::min(n, kGramRows), k));
  for (int64_t begin = 0; begin < n; begin += kGramRows) {
    const int64_t rows = std::min(kGramRows, n - begin);
    const size_t count = elements(rows, k), first = elements(begin, k);
    for_each_row(pool, rows, [&](int64_t row, int) {
      for (int64_t i = row * k; i < (row + 1) * k; ++i) {
        const auto at = static_cast<size_t>(i);
        difference[at] = changed[first + at] - w[first + at];
      }
    });
    const auto all = static_cast<double>(n);
    row_errors(
        std::span(difference).first(count), rows, k, gram, pool,
        std::span(errors).subspan(static_cast<size_t>(begin), static_cast<size_t>(rows)),
        part_of(steps, static_cast<double>(begin) / all, static_cast<double>(begin + rows) / all));
  }
  return std::accumulate(errors.begin(), errors.end(), 0.0);
}

OutputError output_error(std::span<const float> w, std::span<const float> changed, int64_t n,
                         int64_t k, std::span<const float> gram, runtime::ThreadPool& pool) {
  OutputError error;
  error.sum = output_error_sum(w, changed, n, k, gram, pool);
  error.relative = error.sum == 0 ? 0 : error.sum / output_square(w, n, k, gram, pool);
  return error;
}

}  // namespace nibble::quant
