// Attention in plain C++: what the generated code must equal bit for bit. It needs no scratch.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <limits>

#include "jit/attention.h"
#include "jit/attention_generator.h"
#include "jit/attention_integer.h"
#include "jit/attention_pages.h"
#include "jit/attention_scratch.h"
#include "jit/error.h"
#include "jit/float16.h"
#include "jit/kv_layout.h"
#include "jit/reference_lanes.h"
#include "jit/scalar_math.h"

namespace nibble::jit {
namespace {

float cached(KvType type, const void* base, int64_t index) {
  if (type == KvType::f32) return static_cast<const float*>(base)[index];
  const uint16_t bits = static_cast<const uint16_t*>(base)[index];
  return type == KvType::f16 ? f16_to_f32(bits) : std::bit_cast<float>(uint32_t{bits} << 16);
}

// `split`: the record that holds position t.
float score(const AttentionSpec& spec, const AttentionArgs& args, const std::byte* split,
            int64_t row, int64_t t) {
  ScalarMath v;
  const float* q = args.q + row * args.q_stride;
  const int64_t block = t % kKvSplit / kKeyBlock * spec.head_dim * kKeyBlock + t % kKeyBlock;
  float dot = 0;
  for (int64_t d = 0; d < spec.head_dim; ++d) {
    dot = std::fma(q[d], cached(spec.kv, split, block + d * kKeyBlock), dot);
  }
  float s = dot * args.scale;
  if (spec.softcap) s = args.softcap * vector_tanh(v, s / args.softcap);
  if (spec.alibi) s = std::fma(args.slope[row], static_cast<float>(t - (args.hi[row] - 1)), s);
  return s;
}

// One split: the positions [begin, end).
void attend(const AttentionSpec& spec, const AttentionArgs& args, int64_t row, int64_t begin,
            int64_t end, RowState& partial) {
  ScalarMath v;
  const KvRecord record = kv_record(spec.kv, spec.head_dim);
  const std::byte* split = kv_split(record, args.cache, begin / kKvSplit);
  const std::byte* values = split + record.values;
  std::array<float, kKvSplit> p;
  Lanes lanes;
  lanes.fill(-std::numeric_limits<float>::infinity());
  for (int64_t t = begin; t < end; ++t) {
    const float s = score(spec, args, split, row, t);
    float& lane = lanes[static_cast<size_t>(t) % kLanes];
    lane = v.max(s, lane);
    p[static_cast<size_t>(t - begin)] = s;
  }
  partial.max = reduce(lanes, [&](float a, float b) { return v.max(a, b); });
  lanes.fill(0);
  for (int64_t t = begin; t < end; ++t) {
    float& s = p[static_cast<size_t>(t - begin)];
    s = vector_exp(v, s - partial.max);
    lanes[static_cast<size_t>(t) % kLanes] += s;
  }
  partial.sum = reduce_add(lanes);
  for (int64_t d = 0; d < spec.head_dim; ++d) {
    float o = 0;
    for (int64_t t = begin; t < end; ++t) {
      o = std::fma(p[static_cast<size_t>(t - begin)],
                   cached(spec.kv, values, t % kKvSplit * spec.head_dim + d), o);
    }
    partial.out[static_cast<size_t>(d)] = o;
  }
}

// Takes `part` into `all`. `exp` is e^x or 2^x, whichever made the weights of both.
template <typename Exp>
void merge(int64_t head_dim, const RowState& part, RowState& all, Exp exp) {
  ScalarMath v;
  const float max = v.max(all.max, part.max);
  const float keep = exp(v, all.max - max);
  const float add = exp(v, part.max - max);
  for (size_t d = 0; d < static_cast<size_t>(head_dim); ++d) {
    all.out[d] = std::fma(all.out[d], keep, part.out[d] * add);
  }
  all.sum = std::fma(all.sum, keep, part.sum * add);
  all.max = max;
}

constexpr auto kExponential = [](ScalarMath& v, float x) { return vector_exp(v, x); };
constexpr auto kExponential2 = [](ScalarMath& v, float x) { return vector_exp2(v, x); };

// The page that begins at `start`.
void attend_page(const AttentionSpec& spec, const AttentionArgs& args, int64_t row, int64_t start,
                 RowState& page, RowState& split) {
  const int64_t begin = std::max(args.lo[row], start);
  const int64_t end = std::min(args.hi[row], start + kKvPage);
  for (int64_t at = begin / kKvSplit * kKvSplit; at < end; at += kKvSplit) {
    RowState& target = at <= begin ? page : split;
    attend(spec, args, row, std::max(begin, at), std::min(end, at + kKvSplit), target);
    if (at > begin) merge(spec.head_dim, split, page, kExponential);
  }
}

}  // namespace

PageRange pages_of(const AttentionArgs& args, int64_t row) {
  PageRange range{args.lo[row] / kKvPage * kKvPage, args.hi[row]};
  if (args.part == AttentionPart::pages) {
    range = {std::max(range.begin, args.begin), std::min(range.end, args.end)};
  }
  return range;
}

float* state_of(int64_t head_dim, const AttentionArgs& args, int64_t row, int64_t position) {
  if (args.part == AttentionPart::whole) return nullptr;
  return reinterpret_cast<float*>(args.states + position / kKvPage * args.state_stride +
                                  row * attention_state_bytes(head_dim));
}

void load_state(int64_t head_dim, const float* state, float& max, float& sum, float* out) {
  const int64_t width = (head_dim + 15) / 16 * 16;
  std::copy_n(state, head_dim, out);
  max = state[width];
  sum = state[width + 1];
}

void store_state(int64_t head_dim, float* state, float max, float sum, const float* out) {
  const int64_t width = (head_dim + 15) / 16 * 16;
  std::copy_n(out, head_dim, state);
  state[width] = max;
  state[width + 1] = sum;
}

void attend_by_pages(const AttentionSpec& spec, const AttentionArgs& args, int64_t row,
                     const std::function<void(int64_t start, RowState& page)>& attend) {
  RowState all;
  const PageRange pages = pages_of(args, row);
  for (int64_t start = pages.begin; start < pages.end; start += kKvPage) {
    RowState page;
    float* const state = state_of(spec.head_dim, args, row, start);
    if (args.part == AttentionPart::merge) {
      load_state(spec.head_dim, state, page.max, page.sum, page.out.data());
    } else {
      attend(start, page);
    }
    if (args.part == AttentionPart::pages) {
      store_state(spec.head_dim, state, page.max, page.sum, page.out.data());
    } else {
      merge(spec.head_dim, page, all, kExponential2);
    }
  }
  if (args.part == AttentionPart::pages) return;
  float* out = args.out + row * args.out_stride;
  for (int64_t d = 0; d < spec.head_dim; ++d) {
    out[d] = (all.out[static_cast<size_t>(d)] + 0.0F) / all.sum;
  }
}

void check_attention_spec(const AttentionSpec& spec) {
  if (spec.head_dim < 1 || spec.head_dim > kMaxHeadDim) {
    fail("An attention kernel has heads of {} elements, expected 1 to {}.", spec.head_dim,
         kMaxHeadDim);
  }
  if (spec.rows < 1 || spec.rows > most_attention_rows(spec.kv)) {
    fail("An attention kernel takes {} query rows of a {} cache together, expected 1 to {}.",
         spec.rows, kv_type_name(spec.kv), most_attention_rows(spec.kv));
  }
}

int64_t attention_scratch_bytes(const AttentionSpec& spec) {
  check_attention_spec(spec);
  if (is_paired(spec.kv)) return PairedAttentionScratch::of(spec).bytes;
  return AttentionScratch::of(spec).bytes;
}

void attention_reference(const AttentionSpec& spec, const AttentionArgs& args) {
  if (is_integer(spec.kv)) return integer_attention_reference(spec, args);
  if (is_paired(spec.kv)) return bf16_attention_reference(spec, args);
  RowState all, page, split;
  for (int64_t row = 0; row < args.rows; ++row) {
    const int64_t lo = args.lo[row];
    const PageRange pages = pages_of(args, row);
    for (int64_t start = pages.begin; start < pages.end; start += kKvPage) {
      float* const state = state_of(spec.head_dim, args, row, start);
      if (args.part == AttentionPart::merge) {
        load_state(spec.head_dim, state, page.max, page.sum, page.out.data());
      } else {
        attend_page(spec, args, row, start, page, split);
      }
      if (args.part == AttentionPart::pages) {
        store_state(spec.head_dim, state, page.max, page.sum, page.out.data());
      } else if (start <= lo) {
        all = page;
      } else {
        merge(spec.head_dim, page, all, kExponential);
      }
    }
    if (args.part == AttentionPart::pages) continue;
    float* out = args.out + row * args.out_stride;
    for (int64_t d = 0; d < spec.head_dim; ++d) out[d] = all.out[static_cast<size_t>(d)] / all.sum;
  }
}

}  // namespace nibble::jit
