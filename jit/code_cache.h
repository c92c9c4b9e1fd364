// The one way to get a kernel: a future per key, generation outside the lock, a failure cached as a
// failure. Where executable memory is refused the cache hands out reference kernels and says so.
#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "jit/attention.h"
#include "jit/gemm.h"
#include "jit/kernel_spec.h"
#include "jit/row_kernels.h"

namespace nibble::jit {

// A kernel ready to run. `code` is null when this is the reference fall-back (then call run_*,
// which goes through the reference). Cheap to copy; the CodeCache keeps the code alive.
struct Kernel {
  KernelKey key;
  const void* code = nullptr;
  size_t code_bytes = 0;

  void run(const GemmArgs& args) const noexcept;
  void run(const RowArgs& args) const noexcept;
  void run(const AttentionArgs& args) const noexcept;
};

class CodeCache {
 public:
  CodeCache();
  ~CodeCache();
  CodeCache(const CodeCache&) = delete;
  CodeCache& operator=(const CodeCache&) = delete;

  // The process-wide cache.
  static CodeCache& instance();

  // Generates on first use. Throws Error when the key is invalid (the same Error on every call).
  const Kernel& get(const KernelKey& key);

  std::vector<const Kernel*> kernels() const;  // all generated so far, in order of name
  double generate_ms() const;                  // time spent generating, all threads added up
  // Set when executable memory was refused: the reason, once; kernels are then references.
  std::string fallback_reason() const;
  // For tests: behave as if the system refused executable memory.
  void refuse_executable_memory();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// Intel-syntax disassembly with addresses, by Zydis.
std::string disassemble(const Kernel& kernel);

}  // namespace nibble::jit
