// Places buffers in one arena by liveness: two buffers share bytes only when no step needs both.
// Called once by whoever builds a Plan; knows nothing of what the buffers hold.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

namespace nibble::runtime {

// A buffer that holds data from the start of `first_step` to the end of `last_step`.
struct BufferLife {
  int64_t bytes = 0;
  int first_step = 0, last_step = 0;
};

struct ArenaPlan {
  std::vector<int64_t> offsets;  // one a buffer, multiples of 64
  int64_t total = 0;             // bytes of the arena, a multiple of 64
};

// First fit, largest buffer first (then the earlier one, then input order). Throws Error when a
// size is negative or a life ends before it begins. Buffers of 0 bytes get offset 0.
ArenaPlan plan_arena(std::span<const BufferLife> buffers);

}  // namespace nibble::runtime
