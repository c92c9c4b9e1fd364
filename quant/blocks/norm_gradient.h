// The derivative of RMSNorm and LayerNorm by their input, a row at a time.
#pragma once

#include <cstdint>

namespace nibble::quant {

// dx += d loss / d x of y = norm(x) * weight (+ bias), for a row of n; centre: LayerNorm. Sums in
// double.
void norm_gradient(const float* x, const float* weight, const float* dy, int64_t n, float epsilon,
                   bool centre, float* dx) noexcept;

}  // namespace nibble::quant
