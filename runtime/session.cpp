#include "runtime/session.h"

#include <x86intrin.h>

#include <algorithm>

#include "jit/attention.h"
#include "jit/code_cache.h"
#include "jit/error.h"
#include "runtime/pages.h"
#include "runtime/recorder.h"
#include "runtime/steps.h"

namespace nibble::runtime {
namespace {

constexpr int64_t kRopeGrowth = 256;         // positions computed at a time
constexpr int64_t kMostPositions = 1 << 30;  // sizes computed from a context stay in range

// Page-aligned memory; zeroed, touched on use.
class Memory {
 public:
  Memory() = default;
  Memory(size_t bytes, const char* what) : bytes_(bytes) {
    if (bytes_ == 0) return;
    data_ = map_pages(bytes_);
    if (!data_) fail("The {} needs {} bytes, and the system refused them.", what, bytes_);
  }
  std::byte* data() const { return data_.get(); }
  size_t bytes() const { return bytes_; }

 private:
  std::shared_ptr<std::byte> data_;
  size_t bytes_ = 0;
};

// cos and sin rows of a RopeTable; memory is touched as positions are reached.
struct RopeValues {
  Memory memory;
  float* cos;
  float* sin;
  int64_t half;
  RopeValues(int64_t half_dims, int64_t positions)
      : memory(2 * sizeof(float) * static_cast<size_t>(half_dims * positions), "rotation table"),
        cos(reinterpret_cast<float*>(memory.data())),
        sin(cos + half_dims * positions),
        half(half_dims) {}
};

constexpr int kFloatAttentionRows = 4;  // a call of fewer rows costs as much

// A cache whose elements lie as they are multiplied (jit/attention.h).
jit::KvType cache_type(const Plan& plan, jit::KvType asked) {
  return plan.bf16 && asked == jit::KvType::bf16 ? jit::KvType::bf16_pairs : asked;
}

// The kernel of each layer's attention over a cache of this type.
std::vector<const jit::Kernel*> attention_kernels(const Plan& plan, jit::KvType kv) {
  std::vector<const jit::Kernel*> kernels(plan.layers.size());
  for (const Step& step : plan.steps) {
    const auto* attention = std::get_if<AttentionStep>(&step.body);
    if (attention == nullptr) continue;
    jit::AttentionSpec spec = attention->spec;
    spec.kv = kv;
    spec.rows = jit::is_paired(kv) ? jit::kMaxAttentionRows : kFloatAttentionRows;
    kernels[static_cast<size_t>(attention->head.layer)] =
        &jit::CodeCache::instance().get({spec, plan.isa, {}});
  }
  return kernels;
}

int64_t scratch_bytes(const Plan& plan, const std::vector<const jit::Kernel*>& attention) {
  int64_t bytes = plan.scratch_bytes;
  for (const jit::Kernel* kernel : attention) {
    if (kernel == nullptr) continue;
    const auto& spec = std::get<jit::AttentionSpec>(kernel->key.spec);
    bytes = std::max(bytes, jit::attention_scratch_bytes(spec));
  }
  return bytes;
}

// The most that any layer's attention needs to be shared by pages.
PageStates states_for(const Plan& plan, const std::vector<const jit::Kernel*>& attention,
                      int64_t positions, int threads) {
  PageStates most;
  for (size_t layer = 0; layer < attention.size(); ++layer) {
    if (attention[layer] == nullptr) continue;
    const PageStates one = page_states(plan.layers[layer], positions, *attention[layer], threads);
    most.bytes = std::max(most.bytes, one.bytes);
    most.counters = std::max(most.counters, one.counters);
  }
  return most;
}

size_t page_round(int64_t bytes) { return (static_cast<size_t>(bytes) + 4095) / 4096 * 4096; }

}  // namespace

struct Session::Impl {
  std::shared_ptr<const Plan> plan;
  std::shared_ptr<ThreadPool> pool;
  int64_t context_length = 0, position = 0, max_rows = 0;
  KvCache kv;
  std::vector<const jit::Kernel*> attention;
  PageStates states_needed;
  size_t scratch_stride = 0, copies_stride = 0;
  Memory arena, scratch, copies, page_states;
  // Two sets of one counter a thread: while a step uses one, the other is cleared for the next.
  std::vector<WorkCounter> work, page_counters;
  std::vector<std::unique_ptr<RopeValues>> rope_values;
  std::vector<RopeRows> rope_rows;
  int64_t rope_positions = 0;
  std::vector<float> last_logits;
  Recorder* recorder = nullptr;

  Impl(std::shared_ptr<const Plan> p, std::shared_ptr<ThreadPool> t, const SessionOptions& options,
       int64_t context)
      : plan(std::move(p)),
        pool(std::move(t)),
        context_length(context),
        max_rows(std::min(options.prefill_chunk, context)),
        kv(plan->layers, cache_type(*plan, options.kv), context,
           pool->placement().nodes.size() < 2),
        attention(attention_kernels(*plan, kv.type())),
        states_needed(states_for(*plan, attention, context, pool->size())),
        scratch_stride(page_round(scratch_bytes(*plan, attention))),
        copies_stride(page_round(plan->row_bytes * kReplicatedRows)),
        arena(page_round(plan->row_bytes * max_rows), "activation arena"),
        scratch(scratch_stride * static_cast<size_t>(pool->size()), "kernels' scratch"),
        copies(copies_stride * static_cast<size_t>(pool->size()), "threads' copies of activations"),
        page_states(page_round(states_needed.bytes), "states of attention"),
        work(2 * static_cast<size_t>(pool->size())),
        page_counters(static_cast<size_t>(states_needed.counters)),
        last_logits(static_cast<size_t>(plan->vocab_size)) {
    for (const RopeTable& table : plan->rope_tables) {
      const auto half = static_cast<int64_t>(table.inv_freq.size());
      rope_values.push_back(std::make_unique<RopeValues>(half, context_length));
      const RopeValues& values = *rope_values.back();
      rope_rows.push_back({values.cos, values.sin, half});
    }
  }

  void grow_rope(int64_t positions) {
    if (positions <= rope_positions) return;
    positions = std::min(context_length, std::max(positions, rope_positions + kRopeGrowth));
    for (size_t t = 0; t < rope_values.size(); ++t) {
      const RopeTable& table = plan->rope_tables[t];
      const RopeValues& values = *rope_values[t];
      for (int64_t p = rope_positions; p < positions; ++p) {
        rope_row(table, p, values.cos + p * values.half, values.sin + p * values.half);
      }
    }
    rope_positions = positions;
  }

  // One pass over `ids`. logits: null, or where the tail rows' logits go; `all`: a row for every
  // id, otherwise for the last one only.
  void pass(std::span<const int32_t> ids, float* logits, bool all) noexcept {
    struct Call {
      Impl* self;
      std::span<const int32_t> ids;
      float* logits;
      bool all;
    } call{this, ids, logits, all};
    pool->run(
        [](void* arg, int thread) noexcept {
          const auto& c = *static_cast<Call*>(arg);
          c.self->walk(thread, c.ids, c.logits, c.all);
        },
        &call);
    position += static_cast<int64_t>(ids.size());
  }

  void walk(int thread, std::span<const int32_t> ids, float* logits, bool all) noexcept {
    const auto rows = static_cast<int64_t>(ids.size());
    const auto at = static_cast<size_t>(thread);
    StepContext context;
    context.share = {thread, &pool->placement(), work.data()};
    context.replicate = rows <= kReplicatedRows && pool->size() > 1;
    context.position = position;
    context.ids = ids.data();
    context.arena = arena.data();
    context.max_rows = max_rows;
    context.copies = copies.data() + at * copies_stride;
    context.logits = logits;
    context.logits_width = plan->vocab_size;
    context.kv = &kv;
    context.attention = attention.data();
    context.rope = rope_rows.data();
    context.scratch = scratch.data() + at * scratch_stride;
    context.page_states = page_states.data();
    context.page_counters = page_counters.data();
    for (size_t i = 0; i < plan->steps.size(); ++i) {
      const Step& step = plan->steps[i];
      if (step.tail && logits == nullptr) break;  // and so are all behind it
      const bool last_only = step.tail && !all;
      context.row = last_only ? rows - 1 : 0;
      context.rows = last_only ? 1 : rows;
      const uint64_t begin = recorder != nullptr ? __rdtsc() : 0;
      step.run(step, context);
      const uint64_t end = recorder != nullptr ? __rdtsc() : 0;
      if (!(context.replicate && step.replicable)) end_step(context, i + 1);
      if (recorder != nullptr) recorder->mark(i, context, {begin, end, __rdtsc()});
    }
  }

  // Waits for the others, and fetches weights meanwhile that this thread will need next.
  void end_step(StepContext& context, size_t next) noexcept {
    while (next < plan->steps.size() && plan->steps[next].replicable) ++next;
    const Ahead ahead = next < plan->steps.size()
                            ? weights_ahead(plan->steps[next], context.share, context.rows)
                            : Ahead{};
    pool->barrier(ahead.data, ahead.end);
    WorkShare& share = context.share;
    share.counters[share.thread].taken.store(0, std::memory_order_relaxed);
    share.counters = share.counters == work.data() ? work.data() + share.threads() : work.data();
  }
};

namespace {

int64_t choose_context(const Plan& plan, int64_t wanted) {
  if (wanted < 0 || wanted > plan.context_length) {
    fail("The context was asked to hold {} positions, but this model's context length is {}.",
         wanted, plan.context_length);
  }
  const int64_t context = wanted == 0 ? plan.context_length : wanted;
  if (context > kMostPositions) {
    fail("A context of {} positions is more than {}; ask for a shorter one.", context,
         kMostPositions);
  }
  return context;
}

}  // namespace

Session::Session(std::shared_ptr<const Plan> plan, std::shared_ptr<ThreadPool> pool,
                 const SessionOptions& options) {
  if (options.prefill_chunk < 1) {
    fail("The prefill chunk must be at least 1 row, found {}.", options.prefill_chunk);
  }
  const int64_t context = choose_context(*plan, options.context);
  impl_ = std::make_unique<Impl>(std::move(plan), std::move(pool), options, context);
}

Session::~Session() = default;

int64_t Session::vocab_size() const { return impl_->plan->vocab_size; }
int64_t Session::context_length() const { return impl_->context_length; }
int64_t Session::position() const { return impl_->position; }
void Session::reset() { impl_->position = 0; }

// A position's keys, values and scales are its own, so what lies behind is simply written again.
bool Session::rewind(int64_t position) {
  if (position < 0 || position > impl_->position) return false;
  impl_->position = position;
  return true;
}

jit::KvType Session::kv_type() const { return impl_->kv.type(); }
void Session::record(Recorder* recorder) { impl_->recorder = recorder; }
const Plan& Session::plan() const { return *impl_->plan; }

std::span<const float> Session::forward(std::span<const int32_t> ids) {
  check_ids(ids);
  impl_->grow_rope(impl_->position + static_cast<int64_t>(ids.size()));
  while (!ids.empty()) {
    const auto chunk = ids.first(std::min(ids.size(), static_cast<size_t>(impl_->max_rows)));
    ids = ids.subspan(chunk.size());
    impl_->pass(chunk, ids.empty() ? impl_->last_logits.data() : nullptr, false);
  }
  return impl_->last_logits;
}

void Session::forward_all(std::span<const int32_t> ids, std::span<float> out) {
  check_ids(ids);
  const auto vocab = static_cast<size_t>(vocab_size());
  if (out.size() != ids.size() * vocab) {
    fail("The logits of {} ids need {} floats, but the buffer holds {}.", ids.size(),
         ids.size() * vocab, out.size());
  }
  impl_->grow_rope(impl_->position + static_cast<int64_t>(ids.size()));
  while (!ids.empty()) {
    const auto chunk = ids.first(std::min(ids.size(), static_cast<size_t>(impl_->max_rows)));
    impl_->pass(chunk, out.data(), true);
    ids = ids.subspan(chunk.size());
    out = out.subspan(chunk.size() * vocab);
  }
}

void Session::populate(int64_t positions) { impl_->kv.populate(positions); }

SessionMemory Session::memory() const {
  SessionMemory memory;
  memory.weight_bytes = impl_->plan->weight_bytes;
  memory.arena_bytes = static_cast<int64_t>(impl_->arena.bytes());
  memory.kv_bytes = impl_->kv.bytes();
  memory.scratch_bytes = static_cast<int64_t>(impl_->scratch.bytes());
  return memory;
}

}  // namespace nibble::runtime
