// The steps of attention: keys and values into the cache, and attention over it.
#include <algorithm>

#include "jit/attention.h"
#include "jit/kv_layout.h"
#include "jit/row_kernels.h"
#include "runtime/steps.h"

namespace nibble::runtime {
namespace {

// Normalises and rotates `heads` adjacent heads in place.
void turn_heads(const CacheStep& s, const StepContext& context, float* x, int64_t heads,
                const std::vector<float>* norm, int64_t position) noexcept {
  if (s.head_norm != nullptr) {
    jit::RowArgs args;
    args.x = x;
    args.x_stride = s.head.head_dim;
    args.y = x;
    args.y_stride = s.head.head_dim;
    args.weight = norm->data();
    args.eps = s.norm_eps;
    args.rows = heads;
    s.head_norm->run(args);
  }
  if (s.rope != nullptr) {
    const RopeRows& table = context.rope[s.rope_table];
    jit::RowArgs args;
    args.y = x;
    args.y_stride = heads * s.head.head_dim;
    args.x2 = table.cos + position * table.half;
    args.x3 = table.sin + position * table.half;
    args.x2_stride = table.half;
    args.rows = 1;
    args.heads = heads;
    s.rope->run(args);
  }
}

// Turns the query heads of one KV head and its key, and appends that and its value.
void cache_row(const CacheStep& s, const StepContext& context, int64_t r, int64_t h) noexcept {
  const HeadLayout& head = s.head;
  const int64_t share = head.heads / head.kv_heads;  // query heads a KV head
  const int64_t position = context.position + r;
  float* row = context.at<float>(s.qkv, r);
  float* key = row + head.key_column() + h * head.head_dim;
  const float* value = row + head.value_column() + h * head.head_dim;
  turn_heads(s, context, row + h * share * head.head_dim, share, s.q_norm.get(), position);
  turn_heads(s, context, key, 1, s.k_norm.get(), position);
  jit::kv_append(context.kv->type(), head.head_dim, position, key, value,
                 context.kv->head(head.layer, h));
}

void run_cache(const Step& step, const StepContext& context) noexcept {
  const auto& s = *std::get_if<CacheStep>(&step.body);
  const HeadLayout& head = s.head;
  // A head's positions a block at a time, since those share cache lines of the keys.
  const int64_t blocks = (context.rows + jit::kKeyBlock - 1) / jit::kKeyBlock;
  context.claim(blocks * head.kv_heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t first = unit / head.kv_heads * jit::kKeyBlock;
      const int64_t last = std::min(first + jit::kKeyBlock, context.rows);
      for (int64_t r = first; r < last; ++r) {
        cache_row(s, context, context.row + r, unit % head.kv_heads);
      }
    }
  });
}

const jit::Kernel& kernel_of(const AttentionStep& s, const StepContext& context) noexcept {
  return *context.attention[s.head.layer];
}

// One query head block: `rows` rows that share a KV head, `first` the first row and `q_head` its
// head.
struct AttentionBlock {
  int64_t kv_head = 0, q_head = 0, row = 0, rows = 0;
  bool over_heads = false;  // rows are heads of one token; otherwise tokens of one head
};

void run_attention_block(const AttentionStep& s, const StepContext& context,
                         const AttentionBlock& block) noexcept {
  const HeadLayout& head = s.head;
  int64_t lo[jit::kMaxAttentionRows], hi[jit::kMaxAttentionRows];
  float slope[jit::kMaxAttentionRows];
  for (int64_t i = 0; i < block.rows; ++i) {
    const int64_t position = context.position + block.row + (block.over_heads ? 0 : i);
    hi[i] = position + 1;
    lo[i] = s.window > 0 ? std::max<int64_t>(0, hi[i] - s.window) : 0;
    const auto h = static_cast<size_t>(block.q_head + (block.over_heads ? i : 0));
    slope[i] = s.slopes ? (*s.slopes)[h] : 0.0F;
  }
  jit::AttentionArgs args;
  args.q = context.at<float>(s.qkv, block.row) + block.q_head * head.head_dim;
  args.q_stride = block.over_heads ? head.head_dim : s.qkv.width;
  args.cache = context.kv->head(head.layer, block.kv_head);
  args.lo = lo;
  args.hi = hi;
  args.slope = slope;
  args.scale = s.scale;
  args.softcap = s.softcap;
  args.out = context.at<float>(s.out, block.row) + block.q_head * head.head_dim;
  args.out_stride = block.over_heads ? head.head_dim : s.out.width;
  args.rows = block.rows;
  args.scratch = context.scratch;
  kernel_of(s, context).run(args);
}

void run_attention(const Step& step, const StepContext& context) noexcept {
  const auto& s = *std::get_if<AttentionStep>(&step.body);
  const HeadLayout& head = s.head;
  const int64_t share = head.heads / head.kv_heads;
  const bool over_heads = context.rows == 1;
  // Units in the order (KV head, query head, row block): neighbours share cached keys and values.
  const int64_t span = over_heads ? share : context.rows;
  const int64_t most = std::get_if<jit::AttentionSpec>(&kernel_of(s, context).key.spec)->rows;
  const int64_t blocks = (span + most - 1) / most;
  const int64_t lanes = over_heads ? head.kv_heads : head.heads;
  context.claim(lanes * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t lane = unit / blocks;
      const int64_t first = unit % blocks * most;
      AttentionBlock block;
      block.over_heads = over_heads;
      block.rows = std::min(most, span - first);
      block.kv_head = over_heads ? lane : lane / share;
      block.q_head = over_heads ? lane * share + first : lane;
      block.row = context.row + (over_heads ? 0 : first);
      run_attention_block(s, context, block);
    }
  });
}

}  // namespace

Step Step::of(CacheStep body) { return Step::with(std::move(body), run_cache); }
Step Step::of(AttentionStep body) { return Step::with(std::move(body), run_attention); }

}  // namespace nibble::runtime
