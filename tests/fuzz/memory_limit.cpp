#include "tests/fuzz/memory_limit.h"

#include <malloc.h>

#include <atomic>
#include <cstdio>
#include <cstdlib>
#include <limits>
#include <new>

namespace nibble::fuzz {
namespace {

constexpr size_t kNone = std::numeric_limits<size_t>::max();

std::atomic<size_t> held{0}, most_held{0}, limit{kNone};
std::atomic<size_t> before{0};  // held when the limit was set

[[noreturn]] void end(size_t bytes) {
  const size_t above = held.load() - before.load(), allowed = limit.load() - before.load();
  limit = kNone;  // whoever reports this needs memory
  std::fprintf(
      stderr,
      "finding: an allocation of %zu bytes when %zu were held already, but %zu are allowed "
      "in all\n",
      bytes, above, allowed);
  std::abort();
}

void* allocate(size_t bytes, size_t alignment) {
  // Before the memory is asked for: what is refused for its size should be seen all the same.
  const size_t most = limit.load(), now = held.load();
  if (most != kNone && (bytes > most || now > most - bytes)) end(bytes);
  void* memory =
      alignment > alignof(std::max_align_t)
          ? std::aligned_alloc(alignment, (bytes + alignment - 1) / alignment * alignment)
          : std::malloc(bytes == 0 ? 1 : bytes);
  if (memory == nullptr) throw std::bad_alloc();
  const size_t total = held += malloc_usable_size(memory);
  for (size_t seen = most_held; total > seen && !most_held.compare_exchange_weak(seen, total);) {
  }
  return memory;
}

void* allocate_or_null(size_t bytes, size_t alignment) noexcept {
  try {
    return allocate(bytes, alignment);
  } catch (const std::bad_alloc&) {
    return nullptr;
  }
}

void release(void* memory) {
  if (memory == nullptr) return;
  held -= malloc_usable_size(memory);
  std::free(memory);
}

}  // namespace

MemoryLimit::MemoryLimit(size_t bytes) {
  before = held.load();
  most_held = held.load();
  limit = before + bytes;
}

MemoryLimit::~MemoryLimit() { limit = kNone; }

size_t MemoryLimit::peak() const { return most_held - before; }

}  // namespace nibble::fuzz

// All forms: a sanitizer brings its own of those that are left out, and takes the mixture for an
// error.
void* operator new(size_t bytes) {
  return nibble::fuzz::allocate(bytes, alignof(std::max_align_t));
}
void* operator new[](size_t bytes) {
  return nibble::fuzz::allocate(bytes, alignof(std::max_align_t));
}
void* operator new(size_t bytes, const std::nothrow_t&) noexcept {
  return nibble::fuzz::allocate_or_null(bytes, alignof(std::max_align_t));
}
void* operator new[](size_t bytes, const std::nothrow_t&) noexcept {
  return nibble::fuzz::allocate_or_null(bytes, alignof(std::max_align_t));
}
void* operator new(size_t bytes, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return nibble::fuzz::allocate_or_null(bytes, static_cast<size_t>(alignment));
}
void* operator new[](size_t bytes, std::align_val_t alignment, const std::nothrow_t&) noexcept {
  return nibble::fuzz::allocate_or_null(bytes, static_cast<size_t>(alignment));
}
void* operator new(size_t bytes, std::align_val_t alignment) {
  return nibble::fuzz::allocate(bytes, static_cast<size_t>(alignment));
}
void* operator new[](size_t bytes, std::align_val_t alignment) {
  return nibble::fuzz::allocate(bytes, static_cast<size_t>(alignment));
}
void operator delete(void* memory) noexcept { nibble::fuzz::release(memory); }
void operator delete[](void* memory) noexcept { nibble::fuzz::release(memory); }
void operator delete(void* memory, const std::nothrow_t&) noexcept {
  nibble::fuzz::release(memory);
}
void operator delete[](void* memory, const std::nothrow_t&) noexcept {
  nibble::fuzz::release(memory);
}
void operator delete(void* memory, std::align_val_t, const std::nothrow_t&) noexcept {
  nibble::fuzz::release(memory);
}
void operator delete[](void* memory, std::align_val_t, const std::nothrow_t&) noexcept {
  nibble::fuzz::release(memory);
}
void operator delete(void* memory, size_t) noexcept { nibble::fuzz::release(memory); }
void operator delete[](void* memory, size_t) noexcept { nibble::fuzz::release(memory); }
void operator delete(void* memory, std::align_val_t) noexcept { nibble::fuzz::release(memory); }
void operator delete[](void* memory, std::align_val_t) noexcept { nibble::fuzz::release(memory); }
void operator delete(void* memory, size_t, std::align_val_t) noexcept {
  nibble::fuzz::release(memory);
}
void operator delete[](void* memory, size_t, std::align_val_t) noexcept {
  nibble::fuzz::release(memory);
}
