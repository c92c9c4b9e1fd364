#include "quant/solvers/awq.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "jit/error.h"
#include "quant/formats/group_grid.h"
#include "quant/products/parallel_rows.h"
#include "quant/products/sizes.h"

namespace nibble::quant {
namespace {

constexpr float kSmallest = 1e-4F;        // as in the paper's code
constexpr int64_t kRowsOfProduct = 4096;  // candidates times rows that are multiplied at a time
constexpr int64_t kRowsForHeats = 512;    // fewer are all looked at
constexpr int64_t kHeat = 4;              // of so many rows one, and of so many candidates one
constexpr int64_t kMagnitudeRows = 64;    // whose magnitudes are added up before the sums are

// sums[k] += |W| / (largest |W| of the group), over all rows.
void add_magnitudes(const AwqSharer& sharer, int64_t k, std::vector<double>& sums,
                    runtime::ThreadPool& pool) {
  const GroupShape shape = group_shape(sharer.format, sharer.n, k);
  const int64_t parts = (sharer.n + kMagnitudeRows - 1) / kMagnitudeRows;
  std::vector<float> partial(elements(parts, k));
  for_each_row(pool, parts, [&](int64_t part, int) {
    float* out = partial.data() + part * k;
    const int64_t end = std::min(sharer.n, (part + 1) * kMagnitudeRows);
    for (int64_t row = part * kMagnitudeRows; row < end; ++row) {
      const float* w = sharer.w.data() + row * k;
      for (int64_t g = 0; g < shape.groups; ++g) {
        const Extremes extremes =
            find_extremes({w + shape.begin(g), static_cast<size_t>(shape.end(g) - shape.begin(g))});
        const float largest = std::max(extremes.high, -extremes.low);
        if (largest == 0) continue;
        for (int64_t i = shape.begin(g); i < shape.end(g); ++i) out[i] += std::fabs(w[i]) / largest;
      }
    }
  });
  for (int64_t part = 0; part < parts; ++part) {
    for (int64_t i = 0; i < k; ++i)
      sums[static_cast<size_t>(i)] += partial[elements(part, k) + static_cast<size_t>(i)];
  }
}

// Every channel gets the mean of its group.
void average(std::vector<double>& values, std::span<const int64_t> tied) {
  if (tied.empty()) return;
  std::vector<double> sums(values.size());
  std::vector<int64_t> counts(values.size());
  for (size_t i = 0; i < values.size(); ++i) {
    sums[static_cast<size_t>(tied[i])] += values[i];
    ++counts[static_cast<size_t>(tied[i])];
  }
  for (size_t i = 0; i < values.size(); ++i) {
    const auto group = static_cast<size_t>(tied[i]);
    values[i] = sums[group] / static_cast<double>(counts[group]);
  }
}

struct Means {
  std::vector<double> x, w;  // [k]
};

Means find_means(std::span<const AwqSharer> sharers, const InputStats& stats,
                 std::span<const int64_t> tied, runtime::ThreadPool& pool) {
  Means means{{stats.mean_abs.begin(), stats.mean_abs.end()},
              std::vector<double>(static_cast<size_t>(stats.k))};
  int64_t rows = 0;
  for (const AwqSharer& sharer : sharers) {
    add_magnitudes(sharer, stats.k, means.w, pool);
    rows += sharer.n;
  }
  for (double& w : means.w) w /= static_cast<double>(rows);
  average(means.x, tied);
  average(means.w, tied);
  return means;
}

std::vector<float> scales_of(const Means& means, double a, bool inputs_alone) {
  std::vector<double> exact(means.x.size(), 1.0);
  double largest = 0, smallest = std::numeric_limits<double>::infinity();
  for (size_t i = 0; i < exact.size(); ++i) {
    if (means.x[i] == 0) continue;
    const double by_weights = inputs_alone ? 1.0 : std::pow(means.w[i], 1 - a) + kSmallest;
    exact[i] = std::max<double>(kSmallest, std::pow(means.x[i], a) / by_weights);
    largest = std::max(largest, exact[i]);
    smallest = std::min(smallest, exact[i]);
  }
  const double middle = largest == 0 ? 1.0 : std::sqrt(largest * smallest);
  std::vector<float> scales(exact.size());
  for (size_t i = 0; i < exact.size(); ++i) {
    scales[i] = means.x[i] == 0 ? 1.0F : static_cast<float>(exact[i] / middle);
  }
  return scales;
}

// The rows that are looked at, of all sharers one below the other.
struct Sample {
  int64_t k = 0;
  std::vector<float> w;                          // [rows][k]
  std::vector<const jit::WeightFormat*> format;  // of each row
  int64_t rows() const { return static_cast<int64_t>(format.size()); }
};

Sample take_sample(std::span<const AwqSharer> sharers, int64_t k, int64_t most) {
  int64_t all = 0;
  for (const AwqSharer& sharer : sharers) all += sharer.n;
  const int64_t count = most == 0 ? all : std::min(all, most);
  Sample sample{.k = k, .w = {}, .format = {}};
  sample.w.reserve(elements(count, k));
  int64_t first = 0;
  size_t at = 0;
  for (int64_t i = 0; i < count; ++i) {
    const int64_t row = i * all / count;
    while (row >= first + sharers[at].n) first += sharers[at++].n;
    const float* from = sharers[at].w.data() + (row - first) * k;
    sample.w.insert(sample.w.end(), from, from + k);
    sample.format.push_back(&sharers[at].format);
  }
  return sample;
}

// d = Q(w s) / s - w for one row.
void rounding_error(const float* w, std::span<const float> scales, const jit::WeightFormat& format,
                    const RangeOptions& range, std::span<const float> weight, int64_t row,
                    float* d) {
  const auto k = static_cast<int64_t>(scales.size());
  const GroupShape shape = group_shape(format, 1, k);
  std::vector<float> scaled(scales.size());
  std::vector<uint8_t> q(scales.size());
  for (size_t i = 0; i < scales.size(); ++i) scaled[i] = w[i] * scales[i];
  for (int64_t g = 0; g < shape.groups; ++g) {
    const auto begin = static_cast<size_t>(shape.begin(g));
    const auto length = static_cast<size_t>(shape.end(g)) - begin;
    const std::span<uint8_t> values = std::span(q).subspan(begin, length);
    try {
      const GroupResult grid =
          round_best(std::span(scaled).subspan(begin, length), format, range,
                     weight.empty() ? weight : weight.subspan(begin, length), values);
      for (size_t i = begin; i < begin + length; ++i) {
        d[i] = static_cast<float>(q[i] - grid.zero) * grid.scale / scales[i] - w[i];
      }
    } catch (const Error& error) {
      fail("Row {} of those looked at cannot be quantized, k from {} to {}. {}", row, begin,
           begin + length - 1, error.what());
    }
  }
}

// What errors of scaled weights cost, for a search of ranges; empty where ranges are not searched.
std::vector<float> weights_of(const InputStats& stats, std::span<const float> scales,
                              const RangeOptions& range) {
  std::vector<float> weight;
  if (range.method == RangeMethod::plain || range.method == RangeMethod::full) return weight;
  weight = diagonal_weights(stats);
  float largest = 0;
  for (size_t i = 0; i < weight.size(); ++i) {
    weight[i] /= scales[i] * scales[i];
    largest = std::max(largest, weight[i]);
  }
  for (float& value : weight) value /= largest;
  return weight;
}

struct Candidate {
  std::vector<float> scales;
  double exponent = 0;
  bool identity = false, inputs_alone = false;
  double loss = 0;
};

// Adds to the losses of `candidates` what they lose in `rows` of the sample, in one product.
void add_losses(const Sample& sample, std::span<const int64_t> rows,
                std::span<Candidate* const> candidates, const InputStats& stats,
                const RangeOptions& range, runtime::ThreadPool& pool, const Steps& steps) {
  const int64_t k = sample.k, count = std::ssize(rows);
  const int64_t all = count * std::ssize(candidates);
  std::vector<std::vector<float>> weights;
  for (const Candidate* candidate : candidates) {
    weights.push_back(weights_of(stats, candidate->scales, range));
  }
  std::vector<float> difference(elements(all, k));
  for_each_row(pool, all, [&](int64_t at, int) {
    const auto candidate = static_cast<size_t>(at / count);
    const int64_t row = rows[static_cast<size_t>(at % count)];
    rounding_error(sample.w.data() + row * k, candidates[candidate]->scales,
                   *sample.format[static_cast<size_t>(row)], range, weights[candidate], row,
                   difference.data() + at * k);
  });
  std::vector<double> errors(static_cast<size_t>(all));
  row_errors(difference, all, k, stats.gram, pool, errors, steps);
  for (int64_t at = 0; at < all; ++at) {
    candidates[static_cast<size_t>(at / count)]->loss += errors[static_cast<size_t>(at)];
  }
}

// The same for any number of candidates and rows.
void find_losses(const Sample& sample, std::span<const int64_t> rows,
                 std::span<Candidate* const> candidates, const InputStats& stats,
                 const RangeOptions& range, runtime::ThreadPool& pool, const Steps& steps) {
  if (rows.empty()) return;
  const auto at_a_time =
      static_cast<size_t>(std::max<int64_t>(1, kRowsOfProduct / std::ssize(rows)));
  const auto all = static_cast<double>(candidates.size());
  for (size_t first = 0; first < candidates.size(); first += at_a_time) {
    const size_t count = std::min(at_a_time, candidates.size() - first);
    add_losses(
        sample, rows, candidates.subspan(first, count), stats, range, pool,
        part_of(steps, static_cast<double>(first) / all, static_cast<double>(first + count) / all));
  }
}

std::vector<Candidate> make_candidates(const Means& means, const AwqOptions& options) {
  std::vector<Candidate> candidates(1);
  candidates[0].scales.assign(means.x.size(), 1.0F);
  candidates[0].identity = true;
  for (const bool inputs_alone : {false, true}) {
    if (inputs_alone && !options.inputs_alone) break;
    for (int step = inputs_alone ? 1 : 0; step < options.steps; ++step) {  // x^0 is the identity
      const double a = static_cast<double>(step) / options.steps;
      candidates.push_back({.scales = scales_of(means, a, inputs_alone),
                            .exponent = a,
                            .inputs_alone = inputs_alone});
    }
  }
  return candidates;
}

// The best quarter and the identity, in the order that they had.
void keep_best(std::vector<Candidate*>& candidates) {
  std::vector<const Candidate*> ranked(candidates.begin(), candidates.end());
  std::stable_sort(ranked.begin(), ranked.end(),
                   [](const Candidate* a, const Candidate* b) { return a->loss < b->loss; });
  const size_t kept = (ranked.size() + kHeat - 1) / kHeat;
  const double most = ranked[kept - 1]->loss;
  std::erase_if(candidates, [&](const Candidate* c) { return !c->identity && c->loss > most; });
}

void check(std::span<const AwqSharer> sharers, const InputStats& stats,
           std::span<const int64_t> tied, const AwqOptions& options, runtime::ThreadPool& pool) {
  if (sharers.empty()) fail("No weights share these inputs, expected at least one matrix.");
  if (options.steps < 1 || options.rows < 0) {
    fail("A search of {} exponents over {} rows is not possible, expected at least 1 and 0.",
         options.steps, options.rows);
  }
  check_stats(stats, stats.k);
  for (const float mean : stats.mean_abs) {
    if (!std::isfinite(mean) || mean < 0) fail("The mean magnitude of an input is {}.", mean);
  }
  if (!tied.empty() && tied.size() != static_cast<size_t>(stats.k)) {
    fail("{} channels are tied, expected all {} or none.", tied.size(), stats.k);
  }
  for (size_t i = 0; i < tied.size(); ++i) {
    if (tied[i] < 0 || tied[i] >= stats.k) {
      fail("Channel {} is tied to group {}, expected 0 to {}.", i, tied[i], stats.k - 1);
    }
  }
  for (const AwqSharer& sharer : sharers) {
    (void)group_shape(sharer.format, sharer.n, stats.k);
    check_weights(sharer.w, sharer.n, stats.k, pool);
  }
}

}  // namespace

AwqScales search_awq_scales(std::span<const AwqSharer> sharers, const InputStats& stats,
                            std::span<const int64_t> tied, const AwqOptions& options,
                            runtime::ThreadPool& pool) {
  check(sharers, stats, tied, options, pool);
  const Means means = find_means(sharers, stats, tied, pool);
  const Sample sample = take_sample(sharers, stats.k, options.rows);
  std::vector<Candidate> candidates = make_candidates(means, options);
  std::vector<Candidate*> finalists;
  for (Candidate& candidate : candidates) finalists.push_back(&candidate);
  std::vector<int64_t> heat, others;  // rows
  const bool heats = sample.rows() >= kRowsForHeats;
  for (int64_t row = 0; row < sample.rows(); ++row) {
    (heats && row % kHeat == 0 ? heat : others).push_back(row);
  }
  const double share = heats ? 4.0 / 7.0 : 0;  // of the work: 1/4 of it all, then 3/4 of a quarter
  find_losses(sample, heat, finalists, stats, options.range, pool, part_of(options.told, 0, share));
  if (heats) keep_best(finalists);
  find_losses(sample, others, finalists, stats, options.range, pool,
              part_of(options.told, share, 1));
  const Candidate* best =
      *std::min_element(finalists.begin(), finalists.end(),
                        [](const Candidate* a, const Candidate* b) { return a->loss < b->loss; });
  return {.scales = best->scales,
          .loss = best->loss,
          .identity_loss = candidates[0].loss,
          .identity = best->identity,
          .exponent = best->exponent,
          .inputs_alone = best->inputs_alone};
}

void scale_channels(std::span<float> w, int64_t n, std::span<const float> scales,
                    runtime::ThreadPool& pool) {
  const auto k = static_cast<int64_t>(scales.size());
  if (w.size() != elements(n, k)) {
    fail("{} weights are scaled by {} factors, expected {} rows of them.", w.size(), k, n);
  }
  for_each_row(pool, n, [&](int64_t row, int) {
    float* values = w.data() + row * k;
    for (int64_t i = 0; i < k; ++i) values[i] *= scales[static_cast<size_t>(i)];
  });
}

void scale_inputs(InputStats& stats, std::span<const float> scales, runtime::ThreadPool& pool) {
  check_stats(stats, static_cast<int64_t>(scales.size()));
  for_each_row(pool, stats.k, [&](int64_t row, int) {
    float* values = stats.gram.data() + row * stats.k;
    const auto at = static_cast<size_t>(row);
    for (int64_t i = 0; i < stats.k; ++i) {
      values[i] /= scales[at] * scales[static_cast<size_t>(i)];
    }
    stats.mean_abs[at] /= scales[at];
  });
}

}  // namespace nibble::quant
