#include "runtime/steps.h"

#include <algorithm>
#include <span>

#include "jit/attention.h"
#include "jit/gemm.h"
#include "jit/kv_layout.h"
#include "jit/row_kernels.h"

namespace nibble::runtime {
namespace {

constexpr int64_t kFewRows = 16;  // GemmStep::few serves 2..kFewRows rows
// Weights that a thread takes at a time while memory is the bound: a microsecond or two of reading,
// which is what the threads' ends lie apart at most.
constexpr int64_t kPieceBytes = 64 << 10;
// Weights fetched ahead of a step: what waiting at a barrier has time for, and an L2 has room for.
constexpr int64_t kAheadBytes = 128 << 10;

const float* pointer(const std::shared_ptr<const std::vector<float>>& values) {
  return values ? values->data() : nullptr;
}

void run_embed(const Step& step, const StepContext& context) noexcept {
  const auto& s = *std::get_if<EmbedStep>(&step.body);
  const int64_t width = s.table.view.k;
  context.claim(context.rows, 1, [&](int64_t begin, int64_t end) {
    for (int64_t r = context.row + begin; r < context.row + end; ++r) {
      float* out = context.at<float>(s.out, r);
      jit::unpack_column(s.table.view, context.ids[r], {out, static_cast<size_t>(width)});
      if (s.scale != 1.0F) {
        for (int64_t i = 0; i < width; ++i) out[i] *= s.scale;
      }
      if (s.positions) {
        const float* p = s.positions->data() + (context.position + r + s.position_offset) * width;
        for (int64_t i = 0; i < width; ++i) out[i] += p[i];
      }
    }
  });
}

const jit::Kernel& kernel_of(const GemmStep& s, int64_t rows) noexcept {
  return rows == 1 ? *s.decode : rows <= kFewRows ? *s.few : *s.many;
}

// Column blocks that a kernel takes together.
int64_t blocks_of_unit(const GemmStep& s, const jit::Kernel& kernel) noexcept {
  const int64_t nr = kernel.key.tiling.nr;
  return s.gate && nr % 2 != 0 ? 2 * nr : nr;
}

int64_t column_blocks(const jit::PackedView& w) noexcept {
  return (w.n + jit::kColumnBlock - 1) / jit::kColumnBlock;
}

void run_gemm(const Step& step, const StepContext& context) noexcept {
  const auto& s = *std::get_if<GemmStep>(&step.body);
  const jit::Kernel& kernel = kernel_of(s, context.rows);
  jit::GemmArgs args;
  if (s.a.present()) {
    args.a = context.at<float>(s.a, context.row);
    args.a_stride = s.a.width;
  } else {
    args.a = context.at<int8_t>(s.quantized.q, context.row);
    args.a_stride = s.quantized.q.width;
    args.a_scale = context.at<float>(s.quantized.scale, context.row);
    args.a_sum = context.at<int32_t>(s.quantized.sum, context.row);
  }
  args.w = s.weight.view.data;
  args.w_scale = s.weight.view.scales;
  args.w_zero = s.weight.view.zeros;
  args.bias = pointer(s.bias);
  if (s.residual.present()) {
    args.residual = context.at<float>(s.residual, context.row);
    args.residual_stride = s.residual.width;
  }
  args.c = context.at<float>(s.out, context.row);
  args.c_stride = s.out.place == Operand::kLogits ? context.logits_width : s.out.width;
  args.c_columns = s.out_columns;
  args.m = context.rows;
  args.scratch = context.scratch;
  const int64_t blocks = column_blocks(s.weight.view);
  const int64_t unit = blocks_of_unit(s, kernel);
  const auto multiply = [&](int64_t begin, int64_t end) {
    jit::GemmArgs part = args;
    part.nb_begin = begin;
    part.nb_end = end;
    kernel.run(part);
  };
  if (context.rows > kFewRows) return context.claim(blocks, unit, multiply);
  context.share.claim(blocks, unit, kPieceBytes * blocks / step.weight_bytes, multiply);
}

void run_row(const Step& step, const StepContext& context) noexcept {
  const auto& s = *std::get_if<RowStep>(&step.body);
  const auto rows = [&](int64_t begin, int64_t end) {
    const int64_t r = context.row + begin;
    jit::RowArgs args;
    args.x = context.at<float>(s.x, r);
    args.x_stride = s.x.width;
    if (s.x2.present()) {
      args.x2 = context.at<float>(s.x2, r);
      args.x2_stride = s.x2.width;
    }
    args.weight = pointer(s.weight);
    args.bias = pointer(s.bias);
    args.eps = s.eps;
    if (s.y.present()) {
      args.y = context.at<float>(s.y, r);
      args.y_stride = s.y.width;
    }
    if (s.quantized.q.present()) {
      args.q = context.at<int8_t>(s.quantized.q, r);
      args.q_stride = s.quantized.q.width;
      args.q_scale = context.at<float>(s.quantized.scale, r);
      args.q_sum = context.at<int32_t>(s.quantized.sum, r);
      args.q_groups = s.groups;
    }
    args.rows = end - begin;
    s.kernel->run(args);
  };
  if (context.replicate && step.replicable) return rows(0, context.rows);
  context.claim(context.rows, 1, rows);
}

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

void run_cache(const Step& step, const StepContext& context) noexcept {
  const auto& s = *std::get_if<CacheStep>(&step.body);
  const HeadLayout& head = s.head;
  const int64_t share = head.heads / head.kv_heads;  // query heads a KV head
  context.claim(context.rows * head.kv_heads, 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t r = context.row + unit / head.kv_heads;
      const int64_t h = unit % head.kv_heads;
      const int64_t position = context.position + r;
      float* row = context.at<float>(s.qkv, r);
      float* key = row + head.key_column() + h * head.head_dim;
      const float* value = row + head.value_column() + h * head.head_dim;
      turn_heads(s, context, row + h * share * head.head_dim, share, s.q_norm.get(), position);
      turn_heads(s, context, key, 1, s.k_norm.get(), position);
      jit::kv_append(context.kv->type(), head.head_dim, position, key, value,
                     context.kv->keys(head.layer, h), context.kv->values(head.layer, h));
    }
  });
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
  args.keys = context.kv->keys(head.layer, block.kv_head);
  args.values = context.kv->values(head.layer, block.kv_head);
  args.lo = lo;
  args.hi = hi;
  args.slope = slope;
  args.scale = s.scale;
  args.softcap = s.softcap;
  args.out = context.at<float>(s.out, block.row) + block.q_head * head.head_dim;
  args.out_stride = block.over_heads ? head.head_dim : s.out.width;
  args.rows = block.rows;
  args.scratch = context.scratch;
  const auto* kernel = context.kv->type() == jit::KvType::f32 ? s.kernel_f32 : s.kernel_f16;
  kernel->run(args);
}

void run_attention(const Step& step, const StepContext& context) noexcept {
  const auto& s = *std::get_if<AttentionStep>(&step.body);
  const HeadLayout& head = s.head;
  const int64_t share = head.heads / head.kv_heads;
  const bool over_heads = context.rows == 1;
  // Units in the order (KV head, query head, row block): neighbours share cached keys and values.
  const int64_t span = over_heads ? share : context.rows;
  const int64_t blocks = (span + s.kernel_rows - 1) / s.kernel_rows;
  const int64_t lanes = over_heads ? head.kv_heads : head.heads;
  context.claim(lanes * blocks, 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t lane = unit / blocks;
      const int64_t first = unit % blocks * s.kernel_rows;
      AttentionBlock block;
      block.over_heads = over_heads;
      block.rows = std::min(s.kernel_rows, span - first);
      block.kv_head = over_heads ? lane : lane / share;
      block.q_head = over_heads ? lane * share + first : lane;
      block.row = context.row + (over_heads ? 0 : first);
      run_attention_block(s, context, block);
    }
  });
}

template <typename Body>
Step wrap(Body body, Step::Run run) {
  Step step;
  step.run = run;
  step.body = std::move(body);
  return step;
}

}  // namespace

Ahead weights_ahead(const Step& step, const WorkShare& share, int64_t rows) noexcept {
  const auto* s = std::get_if<GemmStep>(&step.body);
  if (s == nullptr || rows > kFewRows) return {};
  const jit::PackedView& w = s->weight.view;
  const int64_t blocks = column_blocks(w);
  const Range home = share.home(blocks, blocks_of_unit(*s, kernel_of(*s, rows)));
  const int64_t block_bytes = jit::packed_shape(w.format, w.n, w.k).block_bytes;
  const int64_t bytes = std::min((home.end - home.begin) * block_bytes, kAheadBytes);
  const auto* data = reinterpret_cast<const std::byte*>(w.data) + home.begin * block_bytes;
  return {data, data + bytes};
}

Step Step::of(EmbedStep body) { return wrap(std::move(body), run_embed); }
Step Step::of(GemmStep body) { return wrap(std::move(body), run_gemm); }
Step Step::of(RowStep body) { return wrap(std::move(body), run_row); }
Step Step::of(CacheStep body) { return wrap(std::move(body), run_cache); }
Step Step::of(AttentionStep body) { return wrap(std::move(body), run_attention); }

}  // namespace nibble::runtime
