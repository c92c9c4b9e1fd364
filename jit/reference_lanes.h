// The sixteen lanes in which every kernel reduces, and the tree that they end in, for the plain C++
// references.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

namespace nibble::jit {

inline constexpr int64_t kLanes = 16;
using Lanes = std::array<float, kLanes>;

// The tree l + (l+8), l + (l+4), l + (l+2), l + (l+1), with any operation for +.
template <typename Op>
float reduce(Lanes lanes, Op op) {
  for (size_t half = lanes.size() / 2; half > 0; half /= 2) {
    for (size_t l = 0; l < half; ++l) lanes[l] = op(lanes[l], lanes[l + half]);
  }
  return lanes[0];
}

inline float reduce_add(const Lanes& lanes) {
  return reduce(lanes, [](float a, float b) { return a + b; });
}

}  // namespace nibble::jit
