// How much weight benchmarks rotate through, so that each matrix comes from memory.
#pragma once

#include <algorithm>
#include <cstdint>

#include "jit/isa.h"

namespace nibble::perf {

// 320 MiB, or four times the L3 cache if that is more.
inline int64_t weight_pool_bytes() {
  constexpr int64_t kLeast = int64_t{320} << 20;
  return std::max(kLeast, 4 * static_cast<int64_t>(jit::cpu().l3_bytes));
}

}  // namespace nibble::perf
