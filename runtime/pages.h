// The sizes of x86-64's pages, and memory of whole ones: the small ones, and the huge ones that
// weights and activations are kept in. A stream of weights crosses a page every few microseconds,
// and the walks would cost bandwidth; small pages lie anywhere in an L2, and some of them in each
// other's way.
#pragma once

#include <cstddef>
#include <memory>

namespace nibble::runtime {

inline constexpr size_t kPage = 4096;
inline constexpr size_t kHugePage = size_t{2} << 20;

// Zeroed memory of its own, touched on use: in huge pages where the system has them and `bytes`
// fill one. Null when the system refuses.
std::shared_ptr<std::byte> map_pages(size_t bytes);

}  // namespace nibble::runtime
