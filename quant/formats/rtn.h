// Round-to-nearest quantization of one column's group, as in the literature (see the formulas
// below). Rounding is half to even. The scale is rounded to its stored precision before q is
// computed.
//
//   symmetric   s = amax / 7, q = clamp(rn(w / s), -8, 7)           stored as q + 8, zero point 8
//   full range  s = amax / 8, negated when |max| > |min|: the extreme maps to -8
//   asymmetric  lo = min(0, min), hi = max(0, max), s = (hi - lo) / 15, z = rn(-lo / s),
//               q = clamp(rn(w / s) + z, 0, 15)
//   6 bits      the same with 31 for 7, 32 for 8 and 63 for 15
//   8 bits      symmetric s = amax / 127, q in -127..127, stored as q + 128, whatever the range;
//               asymmetric with 255 for 15
// An all-zero group has scale 1 (never 0 or NaN). A non-finite weight is an Error.
#pragma once

#include <cstdint>
#include <span>

#include "jit/packed_layout.h"
#include "quant/formats/group_grid.h"

namespace nibble::quant {

enum class RtnRange : uint8_t { plain, full };

// The grid alone, without rounding to it.
GroupResult rtn_range(std::span<const float> w, const jit::WeightFormat& format, RtnRange range);

// What q may be.
GridLimits rtn_limits(const jit::WeightFormat& format, uint8_t zero);

// Quantizes w (one group of one column) to stored values q (0..top_value).
GroupResult rtn_group(std::span<const float> w, const jit::WeightFormat& format, RtnRange range,
                      std::span<uint8_t> q);

}  // namespace nibble::quant
