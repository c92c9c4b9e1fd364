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
  float abs(float a) const { return std::fabs(a); }
  float neg(float a) const { return -a; }
};

}  // namespace nibble::jit
