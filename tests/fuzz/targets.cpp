#include "tests/fuzz/targets.h"

#include <cstdio>
#include <cstdlib>
#include <exception>
#include <typeinfo>

#include "jit/error.h"
#include "tests/fuzz/memory_limit.h"

namespace nibble::fuzz {
namespace {

constexpr Target kTargets[] = {{"onnx", fuzz_onnx},
                               {"onnx_external", fuzz_onnx_external},
                               {"safetensors", fuzz_safetensors},
                               {"gguf", fuzz_gguf},
                               {"nib", fuzz_nib},
                               {"tokenizer", fuzz_tokenizer},
                               {"chat", fuzz_chat}};

std::string& refusal() {
  static std::string message;
  return message;
}

}  // namespace

const std::string& last_refusal() { return refusal(); }

std::span<const Target> targets() { return kTargets; }

void hold_to_promises(size_t bytes, const std::function<void()>& action) {
  constexpr size_t kFactor = 4, kMore = size_t{64} << 20;
  refusal().clear();
  const MemoryLimit limit(kFactor * bytes + kMore);
  try {
    action();
  } catch (const Error& error) {
    if (error.what()[0] == '\0') {
      std::fputs("finding: an Error that says nothing\n", stderr);
      std::abort();
    }
    refusal() = error.what();
  } catch (const std::exception& error) {
    std::fprintf(stderr, "finding: an exception of type %s: %s\n", typeid(error).name(),
                 error.what());
    std::abort();
  }
}

}  // namespace nibble::fuzz
