// Runs the bytes of a generator without the code cache, and says whether two results have the same
// bits.
#pragma once

#include <gtest/gtest.h>

#include <bit>
#include <cmath>
#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "jit/error.h"
#include "jit/executable_memory.h"

namespace nibble::test {

// Executable memory that holds one piece of generated code for as long as it lives.
template <typename Fn>
class GeneratedCode {
 public:
  explicit GeneratedCode(const std::vector<uint8_t>& bytes) {
    std::string reason;
    code_ = memory_.add(bytes, reason);
    if (code_ == nullptr) fail("The system refused executable memory to a test: {}.", reason);
  }
  template <typename Args>
  void operator()(const Args& args) const {
    reinterpret_cast<Fn>(reinterpret_cast<uintptr_t>(code_))(&args);
  }

 private:
  jit::ExecutableMemory memory_;
  const void* code_ = nullptr;
};

// Equal bits; a NaN equals every NaN, since its payload depends on the order of operands.
inline bool same_bits(float a, float b) {
  if (std::isnan(a) || std::isnan(b)) return std::isnan(a) && std::isnan(b);
  return std::bit_cast<uint32_t>(a) == std::bit_cast<uint32_t>(b);
}

inline ::testing::AssertionResult same_bits(std::span<const float> found,
                                            std::span<const float> expected) {
  for (size_t i = 0; i < expected.size(); ++i) {
    if (!same_bits(found[i], expected[i])) {
      return ::testing::AssertionFailure()
             << fmt::format("element {} of {} is {:a}, expected {:a}", i, expected.size(), found[i],
                            expected[i]);
    }
  }
  return ::testing::AssertionSuccess();
}

}  // namespace nibble::test
