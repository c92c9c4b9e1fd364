// The grid that one group's weights are rounded to: (q - zero) * scale for q in 0..15 or 0..255.
// Finding a good grid is the business of rtn.h and range_search.h; this is what they share: the
// extremes of a group, scales as they are stored, and rounding to a grid that is given.
#pragma once

#include <emmintrin.h>

#include <algorithm>
#include <cstdint>
#include <span>

#include "jit/packed_layout.h"

namespace nibble::quant {

struct GroupResult {
  float scale;   // rounded to the stored precision; negative where the largest weight is positive
  uint8_t zero;  // as stored
};

struct Extremes {
  float low, high;  // at most 0 and at least 0
};

// Throws Error naming the index of a weight that is not finite.
Extremes find_extremes(std::span<const float> w);

// The scale as it will be stored. 0 becomes 1; a scale too small for its type becomes the smallest
// that it has (the weights are then far below one step), one too large is an Error. Those of q8 are
// nested later (nested_scales.h).
float stored_scale(float exact, jit::ScaleType type);

// q = clamp(rn(w / s), low, high) + offset.
struct GridLimits {
  int low, high, offset;
};
// All that the type holds: -zero .. 15 - zero or 255 - zero.
GridLimits grid_limits(const jit::WeightFormat& format, uint8_t zero);
// 8 or 128, the zero point that a symmetric format does not store.
uint8_t symmetric_zero(const jit::WeightFormat& format);

// Half to even.
inline int round_to_int(float x) { return _mm_cvtss_si32(_mm_set_ss(x)); }

// q - zero of one weight. The limits are applied before rounding, where they commute with it.
inline int round_to_grid(float w, float scale, const GridLimits& limits) {
  return round_to_int(
      std::clamp(w / scale, static_cast<float>(limits.low), static_cast<float>(limits.high)));
}

// Stored values of a whole group.
void round_group(std::span<const float> w, float scale, const GridLimits& limits, uint8_t* q);

// sum of weight[i] (w[i] - rounded w[i])^2; all weights are 1 where `weight` is empty.
float grid_error(std::span<const float> w, std::span<const float> weight, float scale,
                 const GridLimits& limits);

}  // namespace nibble::quant
