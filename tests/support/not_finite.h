// The numbers that are none, as tests feed them and expect them.
#pragma once

#include <limits>

namespace nibble::test {

inline constexpr float kInfinity = std::numeric_limits<float>::infinity();
inline constexpr float kNaN = std::numeric_limits<float>::quiet_NaN();

}  // namespace nibble::test
