// Integer attention in plain C++: what the generated code must equal bit for bit.
#include <algorithm>
#include <array>
#include <bit>
#include <cmath>

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

int32_t element(KvType type, const void* base, int64_t index) {
  if (type == KvType::int8) return static_cast<const int8_t*>(base)[index];
  return static_cast<const int16_t*>(base)[index];
}

const float* scales_at(const std::byte* split, int64_t offset) {
  return reinterpret_cast<const float*>(split + offset);
}

// Sums wrap, as registers do; they only ever leave int32 when a NaN came in.
void add_product(uint32_t& sum, int32_t a, int32_t b) { sum += static_cast<uint32_t>(a * b); }

float as_float(uint32_t sum) { return static_cast<float>(static_cast<int32_t>(sum)); }

struct Row {
  std::array<int16_t, kMaxHeadDim> query;
  float scale = 0;  // r of the contract
};

// `split`: the record that holds position t.
float score(const AttentionSpec& spec, const AttentionArgs& args, const std::byte* split,
            int64_t row, const Row& query, int64_t t) {
  ScalarMath v;
  const int64_t inside = t % kKvSplit;
  const int64_t width = (spec.head_dim + 15) / 16 * 16;
  const int64_t block = inside / kKeyBlock * width * kKeyBlock + inside % kKeyBlock * 2;
  uint32_t dot = 0;
  for (int64_t d = 0; d < spec.head_dim; ++d) {
    add_product(dot, query.query[static_cast<size_t>(d)],
                element(spec.kv, split, block + d / 2 * kKeyBlock * 2 + d % 2));
  }
  float s =
      (as_float(dot) * scales_at(split, kv_record(spec.kv, spec.head_dim).key_scales)[inside]) *
      query.scale;
  if (spec.softcap) s = args.softcap * vector_tanh(v, s / args.softcap);
  if (spec.alibi) s = std::fma(args.slope[row], static_cast<float>(t - (args.hi[row] - 1)), s);
  return spec.softcap || spec.alibi ? s * kLog2E : s;
}

// One split: the positions [begin, end).
void attend(const AttentionSpec& spec, const AttentionArgs& args, int64_t row, int64_t begin,
            int64_t end, const Row& query, RowState& state) {
  ScalarMath v;
  const KvRecord record = kv_record(spec.kv, spec.head_dim);
  const std::byte* split = kv_split(record, args.cache, begin / kKvSplit);
  const float* value_scales = scales_at(split, record.value_scales);
  const auto count = static_cast<size_t>(end - begin);
  std::array<float, kKvSplit> s, w;
  float max = kLowScore;
  for (size_t i = 0; i < count; ++i) {
    s[i] = score(spec, args, split, row, query, begin + static_cast<int64_t>(i));
    max = v.max(s[i], max);
  }
  Lanes sums{}, weight_sums{};
  float largest = 0;
  for (size_t i = 0; i < count; ++i) {
    const size_t lane = static_cast<size_t>(begin) + i;
    const float p = vector_exp2(v, s[i] - max);
    sums[lane % kLanes] += p;
    w[i] = p * value_scales[lane % kKvSplit];
    weight_sums[lane % kLanes] += w[i];
    largest = v.max(w[i], largest);
  }
  const float unit = v.max(
      kSmallestScale, v.max(largest * kByLargestWeight, reduce_add(weight_sums) * kByWeightSum));
  const float inverse = 1 / unit;
  const float new_max = v.max(state.max, max);
  const float keep = vector_exp2(v, state.max - new_max);
  const float add = vector_exp2(v, max - new_max);
  state.max = new_max;
  state.sum = std::fma(state.sum, keep, reduce_add(sums) * add);

  const int64_t width = (spec.head_dim + 15) / 16 * 16;
  std::array<int32_t, kKvSplit> weights;
  for (size_t i = 0; i < count; ++i) weights[i] = v.to_int16(w[i] * inverse);
  for (int64_t d = 0; d < spec.head_dim; ++d) {
    uint32_t dot = 0;
    for (int64_t t = begin; t < end; ++t) {
      add_product(
          dot, weights[static_cast<size_t>(t - begin)],
          element(spec.kv, split + record.values, (t % kKvSplit / 2 * width + d) * 2 + t % 2));
    }
    float& out = state.out[static_cast<size_t>(d)];
    out = std::fma(out, keep, as_float(dot) * (unit * add));
  }
}

// The page that begins at `start`.
void attend_page(const AttentionSpec& spec, const AttentionArgs& args, int64_t row, int64_t start,
                 const Row& query, RowState& page) {
  const int64_t begin = std::max(args.lo[row], start);
  const int64_t end = std::min(args.hi[row], start + kKvPage);
  for (int64_t at = begin / kKvSplit * kKvSplit; at < end; at += kKvSplit) {
    attend(spec, args, row, std::max(begin, at), std::min(end, at + kKvSplit), query, page);
  }
}

}  // namespace

void integer_attention_reference(const AttentionSpec& spec, const AttentionArgs& args) {
  for (int64_t row = 0; row < args.rows; ++row) {
    Row query;
    const float s =
        quantize_plain(args.q + row * args.q_stride, spec.head_dim, kNormRule, query.query.data());
    query.scale = s * args.scale;
    if (!spec.softcap && !spec.alibi) query.scale *= kLog2E;
    attend_by_pages(spec, args, row, [&](int64_t start, RowState& page) {
      attend_page(spec, args, row, start, query, page);
    });
  }
}

}  // namespace nibble::jit
