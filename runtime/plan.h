// A compiled model: a flat array of steps over buffers whose places are already known. Built by
// graph::lower, run by Session; holds no names to look up and no types to decide on at run time.
//
// Activations live in an arena of [rows][width] buffers. A buffer's place is given in bytes per
// row: its address is arena + place * max_rows, so one plan serves every chunk length. Steps after
// the last attention are `tail` steps: when only the last row's logits are wanted they run for that
// row alone.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <iterator>
#include <memory>
#include <string>
#include <utility>
#include <variant>
#include <vector>

#include "jit/code_cache.h"
#include "runtime/packed_matrix.h"
#include "runtime/rope_table.h"

namespace nibble::runtime {

// A [rows][width] buffer in the arena; place -1: absent; kLogits: the caller's logits.
struct Operand {
  static constexpr int64_t kLogits = -2;
  int64_t place = -1;  // bytes per row
  int64_t width = 0;   // elements between rows
  // Written by a row kernel: in a pass of few rows every thread makes a copy of its own, which
  // costs less than waiting for one (StepContext::replicate).
  bool replicable = false;
  bool present() const { return place != -1; }
};

// A row of activations quantized for a matmul. Its width is in bytes.
struct QuantizedOperand {
  Operand q;           // s8 or bf16 [rows][kpad]
  Operand scale, sum;  // of s8: f32 and s32 (or s16) a group (jit::ActivationGroups)
  int64_t element_bytes = 1;
};

// Token (and position) embedding: x = table[id] * scale (+ positions[position + offset]).
struct EmbedStep {
  PackedMatrix table;
  std::shared_ptr<const std::vector<float>> positions;  // [count][width], or null
  int64_t position_offset = 0;
  float scale = 1;
  Operand out;
};

// A matmul has a kernel a bucket of rows, tiled for the most rows of the bucket: the one row of
// decoding, few, which cost little more than one, those that still wait for memory, those that no
// longer do, and the many of prefill. The last takes whatever the others do not. Buckets whose
// tilings are the same share a kernel.
inline constexpr int64_t kRowBuckets[] = {1, 4, 8, 16, 512};

// out = epilogue(a W^T).
struct GemmStep {
  PackedMatrix weight;
  std::array<const jit::Kernel*, std::size(kRowBuckets)> kernels{};
  const jit::Kernel& kernel(int64_t rows) const noexcept {
    size_t bucket = 0;
    while (bucket + 1 < kernels.size() && rows > kRowBuckets[bucket]) ++bucket;
    return *kernels[bucket];
  }
  bool gate = false;
  Operand a;                   // f32 activations, or
  QuantizedOperand quantized;  // s8 or bf16 activations
  std::shared_ptr<const std::vector<float>> bias;
  Operand residual, out;
  int64_t out_columns = 0;
};

// A row kernel: norms, quantization, activations, gates, adds, scales and softcaps.
struct RowStep {
  const jit::Kernel* kernel = nullptr;
  Operand x, x2, y;
  QuantizedOperand quantized;
  std::shared_ptr<const std::vector<float>> weight, bias;
  float eps = 0, scale = 1, cap = 1;
  // Elements of a row of a kernel whose length comes with the call: threads share its columns too.
  int64_t columns = 0;
};

// Heads of one layer's packed row [Q heads | K heads | V heads].
struct HeadLayout {
  int64_t layer = 0, heads = 0, kv_heads = 0, head_dim = 0;
  int64_t key_column() const { return heads * head_dim; }
  int64_t value_column() const { return (heads + kv_heads) * head_dim; }
  int64_t width() const { return (heads + 2 * kv_heads) * head_dim; }
};

// Per-head norms and rotation of Q and K in place, then K and V into the cache.
struct CacheStep {
  HeadLayout head;
  Operand qkv;
  const jit::Kernel* rope = nullptr;  // null: no rotation
  int rope_table = -1;
  const jit::Kernel* head_norm = nullptr;  // Qwen3: RMSNorm of every Q and K head
  bool norm_last = false;                  // behind the rotation
  std::shared_ptr<const std::vector<float>> q_norm, k_norm;
  float norm_eps = 0;
};

// Norms of spans of a packed row's Q and K columns, in place: of each head, or of all Q heads at
// once and all K heads at once.
struct HeadNormStep {
  HeadLayout head;
  Operand qkv;
  bool whole = false;
  const jit::Kernel *q = nullptr, *k = nullptr;            // of a span of Q, of K
  std::shared_ptr<const std::vector<float>> weight, bias;  // of each column; bias may be null
  float eps = 0;
};

struct AttentionStep {
  HeadLayout head;
  Operand qkv, out;
  jit::AttentionSpec
      spec;            // but for kv and rows: a session knows its cache, and asks for the kernel
  int64_t window = 0;  // 0 = none
  float scale = 1, softcap = 0;
  std::shared_ptr<const std::vector<float>> slopes;  // ALiBi, or null
};

struct StepContext;
struct Step {
  using Run = void (*)(const Step&, const StepContext&) noexcept;
  Run run = nullptr;
  std::variant<EmbedStep, GemmStep, RowStep, HeadNormStep, CacheStep, AttentionStep> body;
  bool tail = false;
  bool replicable = false;  // its output is (Operand::replicable)
  int64_t layer = -1;
  std::string label;         // for traces: kernel name, or what it does
  int64_t weight_bytes = 0;  // read once a pass
  int64_t macs = 0;          // multiply-accumulates a row

  // Wraps a body with the function that runs it.
  static Step of(EmbedStep body);
  static Step of(GemmStep body);
  static Step of(RowStep body);
  static Step of(HeadNormStep body);
  static Step of(CacheStep body);
  static Step of(AttentionStep body);

 private:
  template <typename Body>
  static Step with(Body body, Run run) {
    Step step;
    step.run = run;
    step.body = std::move(body);
    return step;
  }
};

struct Plan {
  std::vector<Step> steps;
  std::vector<RopeTable> rope_tables;
  std::vector<HeadLayout> layers;  // one a KV cache layer
  int64_t row_bytes = 0;           // arena bytes a row
  int64_t scratch_bytes = 0;       // a thread, attention aside
  int64_t vocab_size = 0;
  int64_t context_length = 0;          // most positions
  int64_t weight_bytes_per_token = 0;  // what decode must read per token
  int64_t macs_per_token = 0;          // of the matmuls
  int64_t weight_bytes = 0;            // resident weights, embeddings included
  int64_t tuned = 0;                   // tilings of matmuls that the tuning database chose
  jit::Isa isa = jit::Isa::avx2;
  bool bf16 = false;  // matmuls round activations to bf16: attention over a bf16 cache does as well
  std::vector<std::string> notes;  // for reports: e.g. "int8 compute"
};

}  // namespace nibble::runtime
