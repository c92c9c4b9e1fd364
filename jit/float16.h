// IEEE half <-> float on plain x86-64, round to nearest even, as vcvtps2ph and vcvtph2ps do it; and
// bfloat16, the upper half of a float.
#pragma once

#include <bit>
#include <cstdint>

namespace nibble::jit {

float f16_to_f32(uint16_t half);
uint16_t f32_to_f16(float value);

inline float bf16_to_f32(uint16_t bits) { return std::bit_cast<float>(uint32_t{bits} << 16); }
uint16_t f32_to_bf16(float value);  // to nearest even; NaN: quiet, upper payload bits kept

// An activation of a bf16 matmul: f32_to_bf16, but +0 below kLeastBf16Activation (no model has such
// numbers) and one NaN. What is left are multiples of 2^-126, and so are their products with whole
// numbers and all sums of these, rounded or not: none of them is subnormal. Tiles take subnormal
// numbers for zero and vectors do not; here they need not agree on them.
inline constexpr float kLeastBf16Activation = 0x1p-119F;
uint16_t bf16_activation(float value);

// The same for numbers that are multiplied with each other, both of them bf16: +0 below
// kLeastBf16Factor, so that products and their sums are multiples of 2^-126 again.
inline constexpr float kLeastBf16Factor = 0x1p-56F;
uint16_t bf16_factor(float value);

}  // namespace nibble::jit
