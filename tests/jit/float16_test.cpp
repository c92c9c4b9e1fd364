#include "jit/float16.h"

#include <gtest/gtest.h>
#include <immintrin.h>

#include <bit>
#include <cmath>
#include <limits>
#include <random>

#include "jit/isa.h"

namespace nibble::jit {
namespace {

__attribute__((target("avx,f16c"))) uint16_t machine_f16(float value) {
  return static_cast<uint16_t>(
      _mm_extract_epi16(_mm_cvtps_ph(_mm_set_ss(value), _MM_FROUND_TO_NEAREST_INT), 0));
}

__attribute__((target("avx,f16c"))) float machine_f32(uint16_t half) {
  return _mm_cvtss_f32(_mm_cvtph_ps(_mm_cvtsi32_si128(half)));
}

uint32_t bits(float value) { return std::bit_cast<uint32_t>(value); }

TEST(Float16, KnownValues) {
  EXPECT_EQ(f16_to_f32(0x3c00), 1.0F);
  EXPECT_EQ(f16_to_f32(0xc000), -2.0F);
  EXPECT_EQ(f16_to_f32(0x7bff), 65504.0F);
  EXPECT_EQ(f16_to_f32(0x0001), 0x1p-24F);
  EXPECT_EQ(f16_to_f32(0x0400), 0x1p-14F);
  EXPECT_EQ(bits(f16_to_f32(0x8000)), 0x80000000U);
  EXPECT_TRUE(std::isinf(f16_to_f32(0x7c00)));
  EXPECT_TRUE(std::isnan(f16_to_f32(0x7c01)));
  EXPECT_EQ(f32_to_f16(65519.996F), 0x7bff);
  EXPECT_EQ(f32_to_f16(65520.0F), 0x7c00);
  EXPECT_EQ(f32_to_f16(-1e30F), 0xfc00);
  EXPECT_EQ(f32_to_f16(0x1p-25F), 0);    // half of the smallest: ties to even
  EXPECT_EQ(f32_to_f16(0x1.8p-24F), 2);  // one and a half of it
  EXPECT_EQ(f32_to_f16(1.0F + 0x1p-11F), 0x3c00);
  EXPECT_EQ(f32_to_f16(1.0F + 0x1.8p-10F), 0x3c02);
}

TEST(Float16, EveryHalfSurvives) {
  for (uint32_t h = 0; h < 0x10000; ++h) {
    const auto half = static_cast<uint16_t>(h);
    const float value = f16_to_f32(half);
    const bool nan = std::isnan(value);
    EXPECT_EQ(f32_to_f16(value), nan ? half | 0x200 : half) << h;
  }
}

TEST(Float16, EqualsTheInstructions) {
  if (!cpu().f16c) GTEST_SKIP() << "this machine has no F16C to compare with";
  for (uint32_t h = 0; h < 0x10000; ++h) {
    const auto half = static_cast<uint16_t>(h);
    ASSERT_EQ(bits(f16_to_f32(half)), bits(machine_f32(half))) << h;
  }
  // Every upper half of a float with lower halves around all rounding boundaries, both signs.
  for (uint32_t high = 0; high < 0x10000; ++high) {
    for (const uint32_t low : {0x0000U, 0x0001U, 0x0fffU, 0x1000U, 0x1001U, 0x2fffU, 0x3000U,
                               0x8000U, 0xefffU, 0xf000U, 0xf001U, 0xffffU}) {
      const float value = std::bit_cast<float>(high << 16 | low);
      ASSERT_EQ(f32_to_f16(value), machine_f16(value)) << high << " " << low;
    }
  }
  std::mt19937 random(7);
  for (int i = 0; i < 1000000; ++i) {
    const float value = std::bit_cast<float>(static_cast<uint32_t>(random()));
    ASSERT_EQ(f32_to_f16(value), machine_f16(value)) << bits(value);
  }
}

TEST(Bfloat16, RoundsToNearestEven) {
  EXPECT_EQ(f32_to_bf16(1.0F), 0x3f80);
  EXPECT_EQ(f32_to_bf16(1.0F + 0x1p-8F), 0x3f80);    // half of the last bit: to even
  EXPECT_EQ(f32_to_bf16(1.0F + 0x1.8p-7F), 0x3f82);  // one and a half of it
  EXPECT_EQ(f32_to_bf16(1.0F + 0x1.02p-8F), 0x3f81);
  EXPECT_EQ(f32_to_bf16(std::numeric_limits<float>::max()), 0x7f80);
  EXPECT_EQ(f32_to_bf16(0x1p-133F), 1);  // the smallest
  for (uint32_t b = 0; b < 0x10000; ++b) {
    const auto value = static_cast<uint16_t>(b);
    const bool nan = std::isnan(bf16_to_f32(value));
    EXPECT_EQ(f32_to_bf16(bf16_to_f32(value)), nan ? value | 0x40 : value) << b;
  }
}

// Activations are multiples of 2^-126: no sum of their products with whole numbers is subnormal.
TEST(Bfloat16, ActivationsAreZeroOrFarFromSubnormal) {
  for (uint32_t high = 0; high < 0x10000; ++high) {
    for (const uint32_t low : {0x0000U, 0x7fffU, 0x8000U, 0x8001U, 0xffffU}) {
      const float value = std::bit_cast<float>(high << 16 | low);
      const uint16_t activation = bf16_activation(value);
      if (std::isnan(value)) {
        ASSERT_EQ(activation, 0x7fc0) << bits(value);
      } else if (std::fabs(value) < kLeastBf16Activation) {
        ASSERT_EQ(activation, 0) << bits(value);
      } else {
        ASSERT_EQ(activation, f32_to_bf16(value)) << bits(value);
        if (std::isinf(value)) continue;
        const double units = double{bf16_to_f32(activation)} / 0x1p-126;
        ASSERT_EQ(units, std::trunc(units)) << bits(value);
      }
    }
  }
}

// So are the products of two factors.
TEST(Bfloat16, FactorsAreZeroOrMultiplesOfTheRootOfTheSmallest) {
  for (uint32_t high = 0; high < 0x10000; ++high) {
    for (const uint32_t low : {0x0000U, 0x8000U, 0xffffU}) {
      const float value = std::bit_cast<float>(high << 16 | low);
      const uint16_t factor = bf16_factor(value);
      if (std::fabs(value) < kLeastBf16Factor) {
        ASSERT_EQ(factor, 0) << bits(value);
      } else {
        ASSERT_EQ(factor, bf16_activation(value)) << bits(value);
        if (!std::isfinite(value)) continue;
        const double units = double{bf16_to_f32(factor)} / 0x1p-63;
        ASSERT_EQ(units, std::trunc(units)) << bits(value);
      }
    }
  }
}

}  // namespace
}  // namespace nibble::jit
