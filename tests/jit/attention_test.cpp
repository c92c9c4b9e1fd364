// Attention kernels against their plain C++ reference, bit for bit, with guard pages after every
// buffer and NaN wherever no row may look; the reference against softmax attention in double
// precision; and what the contract promises of the way a prompt is cut.
#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <utility>

#include "jit/attention_bf16.h"
#include "jit/float16.h"
#include "jit/kv_quantize.h"
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
};

TEST_P(AttentionKernels, EveryHeadSizeEqualsTheReference) {
  for (int64_t dim : {1, 2, 7, 16, 20, 32, 33, 64, 80, 96, 100, 112, 128, 192, 256}) {
    for (KvType kv : kAllTypes) {
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
  for (int64_t hi = 1; hi <= 140; hi += hi < 40 || hi > 120 ? 1 : 5) {
    check_attention({.head_dim = 20, .rows = 1}, GetParam(), causal(1, hi));
    check_attention({.head_dim = 20, .rows = 3}, GetParam(), causal(3, hi));
    check_attention({.head_dim = 24, .kv = KvType::f16, .rows = 4}, GetParam(), causal(4, hi, 19));
    check_attention({.head_dim = 24, .kv = KvType::int16, .rows = 1}, GetParam(), causal(1, hi));
    check_attention({.head_dim = 20, .kv = KvType::int16, .rows = 6}, GetParam(),
                    causal(5, hi, 19));
    check_attention({.head_dim = 24, .kv = KvType::int8, .rows = 4}, GetParam(), causal(4, hi));
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
    for (const KvType kv : {KvType::int16, KvType::bf16_pairs}) {
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
        for (KvType kv : kAllTypes) {
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
    check_attention({.head_dim = 7, .kv = KvType::int8, .rows = 4, .alibi = true}, GetParam(),
                    ranges);
  }
}

// What a row cannot see does not matter, even where its neighbours look at it.
TEST_P(AttentionKernels, AnUnseenNaNPoisonsOnlyTheRowsThatSeeIt) {
  for (const KvType kv : {KvType::f32, KvType::bf16_pairs}) {
    const AttentionSpec spec{.head_dim = 32, .kv = kv, .rows = 4};
    expect_nan_from(71, spec, GetParam(), {{0, 70}, {0, 71}, {0, 72}, {0, 73}});
  }
}

TEST_P(AttentionKernels, CuttingAPromptDifferentlyChangesNothing) {
  constexpr int64_t kTokens = 24;
  for (KvType kv : kAllTypes) {
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
    for (const KvType kv : kAllTypes) {
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
  for (KvType kv : {KvType::f32, KvType::int16, KvType::bf16_pairs}) {
    const AttentionSpec spec{.head_dim = 64, .kv = kv, .rows = 2};
    const std::vector<PositionRange> ranges = causal(2, 300);
    const GeneratedCode<AttentionFn> kernel(generate_attention(spec, GetParam()));
    HeadCache cache(spec, hull(ranges), capacity_for(ranges), 1);
    expect_equal_at_scales(kernel, cache, ranges, {0.0F, -0.0F, 100.0F, -1e4F, 1e30F});
  }
}

INSTANTIATE_TEST_SUITE_P(Isas, AttentionKernels,
                         ::testing::Values(Isa::avx2, Isa::avx512, Isa::avx512_vnni),
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

TEST(KvQuantize, EqualsItsReference) {
  std::mt19937 random(7);
  std::normal_distribution<float> normal;
  for (const int64_t count : {1, 7, 8, 9, 16, 20, 64, 100, 128, 1024}) {
    for (const QuantizeRule& rule : {kNormRule, kInt16ValueRule, kInt8Rule}) {
      for (const float size : {0.0F, 1e-38F, 1.0F, 1e10F}) {
        const auto n = static_cast<size_t>(count);
        GuardedBuffer<float> x(n);
        for (float& value : x) value = normal(random) * size;
        GuardedBuffer<int16_t> found(n), expected(n);
        const float scale = quantize_vector(x.data(), count, rule, found.data());
        EXPECT_EQ(scale, quantize_plain(x.data(), count, rule, expected.data()));
        EXPECT_TRUE(std::ranges::equal(found.span(), expected.span()));
        double squares = 0;
        for (size_t i = 0; i < n; ++i) {
          squares += static_cast<double>(found[i]) * found[i];
          EXPECT_NEAR(static_cast<double>(found[i]) * scale, x[i], 0.51 * scale);
        }
        EXPECT_LE(rule.by_norm != 0 ? squares : 0.0, 0x1p31);
      }
    }
  }
}

// Position 83 is the 19th of the second split: lane 3 of its second block, odd of its pair 9.
TEST(KvLayout, PutsIntegersInPairs) {
  constexpr int64_t kDim = 3, kPosition = kKvPage + 83;
  for (KvType type : {KvType::int16, KvType::int8}) {
    const int64_t bytes = type == KvType::int8 ? 1 : 2;
    EXPECT_EQ(kv_bytes(type, kDim, 32), 32 * 16 * bytes);
    const KvRecord record = kv_record(type, kDim);
    EXPECT_EQ(record.bytes, 2 * 64 * (16 * bytes + 4));
    const int64_t page = kv_page_bytes(type, kDim);
    EXPECT_EQ(page, 4 * record.bytes);
    std::vector<std::byte> pages(static_cast<size_t>(2 * page + 64));
    const KvHead head{pages.data(), page + 64};
    const float key[] = {1, -2, 3};
    const float value[] = {4, 0, -6};
    kv_append(type, kDim, kPosition, key, value, head);
    for (int64_t d = 0; d < kDim; ++d) {
      EXPECT_NEAR(kv_key(type, kDim, head, kPosition, d), key[d], 0.02);
      EXPECT_NEAR(kv_value(type, kDim, head, kPosition, d), value[d], 0.03);
    }
    const std::byte* split = pages.data() + page + 64 + record.bytes;
    EXPECT_EQ(kv_split(record, head, kPosition / kKvSplit), split);
    const auto sign_of = [&](int64_t part, int64_t element) {
      return split[part + (element + 1) * bytes - 1];
    };
    // 1 / 3 of 127 is 42, of 32767 is 0x2AAA.
    const int64_t block = 16 * 16;
    EXPECT_EQ(sign_of(0, block + 3 * 2), std::byte{0x2A});
    EXPECT_GE(sign_of(0, block + 3 * 2 + 1), std::byte{0x80});
    EXPECT_GE(sign_of(record.values, (9 * 16 + 2) * 2 + 1), std::byte{0x80});
    float scale;
    std::memcpy(&scale, split + record.value_scales + 19 * 4, 4);
    EXPECT_NEAR(scale, 6.0 / (type == KvType::int8 ? 127 : 16383), 1e-6);
    std::memcpy(&scale, split + record.key_scales + 19 * 4, 4);
    EXPECT_NEAR(scale, 3.0 / (type == KvType::int8 ? 127 : 32767), 1e-6);
    const auto written = [](std::byte b) { return b != std::byte{0}; };
    EXPECT_EQ(std::count_if(split, split + record.key_scales, written), bytes * 3);
    EXPECT_EQ(std::count_if(std::as_const(pages).data(), split, written), 0);
  }
}

// Position 83 is the 19th of the second split: lane 3 of its second block, of the values the upper
// half of line 3 of the first 32.
TEST(KvLayout, PutsBf16InPairs) {
  constexpr int64_t kDim = 35, kWidth = 64, kPosition = kKvPage + 83;
  constexpr KvType kType = KvType::bf16_pairs;
  const KvRecord record = kv_record(kType, kDim);
  EXPECT_EQ(record.values, 64 * kWidth * 2);
  EXPECT_EQ(record.bytes, 2 * record.values);
  const int64_t page = kv_page_bytes(kType, kDim);
  std::vector<std::byte> pages(static_cast<size_t>(2 * page + 64));
  const KvHead head{pages.data(), page + 64};
  std::vector<float> key(kDim), value(kDim);
  for (size_t d = 0; d < kDim; ++d) {
    key[d] = 1.0F + static_cast<float>(d);
    value[d] = -100.0F - static_cast<float>(d);
  }
  key[7] = 0x1p-57F;
  kv_append(kType, kDim, kPosition, key.data(), value.data(), head);
  key[7] = 0;
  const std::byte* split = kv_split(record, head, kPosition / kKvSplit);
  const auto number_at = [&](int64_t index) {
    uint16_t bits;
    std::memcpy(&bits, split + 2 * index, 2);
    return bf16_to_f32(bits);
  };
  int64_t zeros = 0;
  for (int64_t i = 0; i < record.bytes / 2; ++i) zeros += number_at(i) == 0 ? 1 : 0;
  EXPECT_EQ(zeros, record.bytes / 2 - 2 * kDim + 1);
  for (int64_t d = 0; d < kDim; ++d) {
    const auto at = static_cast<size_t>(d);
    EXPECT_EQ(number_at(kWidth * 16 + d / 2 * 32 + 3 * 2 + d % 2), key[at]);
    EXPECT_EQ(number_at(record.values / 2 + (3 * kWidth + d) * 2 + 1), value[at]);
    EXPECT_EQ(kv_key(kType, kDim, head, kPosition, d), key[at]);
    EXPECT_EQ(kv_value(kType, kDim, head, kPosition, d), value[at]);
  }
}

// Values are multiplied by weights of 0 where they do not count, so none may be infinite or NaN;
// what was makes the score NaN instead.
TEST(KvLayout, KeepsValuesFinite) {
  constexpr int64_t kDim = 3;
  constexpr KvType kType = KvType::bf16_pairs;
  constexpr float kInfinity = std::numeric_limits<float>::infinity();
  std::vector<std::byte> pages(static_cast<size_t>(kv_page_bytes(kType, kDim)));
  const KvHead head{pages.data(), 0};
  for (const float bad : {kNaN, kInfinity, -kInfinity, 3.4e38F}) {
    const float good[] = {1, 2, 3}, with_bad[] = {4, bad, 6};
    kv_append(kType, kDim, 5, good, with_bad, head);
    EXPECT_TRUE(std::isnan(kv_key(kType, kDim, head, 5, 0)));
    EXPECT_EQ(kv_value(kType, kDim, head, 5, 0), 4);
    EXPECT_EQ(kv_value(kType, kDim, head, 5, 1), 0);
    kv_append(kType, kDim, 5, with_bad, good, head);
    EXPECT_TRUE(std::isnan(kv_key(kType, kDim, head, 5, 0)));
    EXPECT_EQ(kv_value(kType, kDim, head, 5, 1), 2);
    kv_append(kType, kDim, 5, good, good, head);
    EXPECT_EQ(kv_key(kType, kDim, head, 5, 0), 1);
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

TEST(AttentionSpecs, InvalidOnesAreRefused) {
  EXPECT_THROW(generate_attention({.head_dim = 0}, Isa::avx2), Error);
  EXPECT_THROW(generate_attention({.head_dim = 4096}, Isa::avx2), Error);
  EXPECT_THROW(generate_attention({.head_dim = 64, .rows = 0}, Isa::avx2), Error);
  EXPECT_THROW(generate_attention({.head_dim = 64, .rows = 9}, Isa::avx2), Error);
  EXPECT_THROW(generate_attention({.head_dim = 64, .kv = KvType::int8, .rows = 33}, Isa::avx2),
               Error);
  EXPECT_THROW(attention_scratch_bytes({.head_dim = -1}), Error);
}

TEST(KvLayout, PutsPositionsSideBySide) {
  constexpr int64_t kDim = 3;
  constexpr int64_t kRecord = 2 * 64 * kDim * 4;
  EXPECT_EQ(kv_record(KvType::f32, kDim).bytes, kRecord);
  EXPECT_EQ(kv_record(KvType::f16, kDim).bytes, kRecord / 2);
  std::vector<float> page(4 * kRecord / 4, 0.0F);
  const float key[] = {1, 2, 3};
  const float value[] = {4, 5, 6};
  kv_append(KvType::f32, kDim, 64 + 18, key, value,
            {reinterpret_cast<std::byte*>(page.data()), 4 * kRecord});
  std::vector<float> expected(page.size(), 0.0F);
  for (size_t d = 0; d < 3; ++d) {
    expected[kRecord / 4 + 16 * 3 + d * 16 + 2] = key[d];
    expected[kRecord / 4 + (64 + 18) * 3 + d] = value[d];
  }
  EXPECT_EQ(page, expected);
}

TEST(KvLayout, RoundsHalvesToEven) {
  const float rounded[] = {1.0F,     2049.0F, 2051.0F, 65504.0F, 65520.0F, 1e-8F, -0.0F,
                           5.96e-8F, 3.0e-8F, -1.5F,   1e30F,    0.1F,     0.2F};
  const uint16_t expected[] = {0x3C00, 0x6800, 0x6802, 0x7BFF, 0x7C00, 0x0000, 0x8000,
                               0x0001, 0x0001, 0xBE00, 0x7C00, 0x2E66, 0x3266};
  constexpr int64_t kDim = std::size(rounded);
  GuardedBuffer<uint16_t> record(2 * 64 * kDim);
  kv_append(KvType::f16, kDim, 15, rounded, rounded,
            {reinterpret_cast<std::byte*>(record.data()), 0});
  for (size_t d = 0; d < static_cast<size_t>(kDim); ++d) {
    EXPECT_EQ(record[d * 16 + 15], expected[d]) << rounded[d];
    EXPECT_EQ(record[(64 + 15) * static_cast<size_t>(kDim) + d], expected[d]) << rounded[d];
  }
}

}  // namespace
}  // namespace nibble::test
