// Round-to-nearest (rtn.h) as a function of real weights: what a row of a matrix becomes, and the
// derivative, in which rounding is passed straight through (Bengio et al., arXiv 1308.3432) while
// scales and zero points move with the extremes of their group, as in LSQ (arXiv 1902.08153).
#pragma once

#include <cstdint>
#include <span>

#include "jit/packed_layout.h"
#include "quant/formats/rtn.h"

namespace nibble::quant {

// out[i] = (q - zero) * scale, rounded once; w is a row of k. Throws Error as rtn_group.
void fake_quantize_row(std::span<const float> w, const jit::WeightFormat& format, RtnRange range,
                       std::span<float> out);

// dw[i] = d loss / d w[i] by dout = d loss / d out. With q the value before the zero point is
// taken, t = w / s: an element that is not clamped has d out / d w = 1 and d out / d s = rn(t) - t;
// one that is clamped to q has d out / d s = q - zero in a symmetric format, and in an asymmetric
// one, where zero s = -low, d out / d s = q and d out / d low = 1.
void fake_quantize_row_gradient(std::span<const float> w, const jit::WeightFormat& format,
                                RtnRange range, std::span<const float> dout, std::span<float> dw);

}  // namespace nibble::quant
