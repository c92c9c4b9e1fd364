#include "runtime/step_work.h"

#include <algorithm>

#include "jit/kv_layout.h"
#include "runtime/packed_matrix.h"

namespace nibble::runtime {
namespace {

int64_t kv_bytes(const HeadLayout& head, int64_t positions, jit::KvType kv) {
  return 2 * head.kv_heads * jit::kv_bytes(kv, head.head_dim, positions);
}

StepWork embed_work(const EmbedStep& step, int64_t rows) {
  return {stored_bytes(step.table.view) / std::max<int64_t>(1, step.table.view.n) * rows, 0};
}

StepWork attention_work(const AttentionStep& step, int64_t position, int64_t rows, jit::KvType kv) {
  const HeadLayout& head = step.head;
  int64_t pairs = 0;  // of a query row and a key
  for (int64_t held = position + 1; held <= position + rows; ++held) {
    pairs += step.window > 0 ? std::min(held, step.window) : held;
  }
  const int64_t first = step.window > 0 ? std::max<int64_t>(0, position + 1 - step.window) : 0;
  return {kv_bytes(head, position + rows - first, kv), 4 * head.heads * head.head_dim * pairs};
}

}  // namespace

StepWork work_of(const Step& step, int64_t position, int64_t rows, jit::KvType kv) {
  if (const auto* attention = std::get_if<AttentionStep>(&step.body)) {
    return attention_work(*attention, position, rows, kv);
  }
  if (const auto* cache = std::get_if<CacheStep>(&step.body)) {
    return {kv_bytes(cache->head, rows, kv), 0};
  }
  if (const auto* embed = std::get_if<EmbedStep>(&step.body)) return embed_work(*embed, rows);
  return {step.weight_bytes, 2 * step.macs * rows};
}

int64_t kv_bytes_read(const Plan& plan, int64_t position, jit::KvType kv) {
  int64_t bytes = 0;
  for (const Step& step : plan.steps) {
    if (std::holds_alternative<AttentionStep>(step.body)) {
      bytes += work_of(step, position, 1, kv).bytes;
    }
  }
  return bytes;
}

std::string step_kind(const Step& step) {
  const auto* gemm = std::get_if<GemmStep>(&step.body);
  return gemm == nullptr || gemm->kernels[0] == nullptr ? step.label
                                                        : jit::name(gemm->kernel(1).key.spec);
}

}  // namespace nibble::runtime
