// The sizes of x86-64's pages: the small ones, and the huge ones that weights are kept in.
#pragma once

#include <cstddef>

namespace nibble::runtime {

inline constexpr size_t kPage = 4096;
inline constexpr size_t kHugePage = size_t{2} << 20;

}  // namespace nibble::runtime
