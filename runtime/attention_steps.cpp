// The steps of attention: norms of heads, keys and values into the cache, and attention over it.
#include <algorithm>
#include <atomic>

#include "jit/attention.h"
#include "jit/kv_layout.h"
#include "jit/row_kernels.h"
#include "runtime/steps.h"

namespace nibble::runtime {
namespace {

// Passes of at most so many rows may share attention by pages, where they have fewer blocks than
// so many a thread: threads that take that many blocks each end together well enough.
constexpr int64_t kPagedRows = 8;
constexpr int64_t kBlocksPerThread = 4;

int64_t pages_for(int64_t positions) noexcept {
  return (positions + jit::kKvPage - 1) / jit::kKvPage;
}

// Spans are independent of one another: threads share them.
void run_head_norm(const Step& step, const StepContext& context) noexcept {
  const auto& s = *std::get_if<HeadNormStep>(&step.body);
  const int64_t q_spans = s.whole ? 1 : s.head.heads;
  const int64_t spans = q_spans + (s.whole ? 1 : s.head.kv_heads);
  context.claim(context.rows * spans, 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t span = unit % spans;
      const int64_t head = s.whole ? span * s.head.heads : span, column = head * s.head.head_dim;
      jit::RowArgs args;
      args.y = context.at<float>(s.qkv, context.row + unit / spans) + column;
      args.x = args.y;
      args.weight = s.weight->data() + column;
      args.bias = s.bias != nullptr ? s.bias->data() + column : nullptr;
      args.eps = s.eps;
      args.rows = 1;
      (span < q_spans ? s.q : s.k)->run(args);
    }
  });
}

void normalise_heads(const CacheStep& s, float* x, int64_t heads,
                     const std::vector<float>& norm) noexcept {
  jit::RowArgs args;
  args.x = x;
  args.x_stride = s.head.head_dim;
  args.y = x;
  args.y_stride = s.head.head_dim;
  args.weight = norm.data();
  args.eps = s.norm_eps;
  args.rows = heads;
  s.head_norm->run(args);
}

// Normalises and rotates `heads` adjacent heads in place.
void turn_heads(const CacheStep& s, const StepContext& context, float* x, int64_t heads,
                const std::vector<float>* norm, int64_t position) noexcept {
  if (s.head_norm != nullptr && !s.norm_last) normalise_heads(s, x, heads, *norm);
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
  if (s.head_norm != nullptr && s.norm_last) normalise_heads(s, x, heads, *norm);
}

// What a row has for one KV head: its query heads, its key and its value.
struct CacheRow {
  CacheRow(const CacheStep& s, const StepContext& context, int64_t r, int64_t h) noexcept
      : share(s.head.heads / s.head.kv_heads) {
    float* row = context.at<float>(s.qkv, r);
    queries = row + h * share * s.head.head_dim;
    key = row + s.head.key_column() + h * s.head.head_dim;
    value = row + s.head.value_column() + h * s.head.head_dim;
  }
  int64_t share;  // query heads a KV head
  float *queries, *key, *value;
};

// Turns the query heads of one KV head and its key.
void turn_row(const CacheStep& s, const StepContext& context, int64_t r, int64_t h) noexcept {
  const CacheRow row(s, context, r, h);
  const int64_t position = context.position + r;
  turn_heads(s, context, row.queries, row.share, s.q_norm.get(), position);
  turn_heads(s, context, row.key, 1, s.k_norm.get(), position);
}

// Appends a KV head's keys, which are turned, and its values.
void append_rows(const CacheStep& s, const StepContext& context, int64_t first, int64_t rows,
                 int64_t h) noexcept {
  const CacheRow row(s, context, first, h);
  jit::kv_append(context.kv->type(), s.head.head_dim, context.position + first, row.key, row.value,
                 context.kv->head(s.head.layer, h), rows, s.qkv.width);
}

constexpr int kIntoL2 = 1, kIntoL1 = 3;

template <int kLocality>
void fetch(const float* x, int64_t count) noexcept {
  constexpr int64_t kLine = 64 / sizeof(float);
  for (int64_t i = 0; i < count; i += kLine) __builtin_prefetch(x + i, 0, kLocality);
}

// The lines that turn_row and append_rows will read: a head's rows lie so far apart that no
// hardware foresees it.
template <int kLocality>
void fetch_row(const CacheStep& s, const StepContext& context, int64_t r, int64_t h) noexcept {
  const CacheRow row(s, context, r, h);
  fetch<kLocality>(row.queries, row.share * s.head.head_dim);
  fetch<kLocality>(row.key, s.head.head_dim);
  fetch<kLocality>(row.value, s.head.head_dim);
}

// Where there are blocks enough, so many heads are taken together: what they write, 8 KiB each,
// stays in the L1.
constexpr int64_t kHeadsTogether = 2;
// What a head has in a row comes into the L2 so many turns ahead (a prompt's rows are in the L3 or
// further away), and into the L1 one ahead.
constexpr int64_t kTurnsAhead = 8;

// Heads' positions a block at a time, since those share cache lines of the keys and lanes of the
// values.
void run_cache(const Step& step, const StepContext& context) noexcept {
  const auto& s = *std::get_if<CacheStep>(&step.body);
  const int64_t begin_row = context.row, end_row = begin_row + context.rows;
  const int64_t first_block = (context.position + begin_row) / jit::kKeyBlock;
  const int64_t end_block = (context.position + end_row - 1) / jit::kKeyBlock + 1;
  const int64_t blocks = end_block - first_block;
  const bool many = blocks >= kBlocksPerThread * context.share.threads();
  const int64_t heads = many && s.head.kv_heads % kHeadsTogether == 0 ? kHeadsTogether : 1;
  const int64_t parts = s.head.kv_heads / heads;
  context.claim(blocks * parts, 1, [&](int64_t begin, int64_t end) {
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t block = (first_block + unit / parts) * jit::kKeyBlock - context.position;
      const int64_t row = std::max(block, begin_row), first = unit % parts * heads;
      const int64_t rows = std::min(block + jit::kKeyBlock, end_row) - row, turns = rows * heads;
      const auto row_of = [&](int64_t turn) { return row + turn / heads; };
      const auto head_of = [&](int64_t turn) { return first + turn % heads; };
      for (int64_t i = 0; i < turns; ++i) {
        const int64_t far = i + kTurnsAhead, next = i + 1;
        if (far < turns) fetch_row<kIntoL2>(s, context, row_of(far), head_of(far));
        if (next < turns) fetch_row<kIntoL1>(s, context, row_of(next), head_of(next));
        turn_row(s, context, row_of(i), head_of(i));
      }
      for (int64_t h = first; h < first + heads; ++h) append_rows(s, context, row, rows, h);
    }
  });
}

const jit::Kernel& kernel_of(const AttentionStep& s, const StepContext& context) noexcept {
  return *context.attention[s.head.layer];
}

// One block of a cut, and what is to be computed of it.
struct AttentionBlock {
  int64_t kv_head = 0, q_head = 0;  // of its first row
  int64_t row = 0, rows = 0;
  jit::AttentionPart part = jit::AttentionPart::whole;
  int64_t first_page = 0, end_page = 0;  // of AttentionPart::pages
  std::byte* states = nullptr;
};

AttentionBlock block_of(const AttentionCut& cut, const HeadLayout& head, int64_t index) noexcept {
  const int64_t share = head.heads / head.kv_heads;
  const int64_t lane = index / cut.blocks, first = index % cut.blocks * cut.block_rows;
  AttentionBlock block;
  block.rows = std::min(cut.block_rows, cut.span - first);
  block.kv_head = cut.over_heads ? lane : lane / share;
  block.q_head = cut.over_heads ? lane * share + first : lane;
  block.row = cut.over_heads ? 0 : first;
  return block;
}

int64_t first_visible(const AttentionStep& s, int64_t position) noexcept {
  return s.window > 0 ? std::max<int64_t>(0, position + 1 - s.window) : 0;
}

void run_block(const AttentionStep& s, const StepContext& context, const AttentionCut& cut,
               const AttentionBlock& block) noexcept {
  const HeadLayout& head = s.head;
  int64_t lo[jit::kMaxAttentionRows], hi[jit::kMaxAttentionRows];
  float slope[jit::kMaxAttentionRows];
  const int64_t row = context.row + block.row;
  for (int64_t i = 0; i < block.rows; ++i) {
    const int64_t position = context.position + row + (cut.over_heads ? 0 : i);
    hi[i] = position + 1;
    lo[i] = first_visible(s, position);
    const auto h = static_cast<size_t>(block.q_head + (cut.over_heads ? i : 0));
    slope[i] = s.slopes ? (*s.slopes)[h] : 0.0F;
  }
  jit::AttentionArgs args;
  args.q = context.at<float>(s.qkv, row) + block.q_head * head.head_dim;
  args.q_stride = cut.over_heads ? head.head_dim : s.qkv.width;
  args.cache = context.kv->head(head.layer, block.kv_head);
  args.lo = lo;
  args.hi = hi;
  args.slope = slope;
  args.scale = s.scale;
  args.softcap = s.softcap;
  args.out = context.at<float>(s.out, row) + block.q_head * head.head_dim;
  args.out_stride = cut.over_heads ? head.head_dim : s.out.width;
  args.rows = block.rows;
  args.scratch = context.scratch;
  args.part = block.part;
  args.begin = block.first_page * jit::kKvPage;
  args.end = block.end_page * jit::kKvPage;
  args.states = block.states;
  args.state_stride = cut.page_bytes;
  kernel_of(s, context).run(args);
}

// The queries of a block of a prompt's rows, which lie as far apart, while the one before it is
// computed.
void fetch_queries(const AttentionStep& s, const StepContext& context,
                   const AttentionBlock& block) noexcept {
  for (int64_t row = context.row + block.row; row < context.row + block.row + block.rows; ++row) {
    const float* queries = context.at<float>(s.qkv, row) + block.q_head * s.head.head_dim;
    fetch<kIntoL2>(queries, s.head.head_dim);
  }
}

// Pages of all blocks are taken as they come. Whoever ends the last page of a block merges them: in
// their order, whichever thread had which.
void run_by_pages(const AttentionStep& s, const StepContext& context, const AttentionCut& cut,
                  int64_t first_page, int64_t pages) noexcept {
  context.claim(cut.count() * pages, 1, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t index = begin / pages, page = begin % pages;
      const int64_t taken = std::min(end - begin, pages - page);
      AttentionBlock block = block_of(cut, s.head, index);
      block.part = jit::AttentionPart::pages;
      block.first_page = first_page + page;
      block.end_page = block.first_page + taken;
      block.states = context.page_states + (index * pages - first_page) * cut.page_bytes;
      run_block(s, context, cut, block);
      std::atomic<int64_t>& done = context.page_counters[index].taken;
      if (done.fetch_add(taken, std::memory_order_acq_rel) + taken == pages) {
        done.store(0, std::memory_order_relaxed);
        block.part = jit::AttentionPart::merge;
        run_block(s, context, cut, block);
      }
      begin += taken;
    }
  });
}

void run_attention(const Step& step, const StepContext& context) noexcept {
  const auto& s = *std::get_if<AttentionStep>(&step.body);
  const AttentionCut cut =
      cut_attention(s.head, context.rows, kernel_of(s, context), context.share.threads());
  if (cut.by_pages) {
    const int64_t position = context.position + context.row;
    const int64_t first = first_visible(s, position) / jit::kKvPage;
    const int64_t pages = pages_for(position + context.rows) - first;
    if (pages > 1) return run_by_pages(s, context, cut, first, pages);
  }
  context.claim(cut.count(), 1, [&](int64_t begin, int64_t end) {
    for (int64_t i = begin; i < end; ++i) {
      const int64_t next = i + 1;
      if (next < cut.count() && !cut.over_heads) {
        fetch_queries(s, context, block_of(cut, s.head, next));
      }
      run_block(s, context, cut, block_of(cut, s.head, i));
    }
  });
}

}  // namespace

AttentionCut cut_attention(const HeadLayout& head, int64_t rows, const jit::Kernel& kernel,
                           int threads) noexcept {
  AttentionCut cut;
  cut.over_heads = rows == 1;
  cut.lanes = cut.over_heads ? head.kv_heads : head.heads;
  cut.span = cut.over_heads ? head.heads / head.kv_heads : rows;
  cut.block_rows =
      std::min<int64_t>(cut.span, std::get_if<jit::AttentionSpec>(&kernel.key.spec)->rows);
  cut.blocks = (cut.span + cut.block_rows - 1) / cut.block_rows;
  cut.by_pages = threads > 1 && rows <= kPagedRows && cut.count() < threads * kBlocksPerThread;
  cut.page_bytes = cut.block_rows * jit::attention_state_bytes(head.head_dim);
  return cut;
}

PageStates page_states(const HeadLayout& head, int64_t positions, const jit::Kernel& kernel,
                       int threads) noexcept {
  PageStates most;
  for (int64_t rows = 1; rows <= kPagedRows; ++rows) {
    const AttentionCut cut = cut_attention(head, rows, kernel, threads);
    if (!cut.by_pages) continue;
    most.bytes = std::max(most.bytes, cut.count() * pages_for(positions) * cut.page_bytes);
    most.counters = std::max(most.counters, cut.count());
  }
  return most;
}

Step Step::of(HeadNormStep body) { return Step::with(std::move(body), run_head_norm); }
Step Step::of(CacheStep body) { return Step::with(std::move(body), run_cache); }
Step Step::of(AttentionStep body) { return Step::with(std::move(body), run_attention); }

}  // namespace nibble::runtime
