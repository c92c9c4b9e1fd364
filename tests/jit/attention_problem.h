// A head's cache, query rows over it and the comparison of a kernel with its reference: what the
// tests of attention share, natively and under the AMX emulator. Guard pages lie after every
// buffer, and NaN wherever no row may look.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "jit/attention.h"
#include "jit/attention_generator.h"
#include "jit/isa.h"
#include "jit/kernel_spec.h"
#include "jit/kv_layout.h"
#include "tests/support/generated_code.h"
#include "tests/support/guarded_buffer.h"
#include "tests/support/not_finite.h"

namespace nibble::test {

using namespace jit;  // NOLINT(google-build-using-namespace)

struct PositionRange {
  int64_t lo, hi;
};

// One head's cache, filled position by position; what lies outside `seen` is NaN.
struct HeadCache {
  HeadCache(const AttentionSpec& s, PositionRange seen, int64_t capacity, uint32_t seed)
      : spec(s),
        stride(kv_page_bytes(s.kv, s.head_dim) + kGap),
        pages(static_cast<size_t>(capacity / kKvPage * stride - kGap)),
        plain_keys(static_cast<size_t>(capacity * s.head_dim)),
        plain_values(plain_keys.size()) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    std::vector<float> key(static_cast<size_t>(s.head_dim)), value(key.size());
    for (int64_t t = 0; t < capacity; ++t) {
      const bool visible = t >= seen.lo && t < seen.hi;
      for (float& k : key) k = visible ? normal(random) : kNaN;
      for (float& v : value) v = visible ? normal(random) : kNaN;
      kv_append(s.kv, s.head_dim, t, key.data(), value.data(), head());
      std::ranges::copy(key, plain_keys.begin() + t * s.head_dim);
      std::ranges::copy(value, plain_values.begin() + t * s.head_dim);
    }
  }
  KvHead head() const { return {const_cast<std::byte*>(pages.data()), stride}; }
  static constexpr int64_t kGap = 192;  // between pages
  AttentionSpec spec;
  int64_t stride;
  GuardedBuffer<std::byte> pages;
  std::vector<float> plain_keys, plain_values;
};

// Query rows and results over a cache, with strides longer than a head.
struct AttentionCall {
  AttentionCall(const HeadCache& cache, const std::vector<PositionRange>& ranges, uint32_t seed)
      : dim(cache.spec.head_dim),
        stride(dim + 3),
        q(static_cast<size_t>(static_cast<int64_t>(ranges.size() - 1) * stride + dim)),
        out(q.size(), 55.0F),
        slope(ranges.size()),
        lo(ranges.size()),
        hi(ranges.size()),
        scratch(static_cast<size_t>(
            (attention_scratch_bytes({.head_dim = dim,
                                      .kv = cache.spec.kv,
                                      .rows = most_attention_rows(cache.spec.kv)}) +
             63) /
            64 * 64)) {
    std::mt19937 random(seed);
    std::normal_distribution<float> normal;
    for (float& x : q) x = normal(random);
    for (size_t r = 0; r < ranges.size(); ++r) {
      slope[r] = std::exp2(-static_cast<float>(r + 1));
      lo[r] = ranges[r].lo;
      hi[r] = ranges[r].hi;
    }
    std::ranges::fill(scratch, std::byte{0xFF});
    args.q = q.data();
    args.q_stride = args.out_stride = stride;
    args.cache = cache.head();
    args.lo = lo.data();
    args.hi = hi.data();
    args.slope = slope.data();
    args.scale = 1.0F / std::sqrt(static_cast<float>(dim));
    args.softcap = 1.5F;
    args.out = out.data();
    args.rows = static_cast<int64_t>(ranges.size());
    args.scratch = scratch.data();
  }
  // The same call for rows [first, first + rows) alone.
  AttentionArgs part(int64_t first, int64_t rows) const {
    AttentionArgs p = args;
    p.q += first * stride;
    p.out += first * stride;
    p.lo += first;
    p.hi += first;
    p.slope += first;
    p.rows = rows;
    return p;
  }
  int64_t dim, stride;
  GuardedBuffer<float> q, out, slope;
  GuardedBuffer<int64_t> lo, hi;
  GuardedBuffer<std::byte> scratch;
  AttentionArgs args;
};

inline PositionRange hull(const std::vector<PositionRange>& ranges) {
  PositionRange all = ranges[0];
  for (const PositionRange& r : ranges) all = {std::min(all.lo, r.lo), std::max(all.hi, r.hi)};
  return all;
}

inline int64_t capacity_for(const std::vector<PositionRange>& ranges) {
  return (hull(ranges).hi + kKvPage - 1) / kKvPage * kKvPage;
}

// The kernel against its reference at each scale.
inline void expect_equal_at_scales(const GeneratedCode<AttentionFn>& kernel, const HeadCache& cache,
                                   const std::vector<PositionRange>& ranges,
                                   const std::vector<float>& scales) {
  for (const float scale : scales) {
    AttentionCall found(cache, ranges, 2);
    AttentionCall expected(cache, ranges, 2);
    found.args.scale = expected.args.scale = scale;
    kernel(found.args);
    attention_reference(cache.spec, expected.args);
    EXPECT_TRUE(same_bits(found.out.span(), expected.out.span())) << "scale " << scale;
  }
}

inline std::string repeat(const AttentionSpec& spec, Isa isa) {
  const std::string kernel =
      name(KernelKey{.spec = KernelSpec(spec), .isa = isa, .tiling = Tiling{}});
  return fmt::format("{}; repeat with `nibble kernels check {}`", kernel, kernel);
}

// Code once generated, for many calls.
class CheckedAttention {
 public:
  CheckedAttention(const AttentionSpec& spec, Isa isa)
      : spec_(spec), isa_(isa), kernel_(generate_attention(spec, isa)) {}

  void check(const std::vector<PositionRange>& ranges) const {
    const HeadCache cache(spec_, hull(ranges), capacity_for(ranges), 1);
    AttentionCall found(cache, ranges, 2);
    AttentionCall expected(cache, ranges, 2);
    kernel_(found.args);
    attention_reference(spec_, expected.args);
    for (float x : expected.out) ASSERT_FALSE(std::isnan(x)) << repeat(spec_, isa_);
    ASSERT_TRUE(same_bits(found.out.span(), expected.out.span())) << repeat(spec_, isa_);
  }

 private:
  AttentionSpec spec_;
  Isa isa_;
  GeneratedCode<AttentionFn> kernel_;
};

inline void check_attention(const AttentionSpec& spec, Isa isa,
                            const std::vector<PositionRange>& ranges) {
  CheckedAttention(spec, isa).check(ranges);
}

inline std::vector<PositionRange> causal(int64_t rows, int64_t first_hi, int64_t window = 0) {
  std::vector<PositionRange> ranges;
  for (int64_t r = 0; r < rows; ++r) {
    const int64_t hi = first_hi + r;
    ranges.push_back({window > 0 ? std::max<int64_t>(0, hi - window) : 0, hi});
  }
  return ranges;
}

// Over a cache that holds NaN from this position on, of rows and reference alike.
inline void expect_nan_from(int64_t position, const AttentionSpec& spec, Isa isa,
                            const std::vector<PositionRange>& ranges) {
  const GeneratedCode<AttentionFn> kernel(generate_attention(spec, isa));
  const HeadCache cache(spec, {0, position}, capacity_for(ranges), 1);
  AttentionCall found(cache, ranges, 2), expected(cache, ranges, 2);
  kernel(found.args);
  attention_reference(spec, expected.args);
  for (size_t r = 0; r < ranges.size(); ++r) {
    for (int64_t d = 0; d < spec.head_dim; ++d) {
      const size_t at = r * static_cast<size_t>(found.stride) + static_cast<size_t>(d);
      EXPECT_EQ(std::isnan(found.out[at]), ranges[r].hi > position) << repeat(spec, isa);
      EXPECT_EQ(std::isnan(expected.out[at]), ranges[r].hi > position) << repeat(spec, isa);
    }
  }
}

// Runs a call in parts, `taken` pages at a time from the last to the first, then merges them.
template <typename Run>
void run_by_pages(const Run& run, AttentionArgs args, int64_t taken) {
  PositionRange all{args.lo[0], args.hi[0]};
  for (int64_t r = 1; r < args.rows; ++r) {
    all = {std::min(all.lo, args.lo[r]), std::max(all.hi, args.hi[r])};
  }
  const int64_t first = all.lo / kKvPage, end = (all.hi + kKvPage - 1) / kKvPage;
  const int64_t row_bytes = attention_state_bytes(args.q_stride - 3);
  args.state_stride = args.rows * row_bytes + 64;
  GuardedBuffer<std::byte> states(static_cast<size_t>((end - first) * args.state_stride));
  std::ranges::fill(states, std::byte{0xFF});
  args.states = states.data() - first * args.state_stride;
  args.part = AttentionPart::pages;
  for (int64_t page = end; page > first; page -= taken) {
    args.begin = std::max(first, page - taken) * kKvPage;
    args.end = page * kKvPage;
    run(args);
  }
  args.part = AttentionPart::merge;
  run(args);
}

}  // namespace nibble::test
