#include "quant/formats/rtn.h"

#include <algorithm>
#include <cmath>
#include <limits>

#include "jit/error.h"

namespace nibble::quant {
namespace {

using jit::WeightFormat;
using jit::WeightType;

// Not rounded yet. Each extreme is divided before they are added, where their sum would overflow.
float exact_scale(const Extremes& e, const WeightFormat& format, RtnRange range) {
  if (format.asym) {
    const auto steps = static_cast<float>(jit::top_value(format.type));
    const float whole = e.high - e.low;
    const float scale = std::isfinite(whole) ? whole / steps : e.high / steps - e.low / steps;
    return scale == 0 && whole != 0 ? std::numeric_limits<float>::min() : scale;
  }
  const float largest = std::max(e.high, -e.low);
  const bool full = format.type != WeightType::u8 && range == RtnRange::full;
  const int half = jit::middle_value(format.type);
  const float scale = largest / static_cast<float>(full ? half : half - 1);
  if (scale == 0 && largest != 0) return std::numeric_limits<float>::min();
  return full && e.high > -e.low ? -scale : scale;
}

}  // namespace

GroupResult rtn_range(std::span<const float> w, const WeightFormat& format, RtnRange range) {
  if (format.type == WeightType::f32) fail("Weights kept in f32 are not quantized.");
  const Extremes extremes = find_extremes(w);
  const float scale = stored_scale(exact_scale(extremes, format, range), format.scale);
  if (!format.asym) return {scale, symmetric_zero(format)};
  const auto top = static_cast<float>(jit::top_value(format.type));
  const float exact_zero = std::clamp(-extremes.low / scale, 0.0F, top);
  return {scale, static_cast<uint8_t>(round_to_int(exact_zero))};
}

GridLimits rtn_limits(const WeightFormat& format, uint8_t zero) {
  GridLimits limits = grid_limits(format, zero);
  if (format.type == WeightType::u8 && !format.asym) limits.low = -127;
  return limits;
}

GroupResult rtn_group(std::span<const float> w, const WeightFormat& format, RtnRange range,
                      std::span<uint8_t> q) {
  if (q.size() < w.size()) fail("{} weights do not fit {} quantized values.", w.size(), q.size());
  const GroupResult result = rtn_range(w, format, range);
  round_group(w, result.scale, rtn_limits(format, result.zero), q.data());
  return result;
}

}  // namespace nibble::quant
