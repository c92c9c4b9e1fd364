#include "quant/rtn.h"

#include <emmintrin.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "jit/error.h"
#include "jit/float16.h"

namespace nibble::quant {
namespace {

using jit::ScaleType;
using jit::WeightFormat;
using jit::WeightType;

struct Extremes {
  float low, high;  // at most 0 and at least 0
};

[[noreturn]] void fail_not_finite(std::span<const float> w) {
  for (size_t i = 0; i < w.size(); ++i) {
    if (!std::isfinite(w[i])) {
      fail("The weight at index {} of its group is {}, expected a finite number.", i, w[i]);
    }
  }
  fail("A weight is not finite.");
}

// SSE2 is the baseline and exact here: minima and maxima do not depend on the order.
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

// The scale as it will be stored. A scale too small for its type becomes the smallest that it has
// (the weights are then far below one step), one too large is an Error.
float stored_scale(float exact, ScaleType type) {
  if (exact == 0) return 1.0F;
  float rounded = exact;
  float smallest = std::numeric_limits<float>::min();
  if (type == ScaleType::f16) {
    rounded = jit::f16_to_f32(jit::f32_to_f16(exact));
    smallest = 0x1p-24F;
  }
  if (!std::isfinite(rounded)) {
    fail("The scale {} of a group is too large for {}.", exact, jit::scale_type_name(type));
  }
  if (std::fabs(rounded) < smallest) return std::copysign(smallest, exact);
  return rounded;
}

// Not rounded yet. Each extreme is divided before they are added, where their sum would overflow.
float exact_scale(const Extremes& e, const WeightFormat& format, RtnRange range) {
  const bool nibbles = format.type == WeightType::u4;
  if (format.asym) {
    const float steps = nibbles ? 15.0F : 255.0F;
    const float whole = e.high - e.low;
    const float scale = std::isfinite(whole) ? whole / steps : e.high / steps - e.low / steps;
    return scale == 0 && whole != 0 ? std::numeric_limits<float>::min() : scale;
  }
  const float largest = std::max(e.high, -e.low);
  const bool full = nibbles && range == RtnRange::full;
  const float scale = largest / (full ? 8.0F : nibbles ? 7.0F : 127.0F);
  if (scale == 0 && largest != 0) return std::numeric_limits<float>::min();
  return full && e.high > -e.low ? -scale : scale;
}

struct Limits {
  int low, high, offset;  // q = clamp(rn(w / s), low, high) + offset
};

// The limits are applied to the quotient in fp32, where clamping commutes with rounding, and then
// the conversion rounds half to even.
void round_all(std::span<const float> w, float scale, const Limits& limits, uint8_t* q) {
  const __m128 s = _mm_set1_ps(scale);
  const __m128 low = _mm_set1_ps(static_cast<float>(limits.low));
  const __m128 high = _mm_set1_ps(static_cast<float>(limits.high));
  const __m128i offset = _mm_set1_epi32(limits.offset);
  const auto four = [&](const float* p) {
    const __m128 quotient = _mm_div_ps(_mm_loadu_ps(p), s);
    const __m128 clamped = _mm_max_ps(low, _mm_min_ps(high, quotient));
    return _mm_add_epi32(_mm_cvtps_epi32(clamped), offset);
  };
  size_t i = 0;
  for (; i + 8 <= w.size(); i += 8) {
    const __m128i words = _mm_packs_epi32(four(w.data() + i), four(w.data() + i + 4));
    _mm_storel_epi64(reinterpret_cast<__m128i*>(q + i), _mm_packus_epi16(words, words));
  }
  for (; i < w.size(); ++i) {
    const float clamped =
        std::clamp(w[i] / scale, static_cast<float>(limits.low), static_cast<float>(limits.high));
    q[i] = static_cast<uint8_t>(_mm_cvtss_si32(_mm_set_ss(clamped)) + limits.offset);
  }
}

}  // namespace

GroupResult rtn_group(std::span<const float> w, const WeightFormat& format, RtnRange range,
                      std::span<uint8_t> q) {
  if (format.type == WeightType::f32) fail("Weights kept in f32 are not quantized.");
  if (q.size() < w.size()) fail("{} weights do not fit {} quantized values.", w.size(), q.size());
  const Extremes extremes = find_extremes(w);
  const float scale = stored_scale(exact_scale(extremes, format, range), format.scale);
  const bool nibbles = format.type == WeightType::u4;
  if (format.asym) {
    const int top = nibbles ? 15 : 255;
    const float exact_zero = std::clamp(-extremes.low / scale, 0.0F, static_cast<float>(top));
    const int zero = _mm_cvtss_si32(_mm_set_ss(exact_zero));
    round_all(w, scale, {-zero, top - zero, zero}, q.data());
    return {scale, static_cast<uint8_t>(zero)};
  }
  const Limits limits = nibbles ? Limits{-8, 7, 8} : Limits{-127, 127, 128};
  round_all(w, scale, limits, q.data());
  return {scale, static_cast<uint8_t>(limits.offset)};
}

}  // namespace nibble::quant
