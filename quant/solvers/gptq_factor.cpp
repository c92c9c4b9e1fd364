#include "quant/solvers/gptq_factor.h"

#include <algorithm>
#include <cmath>
#include <numeric>

#include "jit/error.h"
#include "quant/products/parallel_rows.h"
#include "quant/solvers/cholesky.h"

namespace nibble::quant {
namespace {

constexpr double kDampingStep = 0.0015;
constexpr int kRetries = 20;

float diagonal(const InputStats& stats, int64_t channel) {
  return stats.gram[static_cast<size_t>(channel * (stats.k + 1))];
}

// The mean square of the channels that live; 1 when none does.
double mean_square(const InputStats& stats) {
  double sum = 0;
  int64_t live = 0;
  for (int64_t i = 0; i < stats.k; ++i) {
    sum += diagonal(stats, i);
    live += diagonal(stats, i) > 0 ? 1 : 0;
  }
  return live == 0 ? 1.0 : sum / static_cast<double>(live);
}

// H by positions, damped; dead channels have 1 on the diagonal.
void fill(const InputStats& stats, double mean, GptqFactor& factor, runtime::ThreadPool& pool) {
  const int64_t k = stats.k;
  const auto scale = static_cast<float>(1.0 / mean);
  for_each_row(pool, k, [&](int64_t p, int) {
    const int64_t channel = factor.order[static_cast<size_t>(p)];
    const float* from = stats.gram.data() + channel * k;
    float* row = factor.u.data() + p * k;
    double others = 0;
    for (int64_t j = 0; j < k; ++j) {
      row[j] = from[factor.order[static_cast<size_t>(j)]] * scale;
      others += j == p ? 0.0 : std::fabs(row[j]);
    }
    if (!std::isfinite(others)) {
      fail("The products of input {} with the others are not all finite numbers.", channel);
    }
    double square = factor.dead[static_cast<size_t>(channel)] ? 1.0 : row[p];
    if (factor.floored) square = std::max(square, others);
    row[p] = static_cast<float>(square + factor.damping);
  });
}

}  // namespace

std::vector<int64_t> order_channels(const InputStats& stats, const GroupShape& shape,
                                    ChannelOrder order) {
  std::vector<int64_t> channels(static_cast<size_t>(stats.k));
  std::iota(channels.begin(), channels.end(), int64_t{0});
  const auto larger = [&](int64_t a, int64_t b) { return diagonal(stats, a) > diagonal(stats, b); };
  if (order == ChannelOrder::full) std::stable_sort(channels.begin(), channels.end(), larger);
  if (order != ChannelOrder::hybrid) return channels;

  std::vector<int64_t> groups(static_cast<size_t>(shape.groups));
  std::iota(groups.begin(), groups.end(), int64_t{0});
  for (const int64_t g : groups) {
    std::stable_sort(channels.begin() + shape.begin(g), channels.begin() + shape.end(g), larger);
  }
  const auto largest = [&](int64_t g) { return channels[static_cast<size_t>(shape.begin(g))]; };
  std::stable_sort(groups.begin(), groups.end(),
                   [&](int64_t a, int64_t b) { return larger(largest(a), largest(b)); });
  std::vector<int64_t> sorted;
  sorted.reserve(channels.size());
  for (const int64_t g : groups) {
    sorted.insert(sorted.end(), channels.begin() + shape.begin(g), channels.begin() + shape.end(g));
  }
  return sorted;
}

GptqFactor factor_inputs(const InputStats& stats, const GroupShape& shape, ChannelOrder order,
                         double damping, runtime::ThreadPool& pool, const Steps& steps) {
  const int64_t k = stats.k;
  check_stats(stats, shape.k);
  if (!(damping >= 0)) fail("A damping of {} is not possible, expected at least 0.", damping);
  GptqFactor factor;
  factor.order = order_channels(stats, shape, order);
  factor.dead.resize(static_cast<size_t>(k));
  for (int64_t i = 0; i < k; ++i) factor.dead[static_cast<size_t>(i)] = diagonal(stats, i) == 0;
  factor.u.resize(static_cast<size_t>(k * k));
  const double mean = mean_square(stats);
  for (;;) {
    factor.damping = damping + kDampingStep * factor.retries;
    fill(stats, mean, factor, pool);
    const auto bad = upper_factor_of_inverse(pool, {factor.u.data(), k, k, k}, steps);
    if (!bad) return factor;
    if (factor.floored) {
      fail("The products of the inputs cannot be factorised: input {} leaves a pivot of {}.",
           factor.order[static_cast<size_t>(bad->index)], bad->value);
    }
    if (factor.retries < kRetries) {
      ++factor.retries;
    } else {
      factor.floored = true;
    }
  }
}

}  // namespace nibble::quant
