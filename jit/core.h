// Which kind of core this is, where the best tilings of kinds differ (default_tiling, gemm.h). Bits
// never do.
#pragma once

#include <cstdint>

#include "jit/isa.h"

namespace nibble::jit {

enum class Core : uint8_t {
  zen4,  // a 512-bit dot product a cycle; reads one stream fastest. Whatever is not known, too
  zen5,  // two a cycle, which loads must keep up with; reads several long streams fastest
  golden_cove,  // Intel's: two a cycle, on the ports that unpack weights too; streams likewise
};

Core core_of(const CpuInfo& info);
Core this_core();

}  // namespace nibble::jit
