#include "quant/solvers/fake_quantize.h"

#include <algorithm>
#include <cmath>
#include <vector>

namespace nibble::quant {
namespace {

// Calls visit(begin, length) for every group of a row.
template <typename Visit>
void for_each_group(size_t k, const jit::WeightFormat& format, const Visit& visit) {
  const size_t group = format.group == 0 ? k : static_cast<size_t>(format.group);
  for (size_t begin = 0; begin < k; begin += group) visit(begin, std::min(group, k - begin));
}

// How the scale of a group follows from its weights: s = sum of slope * weight.
struct ScaleSlope {
  size_t low = 0, high = 0;       // where the extremes are
  float by_low = 0, by_high = 0;  // 0: this one does not count
  bool low_is_negative = false;   // otherwise the low end of the range is 0
};

ScaleSlope scale_slope(std::span<const float> w, const jit::WeightFormat& format, RtnRange range) {
  const auto low = std::min_element(w.begin(), w.end());
  const auto high = std::max_element(w.begin(), w.end());
  ScaleSlope slope{static_cast<size_t>(low - w.begin()), static_cast<size_t>(high - w.begin())};
  slope.low_is_negative = *low < 0;
  if (*low == 0 && *high == 0) return slope;
  if (format.asym) {
    const auto steps = static_cast<float>(jit::top_value(format.type));
    slope.by_low = *low < 0 ? -1 / steps : 0.0F;
    slope.by_high = *high > 0 ? 1 / steps : 0.0F;
    return slope;
  }
  const bool full = format.type != jit::WeightType::u8 && range == RtnRange::full;
  const int half = jit::middle_value(format.type);
  const auto steps = static_cast<float>(full ? half : half - 1);
  if (*high > -*low) {
    slope.by_high = full ? -1 / steps : 1 / steps;
  } else {
    slope.by_low = -1 / steps;
  }
  return slope;
}

}  // namespace

void fake_quantize_row(std::span<const float> w, const jit::WeightFormat& format, RtnRange range,
                       std::span<float> out) {
  std::vector<uint8_t> q(w.size());
  for_each_group(w.size(), format, [&](size_t begin, size_t length) {
    const GroupResult r = rtn_group(w.subspan(begin, length), format, range, q);
    for (size_t i = 0; i < length; ++i) {
      out[begin + i] = static_cast<float>(int{q[i]} - int{r.zero}) * r.scale;
    }
  });
}

void fake_quantize_row_gradient(std::span<const float> w, const jit::WeightFormat& format,
                                RtnRange range, std::span<const float> dout, std::span<float> dw) {
  std::vector<uint8_t> q(w.size());
  const int top = jit::top_value(format.type);
  for_each_group(w.size(), format, [&](size_t begin, size_t length) {
    const auto group = w.subspan(begin, length);
    const GroupResult r = rtn_group(group, format, range, q);
    const auto lowest = static_cast<float>(-int{r.zero}),
               highest = static_cast<float>(top - r.zero);
    float ds = 0, dlow = 0;
    for (size_t i = 0; i < length; ++i) {
      const float d = dout[begin + i], t = group[i] / r.scale;
      const float rounded = std::nearbyint(t);
      if (rounded >= lowest && rounded <= highest) {
        dw[begin + i] = d;
        ds += d * (rounded - t);
        continue;
      }
      dw[begin + i] = 0;
      ds += d * static_cast<float>(format.asym ? int{q[i]} : int{q[i]} - int{r.zero});
      if (format.asym) dlow += d;
    }
    const ScaleSlope slope = scale_slope(group, format, range);
    dw[begin + slope.low] += ds * slope.by_low + (slope.low_is_negative ? dlow : 0.0F);
    dw[begin + slope.high] += ds * slope.by_high;
  });
}

}  // namespace nibble::quant
