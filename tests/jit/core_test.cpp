// Kinds of cores. That the tilings of all give the same bits: gemm_test.cpp.
#include "jit/core.h"

#include <gtest/gtest.h>

namespace nibble::jit {
namespace {

CpuInfo processor(const char* vendor, uint32_t family) {
  CpuInfo info;
  info.vendor = vendor;
  info.family = family;
  return info;
}

TEST(Core, IsKnownByVendorAndFamily) {
  EXPECT_EQ(core_of(processor("AuthenticAMD", 26)), Core::zen5);
  EXPECT_EQ(core_of(processor("AuthenticAMD", 25)), Core::zen4);
  EXPECT_EQ(core_of(processor("GenuineIntel", 6)), Core::golden_cove);
  EXPECT_EQ(core_of({}), Core::zen4);
}

}  // namespace
}  // namespace nibble::jit
