#include "quant/formats/group_grid.h"

#include <cmath>
#include <limits>

#include "jit/error.h"
#include "jit/float16.h"

namespace nibble::quant {
namespace {

using jit::ScaleType;
using jit::WeightFormat;
using jit::WeightType;

[[noreturn]] void fail_not_finite(std::span<const float> w) {
  for (size_t i = 0; i < w.size(); ++i) {
    if (!std::isfinite(w[i])) {
      fail("The weight at index {} of its group is {}, expected a finite number.", i, w[i]);
    }
  }
  fail("A weight is not finite.");
}

// Four weights at a time: SSE2 is the baseline.
struct GridRounding {
  __m128 scale, low, high;
  GridRounding(float s, const GridLimits& limits)
      : scale(_mm_set1_ps(s)),
        low(_mm_set1_ps(static_cast<float>(limits.low))),
        high(_mm_set1_ps(static_cast<float>(limits.high))) {}
  __m128i operator()(__m128 w) const {
    const __m128 quotient = _mm_div_ps(w, scale);
    return _mm_cvtps_epi32(_mm_max_ps(low, _mm_min_ps(high, quotient)));
  }
};

}  // namespace

// Exact: minima and maxima do not depend on the order.
Extremes find_extremes(std::span<const float> w) {
  __m128 low = _mm_setzero_ps(), high = _mm_setzero_ps(), bad = _mm_setzero_ps();
  size_t i = 0;
  for (; i + 4 <= w.size(); i += 4) {
    const __m128 x = _mm_loadu_ps(w.data() + i);
    low = _mm_min_ps(low, x);
    high = _mm_max_ps(high, x);
    const __m128 zero = _mm_sub_ps(x, x);  // NaN for NaN and infinity
    bad = _mm_or_ps(bad, _mm_cmpunord_ps(zero, zero));
  }
  alignas(16) float lows[4], highs[4];
  _mm_store_ps(lows, low);
  _mm_store_ps(highs, high);
  bool finite = _mm_movemask_ps(bad) == 0;
  Extremes extremes{*std::min_element(lows, lows + 4), *std::max_element(highs, highs + 4)};
  for (; i < w.size(); ++i) {
    finite = finite && std::isfinite(w[i]);
    extremes.low = std::min(extremes.low, w[i]);
    extremes.high = std::max(extremes.high, w[i]);
  }
  if (!finite) fail_not_finite(w);
  return extremes;
}

float stored_scale(float exact, ScaleType type) {
  if (exact == 0) return 1.0F;
  const float rounded = jit::round_to(type, exact);
  const float smallest =
      type == ScaleType::f16 ? 0x1p-24F : std::numeric_limits<float>::min();  // bf16's too
  if (!std::isfinite(rounded)) {
    fail("The scale {} of a group is too large for {}.", exact, jit::scale_type_name(type));
  }
  if (std::fabs(rounded) < smallest) return std::copysign(smallest, exact);
  return rounded;
}

GridLimits grid_limits(const WeightFormat& format, uint8_t zero) {
  const int top = jit::top_value(format.type);
  return {-static_cast<int>(zero), top - static_cast<int>(zero), zero};
}

uint8_t symmetric_zero(const WeightFormat& format) { return jit::middle_value(format.type); }

void round_group(std::span<const float> w, float scale, const GridLimits& limits, uint8_t* q) {
  const GridRounding rounding(scale, limits);
  const __m128i offset = _mm_set1_epi32(limits.offset);
  const auto four = [&](const float* p) {
    return _mm_add_epi32(rounding(_mm_loadu_ps(p)), offset);
  };
  size_t i = 0;
  for (; i + 8 <= w.size(); i += 8) {
    const __m128i words = _mm_packs_epi32(four(w.data() + i), four(w.data() + i + 4));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(q + i), _mm_packus_epi16(words, words));
  }
  for (; i < w.size(); ++i) {
    q[i] = static_cast<uint8_t>(round_to_grid(w[i], scale, limits) + limits.offset);
  }
}

float grid_error(std::span<const float> w, std::span<const float> weight, float scale,
                 const GridLimits& limits) {
  const GridRounding rounding(scale, limits);
  __m128 sums = _mm_setzero_ps();
  size_t i = 0;
  for (; i + 4 <= w.size(); i += 4) {
    const __m128 x = _mm_loadu_ps(w.data() + i);
    const __m128 rounded = _mm_mul_ps(_mm_cvtepi32_ps(rounding(x)), rounding.scale);
    const __m128 error = _mm_sub_ps(rounded, x);
    __m128 square = _mm_mul_ps(error, error);
    if (!weight.empty()) square = _mm_mul_ps(square, _mm_loadu_ps(weight.data() + i));
    sums = _mm_add_ps(sums, square);
  }
  alignas(16) float lanes[4];
  _mm_store_ps(lanes, sums);
  float sum = (lanes[0] + lanes[1]) + (lanes[2] + lanes[3]);
  for (; i < w.size(); ++i) {
    const float error = static_cast<float>(round_to_grid(w[i], scale, limits)) * scale - w[i];
    sum += error * error * (weight.empty() ? 1.0F : weight[i]);
  }
  return sum;
}

}  // namespace nibble::quant
