#include "quant/formats/nested_scales.h"

#include <algorithm>
#include <cmath>

#include "jit/error.h"

namespace nibble::quant {

using jit::kSuperBlock;
using jit::ScaleType;

jit::WeightFormat with_fitting_scales(jit::WeightFormat format, int64_t k) {
  if (format.scale != ScaleType::q8) return format;
  const bool groups =
      format.group >= 16 && format.group < kSuperBlock && kSuperBlock % format.group == 0;
  if (!groups || format.asym || k % kSuperBlock != 0) format.scale = ScaleType::f16;
  return format;
}

void nest_scales(int64_t group, uint8_t zero, std::span<const uint8_t> q, std::span<float> scales,
                 std::span<float> supers) {
  constexpr float kLargestByte = 127;
  const int64_t groups = kSuperBlock / group;
  for (size_t s = 0; s < supers.size(); ++s) {
    const auto first = s * static_cast<size_t>(groups);
    float largest = 0;
    for (size_t g = first; g < first + static_cast<size_t>(groups); ++g) {
      const auto values = q.subspan(g * static_cast<size_t>(group), static_cast<size_t>(group));
      const auto is_zero = [zero](uint8_t value) { return value == zero; };
      if (std::all_of(values.begin(), values.end(), is_zero)) scales[g] = 0;
      largest = std::max(largest, std::fabs(scales[g]));
    }
    float& above = supers[s];
    above = jit::round_to(ScaleType::f16, largest / kLargestByte);
    if (!std::isfinite(above)) {
      fail("The scale {} of a group is too large for {}.", largest,
           jit::scale_type_name(ScaleType::q8));
    }
    if (above == 0 && largest > 0) above = 0x1p-24F;  // the smallest of fp16
    for (size_t g = first; g < first + static_cast<size_t>(groups); ++g) {
      const float byte = above == 0 ? 0 : std::nearbyint(scales[g] / above);
      scales[g] = above * std::clamp(byte, -kLargestByte, kLargestByte);
    }
  }
}

}  // namespace nibble::quant
