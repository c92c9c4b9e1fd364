#include "runtime/pages.h"

#include <sys/mman.h>

#include <cstdint>

namespace nibble::runtime {

std::shared_ptr<std::byte> map_pages(size_t bytes) {
  const size_t page = bytes < kHugePage ? kPage : kHugePage;
  const size_t rounded = (bytes + page - 1) / page * page;
  const size_t reserved = rounded + page;
  void* base = mmap(nullptr, reserved, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
  if (base == MAP_FAILED) return nullptr;
  const size_t skip = (page - reinterpret_cast<size_t>(base) % page) % page;
  auto* memory = static_cast<std::byte*>(base) + skip;
  if (skip > 0) munmap(base, skip);
  if (skip < page) munmap(memory + rounded, page - skip);
  if (page == kHugePage) madvise(memory, rounded, MADV_HUGEPAGE);
  return {memory, [rounded](std::byte* p) { munmap(p, rounded); }};
}

}  // namespace nibble::runtime
