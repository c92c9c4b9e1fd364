#include "quant/solvers/sign_round_gram.h"

#include <algorithm>
#include <limits>
#include <vector>

#include "jit/error.h"
#include "quant/products/dense_matmul.h"
#include "quant/products/parallel_rows.h"

namespace nibble::quant {
namespace {

constexpr int64_t kTunedRows = 4096;  // bounds the memory; rows do not know of each other

// Rows [first, first + n) of the matrix and all that changes while they are tuned.
struct Part {
  std::span<const float> w;  // [n][k]
  int64_t first, n, k;
  SignRoundParams params;
  SignRoundGradients gradients;
  std::vector<float> difference;  // W' - W
  std::vector<float> drift;       // W XX - W X0X, empty where x0 = x
  std::vector<double> losses, best;
};

// drift = W (XX - X0X).
void find_drift(Part& part, const InputStats& stats, std::span<const float> x0x,
                runtime::ThreadPool& pool) {
  const int64_t k = part.k;
  std::vector<float> change(x0x.size());
  for_each_row(pool, k, [&](int64_t row, int) {
    for (int64_t i = row * k; i < (row + 1) * k; ++i) {
      const auto at = static_cast<size_t>(i);
      change[at] = stats.gram[at] - x0x[at];
    }
  });
  part.drift.resize(part.w.size());
  matmul(pool, {part.w.data(), part.n, k, k}, false, {change.data(), k, k, k}, false,
         {part.drift.data(), part.n, k, k}, false);
}

// The loss of every row, and dL/dW' / 2 in gradients.v.
void evaluate(Part& part, const InputStats& stats, runtime::ThreadPool& pool) {
  sign_round_forward(part.w, part.params, part.difference, pool);
  for_each_row(pool, part.n, [&](int64_t row, int) {
    for (int64_t i = row * part.k; i < (row + 1) * part.k; ++i) {
      part.difference[static_cast<size_t>(i)] -= part.w[static_cast<size_t>(i)];
    }
  });
  row_errors_and_products(part.difference, part.n, part.k, stats.gram, pool, part.losses,
                          part.gradients.v);
  if (part.drift.empty()) return;
  for_each_row(pool, part.n, [&](int64_t row, int) {
    double sum = 0;
    for (int64_t i = row * part.k; i < (row + 1) * part.k; ++i) {
      const auto at = static_cast<size_t>(i);
      sum += static_cast<double>(part.difference[at]) * part.drift[at];
      part.gradients.v[at] += part.drift[at];
    }
    part.losses[static_cast<size_t>(row)] += 2 * sum;
  });
}

void keep_best(Part& part, SolvedMatrix& solved, runtime::ThreadPool& pool) {
  for_each_row(pool, part.n, [&](int64_t row, int) {
    const auto at = static_cast<size_t>(row);
    if (!(part.losses[at] < part.best[at])) return;
    part.best[at] = part.losses[at];
    sign_round_store(part.w, part.params, row, solved, part.first + row);
  });
}

void tune(Part& part, const SignRoundOptions& options, const InputStats& stats,
          SignRoundResult& result, runtime::ThreadPool& pool, const Steps& steps) {
  const float rate =
      options.rate > 0 ? options.rate : 1.0F / static_cast<float>(std::max(1, options.iterations));
  for (int t = 0;; ++t) {
    tell(steps, static_cast<double>(t) / static_cast<double>(options.iterations + 1));
    evaluate(part, stats, pool);
    if (t == 0) {
      for (const double loss : part.losses) result.start += loss;
    }
    keep_best(part, result.matrix, pool);
    if (t == options.iterations) break;
    sign_round_backward(part.w, part.params, part.gradients.v, part.gradients, pool);
    const float left = 1.0F - static_cast<float>(t) / static_cast<float>(options.iterations);
    sign_round_step(part.params, part.gradients, rate * left, options.range, pool);
  }
  for (const double loss : part.best) result.best += loss;
}

}  // namespace

SignRoundResult solve_sign_round(std::span<const float> w, int64_t n, int64_t k,
                                 const jit::WeightFormat& format, const SignRoundOptions& options,
                                 const InputStats& stats, std::span<const float> x0x,
                                 runtime::ThreadPool& pool) {
  check_stats(stats, k);
  check_weights(w, n, k, pool);
  if (!x0x.empty() && x0x.size() != stats.gram.size()) {
    fail("Products of the inputs before and after have {} elements, expected {} x {}.", x0x.size(),
         k, k);
  }
  if (options.iterations < 0 || !(options.rate >= 0)) {
    fail("{} iterations at a rate of {} are not possible, expected at least 0 of both.",
         options.iterations, options.rate);
  }
  SignRoundResult result;
  result.matrix = make_solved(format, n, k);
  for (int64_t first = 0; first < n; first += kTunedRows) {
    const int64_t rows = std::min(kTunedRows, n - first);
    const auto count = static_cast<size_t>(rows * k);
    const std::span<const float> values = w.subspan(static_cast<size_t>(first * k), count);
    Part part{.w = values,
              .first = first,
              .n = rows,
              .k = k,
              .params = make_sign_round(values, rows, k, format, pool),
              .gradients = {},
              .difference = std::vector<float>(count),
              .drift = {},
              .losses = std::vector<double>(static_cast<size_t>(rows)),
              .best = std::vector<double>(static_cast<size_t>(rows),
                                          std::numeric_limits<double>::infinity())};
    part.gradients = make_gradients(part.params);
    if (!x0x.empty()) find_drift(part, stats, x0x, pool);
    const auto all = static_cast<double>(n);
    tune(part, options, stats, result, pool,
         part_of(options.steps, static_cast<double>(first) / all,
                 static_cast<double>(first + rows) / all));
    for (size_t row = 0; row < part.best.size(); ++row) {
      if (part.best[row] < std::numeric_limits<double>::infinity()) continue;
      fail("Column {} has no finite error on these inputs.", first + static_cast<int64_t>(row));
    }
  }
  return result;
}

}  // namespace nibble::quant
