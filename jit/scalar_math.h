// vector_math.h's backend of one plain C++ lane: the references of all kernels.
#pragma once

#include <bit>
#include <cmath>
#include <cstdint>

#include "jit/vector_math.h"

namespace nibble::jit {

struct ScalarMath {
  using Reg = float;
  float imm(float a) const { return a; }
  float add(float a, float b) const { return a + b; }
  float sub(float a, float b) const { return a - b; }
  float mul(float a, float b) const { return a * b; }
  float div(float a, float b) const { return a / b; }
  float fma(float a, float b, float c) const { return std::fma(a, b, c); }
  float max(float a, float b) const { return a > b ? a : b; }
  float min(float a, float b) const { return a < b ? a : b; }
  float round(float a) const { return std::nearbyint(a); }
  // NaN has no exponent to shift; the product with the NaN polynomial stays NaN whatever this
  // returns.
  float pow2(float a) const {
    return std::isnan(a) ? a : std::bit_cast<float>((static_cast<int32_t>(a) + 127) << 23);
  }
  float scale_pow2(float p, float n) const {
    if (std::isnan(n)) return n;
    return std::bit_cast<float>(std::bit_cast<int32_t>(p) + static_cast<int32_t>(n) * (1 << 23));
  }
  float add_exponent(float p, float t) const {
    return std::bit_cast<float>(std::bit_cast<uint32_t>(p) + (std::bit_cast<uint32_t>(t) << 23));
  }
  // vcvtps2dq, then vpackssdw: what lies outside int32, NaN included, becomes -2^31.
  int16_t to_int16(float a) const {
    if (!(std::fabs(a) < 2147483648.0F)) return -32768;
    const float rounded = std::nearbyint(a);
    if (rounded > 32767.0F) return 32767;
    return rounded < -32768.0F ? int16_t{-32768} : static_cast<int16_t>(rounded);
  }
  float abs(float a) const { return std::fabs(a); }
  float neg(float a) const { return -a; }
};

}  // namespace nibble::jit
