// What a step sees when it runs: the call's rows, the session's memory, and this thread's share.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/kv_cache.h"
#include "runtime/plan.h"
#include "runtime/work_sharing.h"

namespace nibble::runtime {

// cos and sin rows of one RopeTable: [positions][half].
struct RopeRows {
  const float* cos = nullptr;
  const float* sin = nullptr;
  int64_t half = 0;
};

// In a pass of at most this many rows, what row kernels compute is computed by every thread.
inline constexpr int64_t kReplicatedRows = 4;

struct StepContext {
  WorkShare share;
  bool replicate = false;     // a pass of few rows
  int64_t row = 0, rows = 0;  // the rows this step works on: [row, row + rows)
  int64_t position = 0;       // position of row 0 of the call
  const int32_t* ids = nullptr;
  std::byte* arena = nullptr;  // shared, of max_rows rows
  int64_t max_rows = 0;
  std::byte* copies = nullptr;  // this thread's replicated buffers, of kReplicatedRows rows
  float* logits = nullptr;      // where row `row` of the logits goes
  int64_t logits_width = 0;
  KvCache* kv = nullptr;
  const jit::Kernel* const* attention = nullptr;  // by layer, for the type of that cache
  const RopeRows* rope = nullptr;                 // by table
  std::byte* scratch = nullptr;                   // this thread's
  std::byte* page_states = nullptr;               // of attention that is shared by pages, and
  WorkCounter* page_counters = nullptr;           // how many pages of a block are done

  template <typename Body>
  void claim(int64_t count, int64_t unit, Body body) const noexcept {
    share.claim(count, {unit, unit, count / (share.threads() * kPiecesPerThread)}, body);
  }

  // Pointer to element 0 of row `r` (absolute within the call).
  template <typename T>
  T* at(const Operand& operand, int64_t r) const noexcept {
    if (operand.place == Operand::kLogits) {
      return reinterpret_cast<T*>(logits) + (r - row) * logits_width;
    }
    if (replicate && operand.replicable) {
      return reinterpret_cast<T*>(copies + operand.place * kReplicatedRows) + r * operand.width;
    }
    return reinterpret_cast<T*>(arena + operand.place * max_rows) + r * operand.width;
  }
};

// How a pass's attention is cut: into blocks of query rows that share a KV head (rows are the heads
// of one token, or the tokens of one head), in the order (KV head, query head, block). Where those
// are few beside the threads, their pages of the KV cache (jit/attention.h) are shared too.
struct AttentionCut {
  bool over_heads = false;
  int64_t lanes = 0, span = 0;         // lanes of so many rows each
  int64_t block_rows = 0, blocks = 0;  // rows of a block at most; blocks of a lane
  bool by_pages = false;
  int64_t page_bytes = 0;  // states of one page of one block

  int64_t count() const noexcept { return lanes * blocks; }
};
AttentionCut cut_attention(const HeadLayout& head, int64_t rows, const jit::Kernel& kernel,
                           int threads) noexcept;

// What sharing by pages needs at most, for any number of rows: bytes of states (64-byte aligned),
// and counters, which are zero before a step and after it.
struct PageStates {
  int64_t bytes = 0, counters = 0;
};
PageStates page_states(const HeadLayout& head, int64_t positions, const jit::Kernel& kernel,
                       int threads) noexcept;

// What a thread will read first when it comes to a step: the beginning of its home range's weights,
// to be fetched while it has nothing else to do. Empty for steps without weights.
struct Ahead {
  const std::byte* data = nullptr;
  const std::byte* end = nullptr;
};
Ahead weights_ahead(const Step& step, const WorkShare& share, int64_t rows) noexcept;

}  // namespace nibble::runtime
