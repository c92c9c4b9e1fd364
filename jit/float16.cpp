#include "jit/float16.h"

namespace nibble::jit {

float f16_to_f32(uint16_t half) {
  const uint32_t sign = (half & 0x8000U) << 16;
  const uint32_t exponent = (half >> 10) & 31U;
  const uint32_t mantissa = half & 1023U;
  if (exponent == 31) {  // infinity, or NaN: made quiet as the instruction does
    const uint32_t quiet = mantissa != 0 ? 0x400000U : 0;
    return std::bit_cast<float>(sign | 0x7f800000U | (mantissa << 13) | quiet);
  }
  if (exponent != 0)
    return std::bit_cast<float>(sign | ((exponent + 112) << 23) | (mantissa << 13));
  // Subnormal or zero: mantissa * 2^-24 is exact in fp32.
  const float magnitude = static_cast<float>(mantissa) * 0x1p-24F;
  return std::bit_cast<float>(sign | std::bit_cast<uint32_t>(magnitude));
}

uint16_t f32_to_f16(float value) {
  const uint32_t bits = std::bit_cast<uint32_t>(value);
  const uint32_t sign = (bits >> 16) & 0x8000U;
  const uint32_t magnitude = bits & 0x7fffffffU;
  if (magnitude > 0x7f800000U) {  // NaN: quiet, upper payload bits kept
    return static_cast<uint16_t>(sign | 0x7e00U | ((magnitude >> 13) & 1023U));
  }
  if (magnitude >= 0x477ff000U) return static_cast<uint16_t>(sign | 0x7c00U);  // >= 65520
  if (magnitude < 0x38800000U) {
    // Below 2^-14 the result counts units of 2^-24. Adding 0.5, whose last bit is 2^-24, makes the
    // adder round to nearest even at just that bit.
    const float shifted = std::bit_cast<float>(magnitude) + 0.5F;
    return static_cast<uint16_t>(sign | (std::bit_cast<uint32_t>(shifted) - 0x3f000000U));
  }
  const uint32_t odd = (magnitude >> 13) & 1U;
  const uint32_t rounded = magnitude + 0xfffU + odd;
  return static_cast<uint16_t>(sign | ((rounded - 0x38000000U) >> 13));
}

uint16_t f32_to_bf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  if ((bits & 0x7FFFFFFFU) > 0x7F800000U) return static_cast<uint16_t>((bits >> 16) | 0x40U);
  return static_cast<uint16_t>((bits + 0x7FFFU + ((bits >> 16) & 1U)) >> 16);
}

namespace {

uint16_t bf16_from(float least, float value) {
  constexpr uint16_t kNan = 0x7FC0;
  const uint32_t magnitude = std::bit_cast<uint32_t>(value) & 0x7FFFFFFFU;
  if (magnitude > 0x7F800000U) return kNan;
  if (magnitude < std::bit_cast<uint32_t>(least)) return 0;
  return f32_to_bf16(value);
}

}  // namespace

uint16_t bf16_activation(float value) { return bf16_from(kLeastBf16Activation, value); }
uint16_t bf16_factor(float value) { return bf16_from(kLeastBf16Factor, value); }

}  // namespace nibble::jit
