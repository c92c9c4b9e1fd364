// Integer attention in plain C++: what the generated code must equal bit for bit.
#include <algorithm>
#include <array>
#include <cmath>
#include <limits>

#include "jit/attention.h"
#include "jit/attention_integer.h"
#include "jit/attention_pages.h"
#include "jit/attention_scratch.h"
#include "jit/kv_layout.h"
#include "jit/kv_quantize.h"
#include "jit/reference_lanes.h"
#include "jit/scalar_math.h"

namespace nibble::jit {
namespace {

// Where a cache type has its elements: `per_dword` of a product side by side, as integers whose
// first is at `base`.
struct Elements {
  explicit Elements(const AttentionSpec& spec)
      : bytes(spec.kv == KvType::int8),
        per_dword(bytes ? 4 : 2),
        width((spec.head_dim + 15) / 16 * 16) {}
  // t: the position in its split.
  int32_t key(const std::byte* split, int64_t t, int64_t d) const {
    const int64_t dword = (t / kKeyBlock * (width / per_dword) + d / per_dword) * kKeyBlock;
    const int64_t at = (dword + t % kKeyBlock) * per_dword + d % per_dword;
    if (!bytes) return reinterpret_cast<const int16_t*>(split)[at];
    return reinterpret_cast<const uint8_t*>(split)[at] - kInt8KeyOffset;
  }
  int32_t value(const std::byte* values, int64_t t, int64_t d) const {
    const int64_t at = (t / per_dword * width + d) * per_dword + t % per_dword;
    if (!bytes) return reinterpret_cast<const int16_t*>(values)[at];
    return reinterpret_cast<const int8_t*>(values)[at];
  }
  bool bytes;
  int64_t per_dword, width;
};

const float* numbers_at(const std::byte* split, int64_t offset) {
  return reinterpret_cast<const float*>(split + offset);
}

// Sums wrap, as registers do; they only ever leave int32 when a NaN came in.
void add_product(uint32_t& sum, int32_t a, int32_t b) { sum += static_cast<uint32_t>(a * b); }

float as_float(uint32_t sum) { return static_cast<float>(static_cast<int32_t>(sum)); }

struct Row {
  std::array<int16_t, kMaxHeadDim> query;
  float scale = 0;  // r of the contract
};

// Some positions of one split, [begin, end).
struct Span {
  Span(const AttentionSpec& spec, const AttentionArgs& args, int64_t from, int64_t to)
      : elements(spec),
        record(kv_record(spec.kv, spec.head_dim)),
        split(kv_split(record, args.cache, from / kKvSplit)),
        begin(from),
        end(to) {}
  // Those of a part of the record, the first of them the one of `begin`.
  const float* numbers(int64_t part) const { return numbers_at(split, part) + begin % kKvSplit; }
  size_t count() const { return static_cast<size_t>(end - begin); }
  // The lane in which the position `begin` + i is summed.
  size_t lane(size_t i) const { return (static_cast<size_t>(begin) + i) % kLanes; }

  Elements elements;
  KvRecord record;
  const std::byte* split;
  int64_t begin, end;
};
using Numbers = std::array<float, kKvSplit>;  // one a position of a span

Numbers scores(const AttentionSpec& spec, const AttentionArgs& args, int64_t row, const Row& query,
               const Span& span) {
  ScalarMath v;
  Numbers s;
  for (size_t i = 0; i < span.count(); ++i) {
    const int64_t t = span.begin + static_cast<int64_t>(i);
    uint32_t dot = 0;
    for (int64_t d = 0; d < spec.head_dim; ++d) {
      add_product(dot, query.query[static_cast<size_t>(d)],
                  span.elements.key(span.split, t % kKvSplit, d));
    }
    const float scaled = as_float(dot) * span.numbers(span.record.key_scales)[i];
    const float* log = spec.kv == KvType::int8 ? span.numbers(span.record.value_logs) + i : nullptr;
    if (log != nullptr && !spec.softcap && !spec.alibi) {
      s[i] = std::fma(scaled, query.scale, *log);
      continue;
    }
    s[i] = scaled * query.scale;
    if (spec.softcap) s[i] = args.softcap * vector_tanh(v, s[i] / args.softcap);
    if (spec.alibi) {
      s[i] = std::fma(args.slope[row], static_cast<float>(t - (args.hi[row] - 1)), s[i]);
    }
    if (spec.softcap || spec.alibi) s[i] *= kLog2E;
    if (log != nullptr) s[i] += *log;
  }
  return s;
}

// The weights of a span: integers, what one of them is worth, and their sum.
struct SpanWeights {
  std::array<int32_t, kKvSplit> integers;
  float unit = 1, sum = 0;
};

SpanWeights int16_weights(const Span& span, const Numbers& s, float max) {
  ScalarMath v;
  const float* value_scales = span.numbers(span.record.value_scales);
  Numbers w;
  Lanes sums{}, weight_sums{};
  float largest = 0;
  for (size_t i = 0; i < span.count(); ++i) {
    const float p = vector_exp2(v, s[i] - max);
    sums[span.lane(i)] += p;
    w[i] = p * value_scales[i];
    weight_sums[span.lane(i)] += w[i];
    largest = v.max(w[i], largest);
  }
  SpanWeights weights;
  weights.sum = reduce_add(sums);
  weights.unit = v.max(kSmallestScale,
                       v.max(largest * kByLargestWeight, reduce_add(weight_sums) * kByWeightSum));
  const float inverse = 1 / weights.unit;
  for (size_t i = 0; i < span.count(); ++i) weights.integers[i] = v.to_int16(w[i] * inverse);
  return weights;
}

SpanWeights int8_weights(const Span& span, const Numbers& s, float max) {
  ScalarMath v;
  const float* value_inverses = span.numbers(span.record.value_inverses);
  Lanes sums{};
  SpanWeights weights;
  for (size_t i = 0; i < span.count(); ++i) {
    const float w = byte_weight(v, s[i] - max);
    float& lane = sums[span.lane(i)];
    lane = std::fma(w, value_inverses[i], lane);
    weights.integers[i] = v.to_int16(w);
  }
  weights.sum = reduce_add(sums);
  return weights;
}

void attend(const AttentionSpec& spec, const AttentionArgs& args, const Span& span, int64_t row,
            const Row& query, RowState& state) {
  ScalarMath v;
  const Numbers s = scores(spec, args, row, query, span);
  float max = kLowScore;
  for (size_t i = 0; i < span.count(); ++i) max = v.max(s[i], max);
  const SpanWeights weights =
      spec.kv == KvType::int8 ? int8_weights(span, s, max) : int16_weights(span, s, max);
  const float new_max = v.max(state.max, max);
  const float keep = vector_exp2(v, state.max - new_max);
  const float add = vector_exp2(v, max - new_max);
  state.max = new_max;
  state.sum = std::fma(state.sum, keep, weights.sum * add);
  for (int64_t d = 0; d < spec.head_dim; ++d) {
    uint32_t dot = 0;
    for (size_t i = 0; i < span.count(); ++i) {
      const int64_t t = (span.begin + static_cast<int64_t>(i)) % kKvSplit;
      add_product(dot, weights.integers[i],
                  span.elements.value(span.split + span.record.values, t, d));
    }
    float& out = state.out[static_cast<size_t>(d)];
    out = std::fma(out, keep, as_float(dot) * (weights.unit * add));
  }
}

// The page that begins at `start`.
void attend_page(const AttentionSpec& spec, const AttentionArgs& args, int64_t row, int64_t start,
                 const Row& query, RowState& page) {
  const int64_t begin = std::max(args.lo[row], start);
  const int64_t end = std::min(args.hi[row], start + kKvPage);
  for (int64_t at = begin / kKvSplit * kKvSplit; at < end; at += kKvSplit) {
    const Span span(spec, args, std::max(begin, at), std::min(end, at + kKvSplit));
    attend(spec, args, span, row, query, page);
  }
}

}  // namespace

void integer_attention_reference(const AttentionSpec& spec, const AttentionArgs& args) {
  for (int64_t row = 0; row < args.rows; ++row) {
    Row query;
    const bool int8 = spec.kv == KvType::int8;
    float s = quantize_plain(args.q + row * args.q_stride, spec.head_dim,
                             int8 ? kInt8Rule : kNormRule, query.query.data());
    if (!std::isfinite(s)) s = std::numeric_limits<float>::quiet_NaN();
    query.scale = s * args.scale;
    if (!spec.softcap && !spec.alibi) query.scale *= kLog2E;
    attend_by_pages(spec, args, row, [&](int64_t start, RowState& page) {
      attend_page(spec, args, row, start, query, page);
    });
  }
}

}  // namespace nibble::jit
