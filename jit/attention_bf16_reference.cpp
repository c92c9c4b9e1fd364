// Attention over bf16 pairs in plain C++: what the generated code must equal bit for bit.
#include <algorithm>
#include <array>
#include <cmath>

#include "jit/attention.h"
#include "jit/attention_bf16.h"
#include "jit/attention_integer.h"
#include "jit/attention_pages.h"
#include "jit/attention_scratch.h"
#include "jit/float16.h"
#include "jit/kv_layout.h"
#include "jit/reference_lanes.h"
#include "jit/scalar_math.h"

namespace nibble::jit {
namespace {

// The sum of products as attention.h cuts it: a step of kBf16Step factors at a time.
class Sum {
 public:
  void add(bool high, float a, float b) {
    float& chain = high ? high_ : low_;
    chain = std::fma(a, b, chain);
  }
  void end_step() {
    sum_ = sum_ + (low_ + high_);
    low_ = high_ = 0;
  }
  float value() const { return sum_; }

 private:
  float sum_ = 0, low_ = 0, high_ = 0;
};

using Query = std::array<float, kMaxHeadDim>;

Query rounded_query(const AttentionSpec& spec, const AttentionArgs& args, int64_t row) {
  const float scale = spec.softcap || spec.alibi ? args.scale : args.scale * kLog2E;
  const float* q = args.q + row * args.q_stride;
  Query query{};
  for (int64_t d = 0; d < spec.head_dim; ++d) {
    query[static_cast<size_t>(d)] = bf16_to_f32(bf16_factor(q[d] * scale));
  }
  return query;
}

// A position's elements, as kv_layout.h lays them out.
struct Position {
  Position(const AttentionSpec& spec, const AttentionArgs& args, int64_t t) {
    const KvRecord record = kv_record(spec.kv, spec.head_dim);
    const int64_t width = PairedAttentionScratch::of(spec).width;
    const int64_t inside = t % kKvSplit, line = inside / kBf16Step * kKeyBlock + inside % kKeyBlock;
    const std::byte* split = kv_split(record, args.cache, t / kKvSplit);
    key_ = reinterpret_cast<const uint16_t*>(split) + inside / kKeyBlock * width * kKeyBlock +
           inside % kKeyBlock * 2;
    value_ = reinterpret_cast<const uint16_t*>(split + record.values) + line * width * 2 +
             (is_high(t) ? 1 : 0);
  }
  float key(int64_t d) const { return bf16_to_f32(key_[d / 2 * kKeyBlock * 2 + d % 2]); }
  float value(int64_t d) const { return bf16_to_f32(value_[d * 2]); }
  static bool is_high(int64_t t) { return t % kBf16Step >= kBf16Step / 2; }

 private:
  const uint16_t *key_, *value_;
};

float score(const AttentionSpec& spec, const AttentionArgs& args, int64_t row, const Query& query,
            int64_t t) {
  ScalarMath v;
  const Position position(spec, args, t);
  Sum dot;
  for (int64_t d = 0; d < spec.head_dim; ++d) {
    dot.add(d % 2 != 0, query[static_cast<size_t>(d)], position.key(d));
    if ((d + 1) % kBf16Step == 0 || d + 1 == spec.head_dim) dot.end_step();
  }
  float s = dot.value();
  if (spec.softcap) s = args.softcap * vector_tanh(v, s / args.softcap);
  if (spec.alibi) s = std::fma(args.slope[row], static_cast<float>(t - (args.hi[row] - 1)), s);
  return spec.softcap || spec.alibi ? s * kLog2E : s;
}

float weight(float score, float top) {
  ScalarMath v;
  const float x = score - top;
  return x < kLeastBf16Exponent ? 0 : bf16_weight(v, x);
}

// The page that begins at `start`.
void attend_page(const AttentionSpec& spec, const AttentionArgs& args, int64_t row, int64_t start,
                 const Query& query, RowState& page) {
  ScalarMath v;
  const int64_t begin = std::max(args.lo[row], start);
  const int64_t end = std::min(args.hi[row], start + kKvPage);
  std::array<float, kKvPage> p;
  for (int64_t t = begin; t < end; ++t) {
    const float s = score(spec, args, row, query, t);
    page.max = v.max(s, page.max);
    p[static_cast<size_t>(t - start)] = s;
  }
  Lanes lanes{};
  for (int64_t t = begin; t < end; ++t) {
    float& x = p[static_cast<size_t>(t - start)];
    x = weight(x, page.max + kBf16Top);
    lanes[static_cast<size_t>(t) % kLanes] += x;
  }
  page.sum = reduce_add(lanes);
  std::array<Sum, kMaxHeadDim> dots;
  for (int64_t t = begin; t < end; ++t) {
    const Position position(spec, args, t);
    const bool last = (t + 1) % kBf16Step == 0 || t + 1 == end;
    for (int64_t d = 0; d < spec.head_dim; ++d) {
      Sum& dot = dots[static_cast<size_t>(d)];
      dot.add(Position::is_high(t), p[static_cast<size_t>(t - start)], position.value(d));
      if (last) dot.end_step();
    }
  }
  for (size_t d = 0; d < static_cast<size_t>(spec.head_dim); ++d) page.out[d] = dots[d].value();
}

}  // namespace

void bf16_attention_reference(const AttentionSpec& spec, const AttentionArgs& args) {
  for (int64_t row = 0; row < args.rows; ++row) {
    const Query query = rounded_query(spec, args, row);
    attend_by_pages(spec, args, row, [&](int64_t start, RowState& page) {
      attend_page(spec, args, row, start, query, page);
    });
  }
}

}  // namespace nibble::jit
