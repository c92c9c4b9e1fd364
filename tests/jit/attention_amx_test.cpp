// Attention over bf16 pairs on tiles against its reference, bit by bit: under the AMX emulator
// where the machine has AVX512-VNNI alone, natively where it has tiles. Attention over all other
// caches is the code of avx512_vnni.
#include <gtest/gtest.h>

#include <algorithm>
#include <vector>

#include "tests/jit/amx_code.h"
#include "tests/jit/attention_problem.h"

namespace nibble::test {
namespace {

AttentionSpec pairs(int64_t head_dim, int rows) {
  return {.head_dim = head_dim, .kv = KvType::bf16_pairs, .rows = rows};
}

class AmxAttention : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!amx_obstacle().empty()) GTEST_SKIP() << "this machine lacks " << amx_obstacle();
  }
  static void check(const AttentionSpec& spec, const std::vector<PositionRange>& ranges) {
    check_attention(spec, Isa::amx_int8, ranges);
  }
  AmxEmulator emulator_;
};

TEST_F(AmxAttention, EveryHeadSizeEqualsTheReference) {
  for (const int64_t dim : {1, 7, 20, 32, 33, 64, 80, 96, 100, 128, 192, 256}) {
    const CheckedAttention kernel(pairs(dim, 32), Isa::amx_int8);
    for (const int rows : {9, 16, 32}) {
      kernel.check(causal(rows, 1));
      kernel.check(causal(rows, 90));
    }
    check(pairs(dim, 16), causal(16, 40));
  }
}

TEST_F(AmxAttention, EveryLengthEqualsTheReference) {
  const CheckedAttention two(pairs(40, 32), Isa::amx_int8), one(pairs(24, 12), Isa::amx_int8);
  for (int64_t hi = 1; hi <= 270; hi += hi < 40 || hi > 250 ? 1 : 7) {
    two.check(causal(20, hi));
    one.check(causal(11, hi, 37));
  }
}

TEST_F(AmxAttention, EveryRowCountEqualsTheReference) {
  for (const int rows : {8, 9, 16, 17, 31, 32}) {
    const CheckedAttention kernel(pairs(48, rows), Isa::amx_int8);
    for (int64_t used = 1; used <= rows; used += rows > 17 ? 3 : 1) {
      kernel.check(causal(used, 250));
    }
  }
}

TEST_F(AmxAttention, AlibiAndSoftcapEqualTheReference) {
  for (const bool alibi : {false, true}) {
    for (const bool softcap : {false, true}) {
      AttentionSpec spec = pairs(48, 32);
      spec.alibi = alibi;
      spec.softcap = softcap;
      check(spec, causal(32, 200, 130));
      check(spec, causal(10, 600));
    }
  }
}

// Rows that see nothing of a page that others see, in every order, and pages that no row sees.
TEST_F(AmxAttention, RowsApartEqualTheReference) {
  std::vector<PositionRange> ranges = {
      {0, 10}, {100, 200}, {64, 65},   {63, 129},  {0, 1},     {190, 200}, {255, 257}, {256, 512},
      {3, 5},  {0, 900},   {511, 513}, {800, 900}, {256, 257}, {15, 17},   {31, 33},   {0, 32}};
  check(pairs(40, 16), ranges);
  ranges.insert(ranges.end(), {{5, 6}, {0, 300}, {0, 256}});
  check(pairs(40, 32), ranges);
  std::erase_if(ranges, [](const PositionRange& r) { return r.hi > 256 && r.lo < 768; });
  check(pairs(72, 32), ranges);
}

TEST_F(AmxAttention, PagesByThemselvesMergeToTheWhole) {
  for (const auto& ranges : {causal(32, 1100), causal(9, 765), causal(20, 1030, 600)}) {
    const AttentionSpec spec = pairs(80, 32);
    const GeneratedCode<AttentionFn> kernel(generate_attention(spec, Isa::amx_int8));
    const HeadCache cache(spec, hull(ranges), capacity_for(ranges), 1);
    AttentionCall expected(cache, ranges, 2);
    attention_reference(spec, expected.args);
    for (const int64_t taken : {1, 2, 9}) {
      AttentionCall found(cache, ranges, 2);
      run_by_pages([&](const AttentionArgs& args) { kernel(args); }, found.args, taken);
      ASSERT_TRUE(same_bits(found.out.span(), expected.out.span()));
    }
  }
}

// By tiles, by vectors, and by the vectors of another instruction set.
TEST_F(AmxAttention, CuttingAPromptDifferentlyChangesNothing) {
  constexpr int64_t kTokens = 64;
  const AttentionSpec spec = pairs(64, 32);
  const std::vector<PositionRange> ranges = causal(kTokens, 230, 200);
  const HeadCache cache(spec, hull(ranges), capacity_for(ranges), 1);
  const auto cut = [&](Isa isa, int64_t rows) {
    const GeneratedCode<AttentionFn> kernel(generate_attention(spec, isa));
    AttentionCall call(cache, ranges, 2);
    for (int64_t r = 0; r < kTokens; r += rows) {
      kernel(call.part(r, std::min(rows, kTokens - r)));
    }
    return std::vector<float>(call.out.begin(), call.out.end());
  };
  const std::vector<float> expected = cut(Isa::avx2, 1);
  EXPECT_TRUE(cut(Isa::avx2, 32) == expected);
  for (const int64_t rows : {1, 3, 8, 9, 16, 23, 32}) {
    EXPECT_TRUE(cut(Isa::amx_int8, rows) == expected) << "chunks of " << rows;
  }
}

TEST_F(AmxAttention, AnUnseenNaNPoisonsOnlyTheRowsThatSeeIt) {
  expect_nan_from(71, pairs(32, 16), Isa::amx_int8, causal(16, 64));
}

TEST_F(AmxAttention, LargeScoresEqualTheReference) {
  const AttentionSpec spec = pairs(64, 16);
  const std::vector<PositionRange> ranges = causal(12, 300);
  const GeneratedCode<AttentionFn> kernel(generate_attention(spec, Isa::amx_int8));
  const HeadCache cache(spec, hull(ranges), capacity_for(ranges), 1);
  expect_equal_at_scales(kernel, cache, ranges,
                         {0.0F, -0.0F, 100.0F, -1e4F, 1e-17F, 1e-30F, 1e30F});
}

// Tile instructions of one call over 64 positions of 128 elements.
uint64_t executed_for(int rows) {
  const AttentionSpec spec = pairs(128, 32);
  const std::vector<PositionRange> ranges(static_cast<size_t>(rows), {0, 64});
  const uint64_t before = AmxEmulator::executed();
  check_attention(spec, Isa::amx_int8, ranges);
  return AmxEmulator::executed() - before;
}

// Scores: two times 32 positions, 4 steps of 32 elements. Outputs: 4 pairs of columns, 2 steps of
// 32 positions. Of 32 rows a load serves a product, and sums are cleared and stored once each.
TEST_F(AmxAttention, TwoByTwoTilesLoadOncePerProduct) {
  if (cpu().amx_tile) GTEST_SKIP() << "instructions are counted by the emulator";
  constexpr uint64_t kConfigureAndRelease = 2;
  EXPECT_EQ(executed_for(32), 2 * (4 + 4 * 8 + 4) + 4 * (4 + 2 * 8 + 4) + kConfigureAndRelease);
  EXPECT_EQ(executed_for(16), 2 * (2 + 4 * 5 + 2) + 4 * (2 + 2 * 5 + 2) + kConfigureAndRelease);
  EXPECT_EQ(executed_for(9), executed_for(16));
  EXPECT_EQ(executed_for(8), 0U);
  EXPECT_EQ(executed_for(1), 0U);
}

TEST_F(AmxAttention, TilesAreReleasedAtTheEnd) {
  check(pairs(64, 32), causal(20, 100));
  EXPECT_EQ(current_config(), AmxTiles::Config{});
}

TEST(AmxAttentionCode, OtherCachesAndFewRowsTakeThatOfAvx512Vnni) {
  for (const KvType kv : {KvType::f16, KvType::bf16, KvType::int16}) {
    const AttentionSpec spec{.head_dim = 64, .kv = kv, .rows = 8};
    EXPECT_EQ(generate_attention(spec, Isa::amx_int8), generate_attention(spec, Isa::avx512_vnni));
  }
  EXPECT_EQ(generate_attention(pairs(64, 8), Isa::amx_int8),
            generate_attention(pairs(64, 8), Isa::avx512_vnni));
  EXPECT_NE(generate_attention(pairs(64, 9), Isa::amx_int8),
            generate_attention(pairs(64, 9), Isa::avx512_vnni));
}

}  // namespace
}  // namespace nibble::test
