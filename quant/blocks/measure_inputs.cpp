#include "quant/blocks/measure_inputs.h"

#include <algorithm>
#include <cmath>

#include "quant/products/dense_matmul.h"

namespace nibble::quant {
namespace {

constexpr int64_t kChannels = 64;  // that a task sums: a few lines of every row

}  // namespace

InputStats measure_inputs(std::span<const float> x, int64_t rows, int64_t k,
                          runtime::ThreadPool& pool, const Steps& steps) {
  InputStats stats{.k = k, .rows = rows, .gram = {}, .mean_abs = {}};
  stats.gram.resize(static_cast<size_t>(k * k));
  gram(pool, {x.data(), rows, k, k}, {stats.gram.data(), k, k, k}, false, steps);
  stats.mean_abs.resize(static_cast<size_t>(k));
  const int64_t tasks = (k + kChannels - 1) / kChannels;
  pool.parallel_for(tasks, [&](int64_t begin, int64_t end, int) {
    for (int64_t task = begin; task < end; ++task) {
      const int64_t first = task * kChannels, count = std::min(kChannels, k - first);
      double sums[kChannels] = {};
      for (int64_t r = 0; r < rows; ++r) {
        const float* row = x.data() + r * k + first;
        for (int64_t c = 0; c < count; ++c) sums[c] += std::fabs(row[c]);
      }
      for (int64_t c = 0; c < count; ++c) {
        stats.mean_abs[static_cast<size_t>(first + c)] =
            static_cast<float>(sums[c] / static_cast<double>(std::max<int64_t>(1, rows)));
      }
    }
  });
  return stats;
}

}  // namespace nibble::quant
