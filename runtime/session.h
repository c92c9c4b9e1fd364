// Runs a Plan: owns the arena, the KV cache and the threads' scratch; prefill in chunks, then
// decode.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <vector>

#include "jit/kernel_spec.h"
#include "runtime/decoder.h"
#include "runtime/plan.h"
#include "runtime/thread_pool.h"

namespace nibble::runtime {

struct SessionOptions {
  int64_t context = 0;          // positions to keep; 0 = the plan's own context length
  int64_t prefill_chunk = 512;  // rows per pass at most
  jit::KvType kv = jit::KvType::int16;
};

struct SessionMemory {
  int64_t weight_bytes = 0, arena_bytes = 0, kv_bytes = 0, scratch_bytes = 0;
};

class Recorder;

class Session : public Decoder {
 public:
  // Throws Error when the context is larger than the model's or memory is refused.
  Session(std::shared_ptr<const Plan> plan, std::shared_ptr<ThreadPool> pool,
          const SessionOptions& options);
  ~Session() override;

  int64_t vocab_size() const override;
  int64_t context_length() const override;
  int64_t position() const override;
  void reset() override;
  bool rewind(int64_t position) override;
  std::span<const float> forward(std::span<const int32_t> ids) override;
  void forward_all(std::span<const int32_t> ids, std::span<float> out) override;

  SessionMemory memory() const;
  const Plan& plan() const;
  // Of the cache: bf16_pairs where bf16 was asked for and the plan computes in bf16.
  jit::KvType kv_type() const;

  // Has memory given to the KV cache of the first `positions` positions now, where otherwise it is
  // given as they come, a hundredth or more of the time that a prompt takes.
  void populate(int64_t positions);

  // Times every step from now on; null: no longer. The recorder is the caller's, with a lane for
  // every thread of the pool.
  void record(Recorder* recorder);

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nibble::runtime
