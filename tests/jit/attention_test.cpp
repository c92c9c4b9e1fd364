// Attention kernels against their plain C++ reference, bit for bit, with guard pages after every
// buffer and NaN wherever no row may look; the reference against softmax attention in double
// precision; and what the contract promises of the way a prompt is cut.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>
#include <random>
#include <span>

#include "jit/attention_bf16.h"
#include "jit/attention_integer.h"
#include "jit/scalar_math.h"
#include "tests/jit/attention_problem.h"

namespace nibble::test {
namespace {

constexpr KvType kAllTypes[] = {KvType::f32,   KvType::f16,  KvType::bf16,
                                KvType::int16, KvType::int8, KvType::bf16_pairs};

class AttentionKernels : public ::testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (!supports(GetParam())) {
      GTEST_SKIP() << "this machine has no " << isa_name(GetParam());
    }
  }
  // Those whose code differs: of floats AVX-VNNI has AVX2's.
  static std::span<const KvType> types() {
    static constexpr KvType kIntegers[] = {KvType::int16, KvType::int8};
    if (GetParam() == Isa::avx_vnni) return kIntegers;
    return kAllTypes;
  }
};

TEST_P(AttentionKernels, EveryHeadSizeEqualsTheReference) {
  for (int64_t dim : {1, 2, 7, 16, 20, 32, 33, 64, 80, 96, 100, 112, 128, 192, 256}) {
    for (KvType kv : types()) {
      for (int rows : {1, 4}) {
        const AttentionSpec spec{.head_dim = dim, .kv = kv, .rows = rows};
        check_attention(spec, GetParam(), causal(rows, 1));
        check_attention(spec, GetParam(), causal(rows, 150));
      }
    }
  }
}

TEST_P(AttentionKernels, EveryLengthEqualsTheReference) {
  const CheckedAttention few({.head_dim = 24, .kv = KvType::bf16_pairs, .rows = 4}, GetParam());
  const CheckedAttention many({.head_dim = 20, .kv = KvType::bf16_pairs, .rows = 20}, GetParam());
  const CheckedAttention one_of_bytes({.head_dim = 24, .kv = KvType::int8, .rows = 1}, GetParam());
  const CheckedAttention bytes({.head_dim = 20, .kv = KvType::int8, .rows = 6}, GetParam());
  for (int64_t hi = 1; hi <= 140; hi += hi < 40 || hi > 120 ? 1 : 5) {
    check_attention({.head_dim = 20, .rows = 1}, GetParam(), causal(1, hi));
    check_attention({.head_dim = 20, .rows = 3}, GetParam(), causal(3, hi));
    check_attention({.head_dim = 24, .kv = KvType::f16, .rows = 4}, GetParam(), causal(4, hi, 19));
    check_attention({.head_dim = 24, .kv = KvType::int16, .rows = 1}, GetParam(), causal(1, hi));
    check_attention({.head_dim = 20, .kv = KvType::int16, .rows = 6}, GetParam(),
                    causal(5, hi, 19));
    one_of_bytes.check(causal(1, hi));
    bytes.check(causal(4, hi));
    bytes.check(causal(5, hi, 19));
    few.check(causal(4, hi, 19));
    many.check(causal(18, hi));
  }
}

TEST_P(AttentionKernels, EveryRowCountEqualsTheReference) {
  for (int rows = 1; rows <= most_attention_rows(KvType::f32); ++rows) {
    for (int64_t used = 1; used <= rows; ++used) {
      check_attention({.head_dim = 64, .rows = rows}, GetParam(), causal(used, 130));
      check_attention({.head_dim = 36, .kv = KvType::f16, .rows = rows, .alibi = true}, GetParam(),
                      causal(used, 62));
    }
  }
  for (const int rows : {2, 4, 5, 16, 17, kMaxAttentionRows}) {
    for (const KvType kv : {KvType::int16, KvType::int8, KvType::bf16_pairs}) {
      const CheckedAttention kernel({.head_dim = 36, .kv = kv, .rows = rows}, GetParam());
      for (int64_t used = 1; used <= rows; ++used) kernel.check(causal(used, 130));
    }
    check_attention({.head_dim = 64, .kv = KvType::int8, .rows = rows, .alibi = true}, GetParam(),
                    causal(rows, 60));
  }
}

TEST_P(AttentionKernels, AlibiAndSoftcapEqualTheReference) {
  for (bool alibi : {false, true}) {
    for (bool softcap : {false, true}) {
      for (int rows : {1, 4, 8}) {
        for (KvType kv : types()) {
          const AttentionSpec spec{
              .head_dim = 48, .kv = kv, .rows = rows, .alibi = alibi, .softcap = softcap};
          check_attention(spec, GetParam(), causal(rows, 200, 130));
        }
      }
    }
  }
}

// Rows that see nothing of a split that others see, in every order.
TEST_P(AttentionKernels, RowsApartEqualTheReference) {
  const std::vector<std::vector<PositionRange>> cases = {
      {{0, 10}, {100, 200}, {64, 65}, {63, 129}},   {{100, 101}, {0, 1}, {190, 200}, {0, 200}},
      {{0, 64}, {64, 128}, {128, 192}, {192, 256}}, {{3, 5}, {5, 9}, {9, 64}, {15, 17}},
      {{63, 65}, {63, 65}, {127, 129}, {0, 129}},
  };
  for (const auto& ranges : cases) {
    check_attention({.head_dim = 40, .rows = 4, .alibi = true}, GetParam(), ranges);
    check_attention({.head_dim = 72, .kv = KvType::f16, .rows = 8}, GetParam(), ranges);
    check_attention({.head_dim = 72, .kv = KvType::int16, .rows = 8}, GetParam(), ranges);
    check_attention({.head_dim = 72, .kv = KvType::bf16_pairs, .rows = 8}, GetParam(), ranges);
    check_attention({.head_dim = 72, .kv = KvType::int8, .rows = 8}, GetParam(), ranges);
    check_attention({.head_dim = 7, .kv = KvType::int8, .rows = 4, .alibi = true}, GetParam(),
                    ranges);
  }
}

// What a row cannot see does not matter, even where its neighbours look at it.
TEST_P(AttentionKernels, AnUnseenNaNPoisonsOnlyTheRowsThatSeeIt) {
  for (const KvType kv : {KvType::f32, KvType::int16, KvType::int8, KvType::bf16_pairs}) {
    for (const int rows : {1, 4}) {
      const AttentionSpec spec{.head_dim = 32, .kv = kv, .rows = rows};
      const std::vector<PositionRange> ranges = {{0, 70}, {0, 71}, {0, 72}, {0, 73}};
      if (rows == 4) expect_nan_from(71, spec, GetParam(), ranges);
      for (size_t r = 0; r < ranges.size() && rows == 1; ++r) {
        expect_nan_from(71, spec, GetParam(), {ranges[r]});
      }
    }
  }
}

TEST_P(AttentionKernels, CuttingAPromptDifferentlyChangesNothing) {
  constexpr int64_t kTokens = 24;
  for (KvType kv : types()) {
    const AttentionSpec one{.head_dim = 64, .kv = kv, .rows = 1};
    const AttentionSpec eight{.head_dim = 64, .kv = kv, .rows = 8};
    const std::vector<PositionRange> ranges = causal(kTokens, 180, 150);
    const HeadCache cache(one, hull(ranges), capacity_for(ranges), 1);
    AttentionCall singly(cache, ranges, 2);
    AttentionCall reference(cache, ranges, 2);
    const GeneratedCode<AttentionFn> run_one(generate_attention(one, GetParam()));
    const GeneratedCode<AttentionFn> run_eight(generate_attention(eight, GetParam()));
    for (int64_t r = 0; r < kTokens; ++r) run_one(singly.part(r, 1));
    attention_reference(one, reference.args);
    EXPECT_TRUE(same_bits(singly.out.span(), reference.out.span()));
    for (int64_t chunk : {1, 2, 5, 7, 8}) {
      AttentionCall cut(cache, ranges, 2);
      for (int64_t r = 0; r < kTokens; r += chunk) {
        run_eight(cut.part(r, std::min(chunk, kTokens - r)));
      }
      EXPECT_TRUE(same_bits(cut.out.span(), singly.out.span())) << "chunks of " << chunk;
    }
  }
}

TEST_P(AttentionKernels, PagesByThemselvesMergeToTheWhole) {
  const std::vector<std::vector<PositionRange>> cases = {
      causal(1, 1100),
      causal(1, 1030, 600),
      causal(5, 765),
      causal(7, 766, 300),
      {{0, 10}, {700, 900}, {256, 512}, {255, 513}},
  };
  for (const auto& ranges : cases) {
    for (const KvType kv : types()) {
      for (const bool adjusted : {false, true}) {
        const AttentionSpec spec{
            .head_dim = 36, .kv = kv, .rows = 8, .alibi = adjusted, .softcap = adjusted};
        const GeneratedCode<AttentionFn> kernel(generate_attention(spec, GetParam()));
        const auto generated = [&](const AttentionArgs& args) { kernel(args); };
        const auto reference = [&](const AttentionArgs& args) { attention_reference(spec, args); };
        const HeadCache cache(spec, hull(ranges), capacity_for(ranges), 1);
        AttentionCall expected(cache, ranges, 2);
        attention_reference(spec, expected.args);
        for (const int64_t taken : {1, 2, 9}) {
          AttentionCall found(cache, ranges, 2);
          run_by_pages(generated, found.args, taken);
          ASSERT_TRUE(same_bits(found.out.span(), expected.out.span())) << repeat(spec, GetParam());
        }
        AttentionCall plain(cache, ranges, 2);
        run_by_pages(reference, plain.args, 2);
        ASSERT_TRUE(same_bits(plain.out.span(), expected.out.span()));
      }
    }
  }
}

TEST_P(AttentionKernels, LargeScoresEqualTheReference) {
  for (KvType kv : {KvType::f32, KvType::int16, KvType::int8, KvType::bf16_pairs}) {
    const AttentionSpec spec{.head_dim = 64, .kv = kv, .rows = 2};
    const std::vector<PositionRange> ranges = causal(2, 300);
    const GeneratedCode<AttentionFn> kernel(generate_attention(spec, GetParam()));
    HeadCache cache(spec, hull(ranges), capacity_for(ranges), 1);
    expect_equal_at_scales(kernel, cache, ranges, {0.0F, -0.0F, 100.0F, -1e4F, 1e30F});
  }
}

// A query element that is no number makes its row none, and leaves its neighbours alone.
void expect_nan_queries(KvType kv, Isa isa) {
  const AttentionSpec spec{.head_dim = 20, .kv = kv, .rows = 4};
  const std::vector<PositionRange> ranges = causal(4, 90);
  const GeneratedCode<AttentionFn> kernel(generate_attention(spec, isa));
  const HeadCache cache(spec, hull(ranges), capacity_for(ranges), 1);
  for (const float bad : {kNaN, -std::numeric_limits<float>::infinity()}) {
    for (const size_t element : {size_t{0}, size_t{19}}) {
      AttentionCall found(cache, ranges, 2), expected(cache, ranges, 2);
      const auto at = static_cast<size_t>(2 * found.stride);
      found.q[at + element] = expected.q[at + element] = bad;
      kernel(found.args);
      attention_reference(spec, expected.args);
      for (size_t d = 0; d < 20; ++d) {
        EXPECT_TRUE(std::isnan(found.out[at + d]));
        EXPECT_TRUE(std::isnan(expected.out[at + d]));
      }
      for (const int64_t row : {0, 1, 3}) {
        const auto from = static_cast<size_t>(row * found.stride);
        EXPECT_TRUE(
            same_bits(found.out.span().subspan(from, 20), expected.out.span().subspan(from, 20)));
      }
    }
  }
}

TEST_P(AttentionKernels, QueriesThatAreNotFiniteAreNaN) {
  for (const KvType kv : {KvType::int8, KvType::int16}) expect_nan_queries(kv, GetParam());
}

// Keys, queries, weights and values of 8 bits at the ends of their range, over the longest head.
TEST_P(AttentionKernels, TheLargestBytesEqualTheReference) {
  constexpr int64_t kDim = 1024, kPositions = 70;
  for (const int rows : {1, 4}) {
    const AttentionSpec spec{.head_dim = kDim, .kv = KvType::int8, .rows = rows};
    const GeneratedCode<AttentionFn> kernel(generate_attention(spec, GetParam()));
    const std::vector<PositionRange> ranges(static_cast<size_t>(rows), {0, kPositions});
    for (const float key_sign : {1.0F, -1.0F}) {
      for (const float value_sign : {1.0F, -1.0F}) {
        HeadCache cache(spec, hull(ranges), capacity_for(ranges), 1);
        const std::vector<float> key(kDim, key_sign), value(kDim, value_sign);
        for (int64_t t = 0; t < kPositions; ++t) {
          kv_append(spec.kv, kDim, t, key.data(), value.data(), cache.head());
        }
        AttentionCall found(cache, ranges, 2), expected(cache, ranges, 2);
        for (AttentionCall* call : {&found, &expected}) std::ranges::fill(call->q, 1.0F);
        kernel(found.args);
        attention_reference(spec, expected.args);
        EXPECT_TRUE(same_bits(found.out.span(), expected.out.span()));
        EXPECT_NEAR(expected.out[kDim - 1], value_sign, 2e-4);
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, AttentionKernels,
                         ::testing::Values(Isa::avx2, Isa::avx_vnni, Isa::avx512, Isa::avx512_vnni),
                         [](const auto& info) { return std::string(isa_name(info.param)); });

// Softmax attention as in the textbooks, in double precision, over positions in the plain layout.
std::vector<double> softmax_attention(const HeadCache& cache, const AttentionCall& call,
                                      size_t row) {
  const auto dim = static_cast<size_t>(call.dim);
  const float* q = call.args.q + static_cast<int64_t>(row) * call.stride;
  std::vector<double> scores, out(dim, 0.0);
  for (int64_t t = call.lo[row]; t < call.hi[row]; ++t) {
    const float* key = &cache.plain_keys[static_cast<size_t>(t) * dim];
    double s = 0;
    for (size_t d = 0; d < dim; ++d) s += static_cast<double>(q[d]) * key[d];
    s *= call.args.scale;
    if (cache.spec.softcap) s = call.args.softcap * std::tanh(s / call.args.softcap);
    if (cache.spec.alibi) s += call.slope[row] * static_cast<double>(t - (call.hi[row] - 1));
    scores.push_back(s);
  }
  const double max = std::ranges::max(scores);
  double sum = 0;
  for (double& s : scores) sum += s = std::exp(s - max);
  for (size_t i = 0; i < scores.size(); ++i) {
    const float* value = &cache.plain_values[(static_cast<size_t>(call.lo[row]) + i) * dim];
    for (size_t d = 0; d < dim; ++d) out[d] += scores[i] / sum * value[d];
  }
  return out;
}

TEST(AttentionReference, AgreesWithSoftmaxAttention) {
  for (bool alibi : {false, true}) {
    for (bool softcap : {false, true}) {
      const AttentionSpec spec{.head_dim = 40, .rows = 4, .alibi = alibi, .softcap = softcap};
      const std::vector<PositionRange> ranges = {{0, 1}, {0, 300}, {100, 333}, {65, 130}};
      const HeadCache cache(spec, hull(ranges), capacity_for(ranges), 3);
      AttentionCall call(cache, ranges, 4);
      attention_reference(spec, call.args);
      for (size_t r = 0; r < ranges.size(); ++r) {
        const auto expected = softmax_attention(cache, call, r);
        for (size_t d = 0; d < expected.size(); ++d) {
          EXPECT_NEAR(call.out[r * static_cast<size_t>(call.stride) + d], expected[d], 1e-5);
        }
      }
    }
  }
}

// Largest error against double precision softmax attention over the unrounded cache, relative to
// the largest output. Some elements are ten times as large as the rest, as in keys of real models.
double relative_error(KvType kv, double outliers) {
  const AttentionSpec spec{.head_dim = 128, .kv = kv, .rows = 4};
  const std::vector<PositionRange> ranges = {{0, 1}, {0, 700}, {100, 333}, {65, 130}};
  HeadCache cache(spec, {0, 0}, capacity_for(ranges), 3);
  std::mt19937 random(5);
  std::normal_distribution<float> normal;
  const auto dim = static_cast<size_t>(spec.head_dim);
  for (size_t t = 0; t < cache.plain_keys.size() / dim; ++t) {
    for (size_t d = 0; d < dim; ++d) {
      cache.plain_keys[t * dim + d] =
          normal(random) * static_cast<float>(d % 40 == 3 ? outliers : 1.0);
      cache.plain_values[t * dim + d] = normal(random);
    }
    kv_append(kv, spec.head_dim, static_cast<int64_t>(t), &cache.plain_keys[t * dim],
              &cache.plain_values[t * dim], cache.head());
  }
  AttentionCall call(cache, ranges, 4);
  attention_reference(spec, call.args);
  double error = 0;
  for (size_t r = 0; r < ranges.size(); ++r) {
    const auto expected = softmax_attention(cache, call, r);
    double worst = 0, largest = 0;
    for (size_t d = 0; d < dim; ++d) {
      const double found = call.out[r * static_cast<size_t>(call.stride) + d];
      worst = std::max(worst, std::abs(found - expected[d]));
      largest = std::max(largest, std::abs(expected[d]));
    }
    error = std::max(error, worst / largest);
  }
  return error;
}

// Where all scores are equal the output is the mean of the values, those that are 0 included: they
// have no scale to speak of, but the weight of any other.
TEST(AttentionReference, ValuesOfZeroCount) {
  constexpr int64_t kDim = 20, kPositions = 300;
  const std::vector<float> key(kDim, 0.0F), none(kDim, 0.0F), value(kDim, 3.0F);
  for (const KvType kv : kAllTypes) {
    const AttentionSpec spec{.head_dim = kDim, .kv = kv, .rows = 1};
    const HeadCache cache(spec, {0, kPositions}, 2 * kKvPage, 1);
    for (int64_t t = 0; t < kPositions; ++t) {
      kv_append(kv, kDim, t, key.data(), t % 3 == 0 ? value.data() : none.data(), cache.head());
    }
    AttentionCall call(cache, {{0, kPositions}, {1, 3}}, 2);
    attention_reference(spec, call.args);
    for (size_t d = 0; d < static_cast<size_t>(kDim); ++d) {
      EXPECT_NEAR(call.out[d], 1.0F, 2e-3) << kv_type_name(kv);
      EXPECT_EQ(call.out[static_cast<size_t>(call.stride) + d], 0.0F) << kv_type_name(kv);
    }
  }
}

TEST(AttentionReference, RoundingTheCacheCostsLittle) {
  for (const double outliers : {1.0, 10.0}) {
    EXPECT_LT(relative_error(KvType::f32, outliers), 1e-5);
    EXPECT_LT(relative_error(KvType::f16, outliers), 1e-3 * outliers);
    EXPECT_LT(relative_error(KvType::int16, outliers), 5e-4 * outliers);
    EXPECT_LT(relative_error(KvType::int16, outliers), relative_error(KvType::f16, outliers));
    EXPECT_LT(relative_error(KvType::bf16, outliers), 1e-2 * outliers);
    EXPECT_LT(relative_error(KvType::bf16_pairs, outliers), 1.5e-2 * outliers);
    EXPECT_LT(relative_error(KvType::int8, outliers), 2e-2 * outliers);
  }
}

// Off by rounding to nearest and little more than that.
TEST(Bf16Weights, ArePowersOf2) {
  ScalarMath v;
  EXPECT_EQ(bf16_weight(v, -kBf16Top), 1.0F);
  EXPECT_EQ(bf16_weight(v, -kBf16Top - 56), 0x1p-56F);
  EXPECT_TRUE(std::isnan(bf16_weight(v, kNaN)));
  for (float x = kLeastBf16Exponent; x <= 0.5F; x += 0.00173F) {
    const float weight = bf16_weight(v, x);
    const double exact = std::exp2(double{x} + 0.5);
    EXPECT_EQ(std::bit_cast<uint32_t>(weight) & 0xFFFFU, 0U);
    EXPECT_NEAR(weight, exact, (0x1p-8 + 1.2e-4) * exact) << x;
  }
}

TEST(Int16Weights, ArePowersOf2) {
  ScalarMath v;
  EXPECT_EQ(vector_exp2(v, 0.0F), 1.0F);
  EXPECT_EQ(vector_exp2(v, -64.0F), 0x1p-64F);
  EXPECT_EQ(vector_exp2(v, -1e30F), 0x1p-64F);
  EXPECT_TRUE(std::isnan(vector_exp2(v, kNaN)));
  for (float x = -64; x <= 0; x += 0.00173F) {
    const double exact = std::exp2(double{x});
    EXPECT_NEAR(vector_exp2(v, x), exact, 2e-7 * exact) << x;
  }
}

TEST(ByteWeights, ArePowersOf2) {
  ScalarMath v;
  EXPECT_EQ(byte_weight(v, 0.0F), 255.0F);
  EXPECT_EQ(byte_weight(v, -125.0F), std::ldexp(255.0F, -125));
  EXPECT_EQ(byte_weight(v, -1e30F), std::ldexp(255.0F, -125));
  EXPECT_TRUE(std::isnan(byte_weight(v, kNaN)));
  for (float x = -125; x <= 0; x += 0.00173F) {
    const double exact = 255 * std::exp2(double{x});
    EXPECT_NEAR(byte_weight(v, x), exact, 1.1e-4 * exact) << x;
  }
}

TEST(AttentionSpecs, InvalidOnesAreRefused) {
  EXPECT_THROW(generate_attention({.head_dim = 0}, Isa::avx2), Error);
  EXPECT_THROW(generate_attention({.head_dim = 4096}, Isa::avx2), Error);
  EXPECT_THROW(generate_attention({.head_dim = 64, .rows = 0}, Isa::avx2), Error);
  EXPECT_THROW(generate_attention({.head_dim = 64, .rows = 9}, Isa::avx2), Error);
  EXPECT_THROW(generate_attention({.head_dim = 64, .kv = KvType::int8, .rows = 33}, Isa::avx2),
               Error);
  EXPECT_THROW(attention_scratch_bytes({.head_dim = -1}), Error);
}

}  // namespace
}  // namespace nibble::test
