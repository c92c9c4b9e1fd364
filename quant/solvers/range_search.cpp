#include "quant/solvers/range_search.h"

#include <algorithm>
#include <cmath>
#include <vector>

#include "jit/error.h"
#include "quant/formats/rtn.h"
#include "quant/products/parallel_rows.h"

namespace nibble::quant {
namespace {

using jit::WeightFormat;
using jit::WeightType;

constexpr int kRefits = 3;           // the second rarely helps, the third hardly ever
constexpr int kInverseScales = 100;  // on either side of the middle
constexpr float kInverseStep = 0.02F / 8.0F;

// The best grid so far; among equals the first that was tried.
struct Search {
  std::span<const float> w, weight;
  const WeightFormat& format;
  GroupResult best;
  float error;

  Search(std::span<const float> values, std::span<const float> weights, const WeightFormat& f,
         RtnRange start)
      : w(values), weight(weights), format(f), best(rtn_range(values, f, start)) {
    error = error_of(best);
  }

  float error_of(const GroupResult& grid) const {
    return grid_error(w, weight, grid.scale, grid_limits(format, grid.zero));
  }
  bool storable(float exact_scale) const {
    return exact_scale != 0 && std::isfinite(jit::round_to(format.scale, exact_scale));
  }
  bool consider(float exact_scale, uint8_t zero) {
    if (!storable(exact_scale)) return false;
    const GroupResult grid{stored_scale(exact_scale, format.scale), zero};
    const float e = error_of(grid);
    if (!(e < error)) return false;
    best = grid;
    error = e;
    return true;
  }
  bool consider_range(float low, float high) {
    const auto top = static_cast<float>(jit::top_value(format.type));
    const float exact = (high - low) / top;
    if (!storable(exact)) return false;
    const float scale = stored_scale(exact, format.scale);
    return consider(exact, static_cast<uint8_t>(round_to_int(std::clamp(-low / scale, 0.0F, top))));
  }
  // The scale of least error for the values that the best grid rounds to.
  void refit() {
    for (int i = 0; i < kRefits; ++i) {
      const GridLimits limits = grid_limits(format, best.zero);
      double product = 0, square = 0;
      for (size_t at = 0; at < w.size(); ++at) {
        const double c = round_to_grid(w[at], best.scale, limits);
        const double factor = weight.empty() ? 1.0 : weight[at];
        product += factor * c * w[at];
        square += factor * c * c;
      }
      if (square == 0) return;
      const GroupResult before = best;
      if (!consider(static_cast<float>(product / square), before.zero)) return;
    }
  }
};

float ratio_of(const RangeOptions& options, int step) {
  return 1.0F - (1.0F - options.smallest_ratio) * static_cast<float>(step) /
                    static_cast<float>(options.steps);
}

void search_symmetric(Search& search, const Extremes& extremes, const RangeOptions& options) {
  const auto half = static_cast<float>(jit::middle_value(search.format.type));
  const float largest = std::max(extremes.high, -extremes.low);
  const float full = (extremes.high > -extremes.low ? -largest : largest) / half;
  const uint8_t zero = symmetric_zero(search.format);
  search.consider(full * half / (half - 1), zero);
  search.consider(-full * half / (half - 1), zero);
  for (int step = 0; step <= options.steps; ++step) {
    search.consider(full * ratio_of(options, step), zero);
    search.consider(-full * ratio_of(options, step), zero);
  }
}

void search_asymmetric(Search& search, const Extremes& extremes, const RangeOptions& options) {
  float low = extremes.low, high = extremes.high;
  const auto shrink = [&](float low_weight, float high_weight) {
    const float low0 = low, high0 = high;
    for (int step = 1; step <= options.steps; ++step) {
      const float cut = 1.0F - ratio_of(options, step);
      const float l = low0 * (1 - cut * low_weight), h = high0 * (1 - cut * high_weight);
      if (search.consider_range(l, h)) {
        low = l;
        high = h;
      }
    }
  };
  shrink(1, 1);
  shrink(1, 0);
  shrink(0, 1);
}

void search_inverse(Search& search, std::span<const float> w) {
  const auto half = static_cast<float>(jit::middle_value(search.format.type));
  const float largest = *std::max_element(
      w.begin(), w.end(), [](float a, float b) { return std::fabs(a) < std::fabs(b); });
  for (int i = -kInverseScales; i <= kInverseScales; ++i) {
    const float inverse = half * (1 + kInverseStep * static_cast<float>(i));
    search.consider(-largest / inverse, symmetric_zero(search.format));
  }
}

void check_options(const WeightFormat& format, const RangeOptions& options) {
  if (!(options.smallest_ratio > 0 && options.smallest_ratio <= 1) || options.steps < 1) {
    fail("A search of {} ratios down to {} is not possible, expected at least 1, above 0 to 1.",
         options.steps, options.smallest_ratio);
  }
  if (options.method == RangeMethod::inverse && format.asym) {
    fail("A search of inverse scales has no zero points, expected a symmetric format.");
  }
}

bool has_rtn_rule(const RangeOptions& options) {
  return options.method == RangeMethod::plain || options.method == RangeMethod::full;
}

RtnRange rtn_rule(const RangeOptions& options) {
  return options.method == RangeMethod::plain ? RtnRange::plain : RtnRange::full;
}

}  // namespace

GroupResult choose_range(std::span<const float> w, const WeightFormat& format,
                         const RangeOptions& options, std::span<const float> weight) {
  if (has_rtn_rule(options)) return rtn_range(w, format, rtn_rule(options));
  check_options(format, options);
  if (!weight.empty() && weight.size() != w.size()) {
    fail("{} weights of a group have {} factors for their errors.", w.size(), weight.size());
  }
  Search search(w, weight, format, RtnRange::full);
  const Extremes extremes = find_extremes(w);
  if (extremes.low == 0 && extremes.high == 0) return search.best;
  if (options.method == RangeMethod::inverse) {
    search_inverse(search, w);
    return search.best;
  }
  if (format.asym) {
    search_asymmetric(search, extremes, options);
  } else {
    search_symmetric(search, extremes, options);
  }
  search.refit();
  return search.best;
}

GroupResult round_best(std::span<const float> w, const WeightFormat& format,
                       const RangeOptions& options, std::span<const float> weight,
                       std::span<uint8_t> q) {
  if (has_rtn_rule(options)) return rtn_group(w, format, rtn_rule(options), q);
  const GroupResult result = choose_range(w, format, options, weight);
  if (q.size() < w.size()) fail("{} weights do not fit {} quantized values.", w.size(), q.size());
  round_group(w, result.scale, grid_limits(format, result.zero), q.data());
  return result;
}

SolvedMatrix solve_rtn(std::span<const float> w, int64_t n, int64_t k, const WeightFormat& format,
                       const RangeOptions& options, const InputStats* stats,
                       runtime::ThreadPool& pool) {
  const GroupShape shape = group_shape(format, n, k);
  check_weights(w, n, k, pool);
  if (!has_rtn_rule(options)) check_options(format, options);
  std::vector<float> weights;
  if (stats != nullptr) {
    check_stats(*stats, k);
    weights = diagonal_weights(*stats);
  }
  SolvedMatrix solved = make_solved(format, n, k);
  for_each_row(pool, n, [&](int64_t row, int) {
    for (int64_t g = 0; g < shape.groups; ++g) {
      const int64_t begin = shape.begin(g);
      const auto length = static_cast<size_t>(shape.end(g) - begin);
      const std::span<const float> part(w.data() + row * k + begin, length);
      const std::span<uint8_t> q(solved.q.data() + row * k + begin, length);
      const std::span<const float> weight =
          weights.empty() ? std::span<const float>()
                          : std::span(weights).subspan(static_cast<size_t>(begin), length);
      const auto at = static_cast<size_t>(row * shape.groups + g);
      try {
        const GroupResult result = round_best(part, format, options, weight, q);
        solved.scales[at] = result.scale;
        solved.zeros[at] = result.zero;
      } catch (const Error& error) {
        fail("Column {} cannot be quantized, k from {} to {}. {}", row, begin, shape.end(g) - 1,
             error.what());
      }
    }
  });
  return solved;
}

}  // namespace nibble::quant
