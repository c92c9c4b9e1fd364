#include "jit/executable_memory.h"

#include <asmjit/core.h>

#include <cstring>

#include "jit/error.h"

namespace nibble::jit {
namespace {

asmjit::JitAllocator::CreateParams allocator_parameters() {
  asmjit::JitAllocator::CreateParams parameters;
  parameters.options = asmjit::JitAllocatorOptions::kUseDualMapping;
  parameters.granularity = 64;  // kernels hold constants that must be aligned to a cache line
  return parameters;
}

}  // namespace

struct ExecutableMemory::Impl {
  asmjit::JitAllocator::CreateParams parameters = allocator_parameters();
  asmjit::JitAllocator allocator{&parameters};
};

ExecutableMemory::ExecutableMemory() : impl_(std::make_unique<Impl>()) {}
ExecutableMemory::~ExecutableMemory() = default;

const void* ExecutableMemory::add(std::span<const uint8_t> code, std::string& reason) {
  if (code.empty()) fail("A code generator returned no machine code.");
  void* executable = nullptr;
  void* writable = nullptr;
  const asmjit::Error error = impl_->allocator.alloc(&executable, &writable, code.size());
  if (error != asmjit::kErrorOk) {
    reason = fmt::format("The system refused {} bytes of executable memory ({}).", code.size(),
                         asmjit::DebugUtils::errorAsString(error));
    return nullptr;
  }
  if (executable == writable) {
    impl_->allocator.release(executable);
    reason = "The system maps executable memory only where it is writable as well.";
    return nullptr;
  }
  std::memcpy(writable, code.data(), code.size());
  asmjit::VirtMem::flushInstructionCache(executable, code.size());
  return executable;
}

void* ExecutableMemory::writable_view(const void* code) const {
  void* executable = nullptr;
  void* writable = nullptr;
  size_t size = 0;
  const asmjit::Error error =
      impl_->allocator.query(const_cast<void*>(code), &executable, &writable, &size);
  return error == asmjit::kErrorOk ? writable : nullptr;
}

}  // namespace nibble::jit
