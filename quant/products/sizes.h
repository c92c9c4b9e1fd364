// From the int64_t of shapes to the size_t of standard containers.
#pragma once

#include <cstddef>
#include <cstdint>

namespace nibble::quant {

inline size_t at(int64_t i) { return static_cast<size_t>(i); }
inline size_t elements(int64_t rows, int64_t columns) {
  return static_cast<size_t>(rows * columns);
}

}  // namespace nibble::quant
