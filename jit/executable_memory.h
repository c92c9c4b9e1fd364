// Executable memory for generated kernels: asmjit's JitAllocator with two mappings of the same
// pages. Code is written through the writable view and run from the executable one; no address is
// ever writable and executable at once. Memory is freed when the object dies. Called by the code
// cache alone.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace nibble::jit {

class ExecutableMemory {
 public:
  ExecutableMemory();
  ~ExecutableMemory();
  ExecutableMemory(const ExecutableMemory&) = delete;
  ExecutableMemory& operator=(const ExecutableMemory&) = delete;

  // Copies position-independent code and returns where it runs, 64-byte aligned. Returns null and
  // sets `reason` when the system refuses executable memory. Thread-safe.
  const void* add(std::span<const uint8_t> code, std::string& reason);

  // The writable view of code that add() returned; null when it is not ours. For tests.
  void* writable_view(const void* code) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nibble::jit
