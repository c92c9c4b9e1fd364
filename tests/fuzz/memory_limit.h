// Holds code to a limit of memory: while one of these lives, allocations by operator new (which
// memory_limit.cpp replaces in this program) that bring what the process holds more than `bytes`
// above where it was end the process with a message. Memory that is mapped or that C libraries
// allocate is not counted.
#pragma once

#include <cstddef>

namespace nibble::fuzz {

class MemoryLimit {
 public:
  explicit MemoryLimit(size_t bytes);
  ~MemoryLimit();
  MemoryLimit(const MemoryLimit&) = delete;
  MemoryLimit& operator=(const MemoryLimit&) = delete;

  size_t peak() const;  // bytes, above where it was
};

}  // namespace nibble::fuzz
