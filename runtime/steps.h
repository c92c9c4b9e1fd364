// What a step sees when it runs: the call's rows, the session's memory, and this thread's share.
#pragma once

#include <atomic>
#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/kv_cache.h"
#include "runtime/plan.h"

namespace nibble::runtime {

// cos and sin rows of one RopeTable: [positions][half].
struct RopeRows {
  const float* cos = nullptr;
  const float* sin = nullptr;
  int64_t half = 0;
};

// One work counter a step, a cache line each, so that claims of different steps do not collide.
struct alignas(64) WorkCounter {
  std::atomic<int64_t> next{0};
};

struct StepContext {
  int thread = 0, threads = 1;
  int64_t row = 0, rows = 0;  // the rows this step works on: [row, row + rows)
  int64_t position = 0;       // position of row 0 of the call
  const int32_t* ids = nullptr;
  std::byte* arena = nullptr;
  int64_t max_rows = 0;
  float* logits = nullptr;  // where row `row` of the logits goes
  int64_t logits_width = 0;
  KvCache* kv = nullptr;
  const RopeRows* rope = nullptr;  // by table
  std::byte* scratch = nullptr;    // this thread's
  WorkCounter* work = nullptr;     // this step's

  // Pointer to element 0 of row `r` (absolute within the call).
  template <typename T>
  T* at(const Operand& operand, int64_t r) const noexcept {
    if (operand.place == Operand::kLogits) {
      return reinterpret_cast<T*>(logits) + (r - row) * logits_width;
    }
    return reinterpret_cast<T*>(arena + operand.place * max_rows) + r * operand.width;
  }
};

}  // namespace nibble::runtime
