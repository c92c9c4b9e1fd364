#include "jit/super_blocks.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <random>
#include <vector>

#include "jit/error.h"
#include "jit/packed_numbers.h"
#include "jit/row_kernels.h"
#include "tests/support/super_numbers.h"

namespace nibble::jit {
namespace {

constexpr WeightFormat kQ4K{
    .type = WeightType::u4, .group = 32, .asym = true, .scale = ScaleType::q8, .minimum = true};
constexpr WeightFormat kQ6K{.type = WeightType::u6, .group = 16, .scale = ScaleType::q8};

TEST(SuperBlocks, ShapesAsDocumented) {
  const PackedShape four = packed_shape(kQ4K, 33, 512);
  EXPECT_EQ(four.supers, 2);
  EXPECT_EQ(four.groups, 16);
  EXPECT_EQ(four.act_group, 256);
  EXPECT_EQ(four.act_groups, 2);
  EXPECT_EQ(four.act_sum_bytes, 16 * 2);
  EXPECT_EQ(four.scale_block_bytes, 2 * (8 * 16 + 32));
  EXPECT_EQ(four.scale_bytes, 3 * four.scale_block_bytes);
  EXPECT_EQ(four.zero_bytes, four.scale_bytes);
  const PackedShape six = packed_shape(kQ6K, 16, 256);
  EXPECT_EQ(six.scale_bytes, 16 * 16 + 32);
  EXPECT_EQ(six.zero_bytes, 0);
  EXPECT_EQ(six.act_sum_bytes, 16 * 4);
  // Other scales: those of the activations are of the same groups.
  const PackedShape plain = packed_shape({.group = 32}, 16, 512);
  EXPECT_EQ(plain.supers, 0);
  EXPECT_EQ(plain.act_groups, 16);
  EXPECT_EQ(plain.act_sum_bytes, 64);
}

TEST(SuperBlocks, WhatNeedsWholeSuperBlocksIsRefused) {
  EXPECT_THROW(packed_shape(kQ4K, 16, 128), Error);
  EXPECT_THROW(packed_shape(kQ4K, 16, 257), Error);
  for (const int64_t group : {0, 8, 24, 256, 512}) {
    WeightFormat format = kQ4K;
    format.group = group;
    EXPECT_THROW(packed_shape(format, 16, 512), Error) << group;
  }
  WeightFormat zeros = kQ4K;
  zeros.minimum = false;
  EXPECT_THROW(packed_shape(zeros, 16, 256), Error);
}

// The bytes of scales follow each other by groups, those of minimums in pairs of groups.
TEST(SuperBlocks, BytesLieAsDocumented) {
  std::vector<uint8_t> q(16 * 256), data(16 * 256 / 2);
  std::vector<float> scale(16 * 8), minimum(scale.size()), above(16, 0.5F), under(16, -2.0F);
  for (size_t i = 0; i < scale.size(); ++i) {
    const auto byte = static_cast<float>(static_cast<int>(i) - 64);  // [c][g]: 8 c + g - 64
    scale[i] = 0.5F * byte;
    minimum[i] = -2.0F * byte;
  }
  std::vector<uint8_t> scales(160, 0xee), minimums(160, 0xee);
  pack_block(kQ4K, 16, 256, 0, q.data(), scale.data(), nullptr, data.data(), scales.data(),
             minimums.data(), minimum.data(), {above.data(), under.data()});
  for (int g = 0; g < 8; ++g) {
    for (int c = 0; c < 16; ++c) {
      const int byte = 8 * c + g - 64;
      EXPECT_EQ(static_cast<int8_t>(scales[static_cast<size_t>(g * 16 + c)]), byte);
      EXPECT_EQ(static_cast<int8_t>(minimums[static_cast<size_t>(g / 2 * 32 + c * 2 + g % 2)]),
                byte);
    }
  }
  for (size_t c = 0; c < 16; ++c) {
    EXPECT_EQ(scales[128 + 2 * c] | scales[129 + 2 * c] << 8, 0x3800);      // 0.5
    EXPECT_EQ(minimums[128 + 2 * c] | minimums[129 + 2 * c] << 8, 0xc000);  // -2
  }
}

TEST(SuperBlocks, EveryElementComesBack) {
  std::mt19937 random(3);
  for (const WeightType type : {WeightType::u4, WeightType::u6, WeightType::u8}) {
    for (const int64_t group : {16, 32, 64, 128}) {
      const WeightFormat format{
          .type = type, .group = group, .asym = true, .scale = ScaleType::q8, .minimum = true};
      const int64_t n = 37, k = 512;
      const PackedShape shape = packed_shape(format, n, k);
      std::vector<uint8_t> data(static_cast<size_t>(shape.data_bytes)),
          scales(static_cast<size_t>(shape.scale_bytes), 0xee), minimums(scales);
      std::vector<test::SuperNumbers> wanted_scales, wanted_minimums;
      std::vector<std::vector<uint8_t>> wanted_q;
      for (int64_t nb = 0; nb < shape.nblocks; ++nb) {
        wanted_scales.push_back(test::random_super_numbers(random, shape, 4));
        wanted_minimums.push_back(test::random_super_numbers(random, shape, 2));
        std::vector<uint8_t>& q = wanted_q.emplace_back(static_cast<size_t>(16 * k));
        for (uint8_t& value : q) value = static_cast<uint8_t>(random() & top_value(type));
        pack_block(format, n, k, nb, q.data(), wanted_scales.back().products.data(), nullptr,
                   data.data(), scales.data(), minimums.data(),
                   wanted_minimums.back().products.data(),
                   {wanted_scales.back().above.data(), wanted_minimums.back().above.data()});
      }
      const PackedView view{format, n, k, data.data(), scales.data(), minimums.data()};
      std::vector<float> column(static_cast<size_t>(k));
      for (int64_t c = 0; c < shape.nblocks * 16; ++c) {
        const auto nb = static_cast<size_t>(c / 16);
        if (c < n) unpack_column(view, c, column);
        for (int64_t g = 0; g < shape.groups; ++g) {
          const auto at = static_cast<size_t>(c % 16 * shape.groups + g);
          const float scale = c < n ? wanted_scales[nb].products[at] : 0.0F;
          const float minimum = c < n ? wanted_minimums[nb].products[at] : 0.0F;
          ASSERT_EQ(packed_scale(view, c, g), scale) << c << " " << g;
          ASSERT_EQ(packed_minimum(view, c, g), minimum);
          if (c >= n) continue;
          const int64_t kk = (g + 1) * group - 1;
          const uint8_t q = wanted_q[nb][static_cast<size_t>(c % 16 * k + kk)];
          ASSERT_EQ(packed_value(view, c, kk), q);
          ASSERT_EQ(column[static_cast<size_t>(kk)],
                    std::fma(static_cast<float>(q), scale, minimum));
        }
      }
    }
  }
}

TEST(SuperBlocks, WhatIsNoProductIsRefused) {
  std::vector<uint8_t> q(16 * 256), data(16 * 256 / 16 * 12), scales(288);
  const auto pack = [&](float scale, float above) {
    const std::vector<float> all(16 * 16, scale), over(16, above);
    pack_block(kQ6K, 16, 256, 0, q.data(), all.data(), nullptr, data.data(), scales.data(), nullptr,
               nullptr, {over.data(), nullptr});
  };
  EXPECT_NO_THROW(pack(0.25F * 127, 0.25F));
  EXPECT_NO_THROW(pack(0.25F * -128, 0.25F));
  EXPECT_NO_THROW(pack(0, 0));
  EXPECT_THROW(pack(0.25F * 128, 0.25F), Error);
  EXPECT_THROW(pack(0.3F, 0.25F), Error);
  EXPECT_THROW(pack(1, 0), Error);
  EXPECT_THROW(pack(0.1F, 0.1F), Error);  // no number of fp16
  EXPECT_THROW(pack(std::numeric_limits<float>::quiet_NaN(), 1), Error);
  EXPECT_THROW(pack(1, std::numeric_limits<float>::infinity()), Error);
}

// Sums of parts of a group, of 32 and of 16 bits.
TEST(SuperBlocks, ActivationsHaveOneScaleAndManySums) {
  std::vector<float> x(512);
  for (size_t i = 0; i < x.size(); ++i) x[i] = static_cast<float>(static_cast<int>(i % 64) - 20);
  x[0] = 127;    // the scale of the first 256 is 1,
  x[256] = 254;  // that of the others 2
  std::vector<int8_t> q(512);
  float scales[2];
  int32_t sums[32];
  RowArgs args;
  args.x = x.data();
  args.q = q.data();
  args.q_scale = scales;
  args.q_sum = sums;
  args.q_groups = 2;
  args.q_sum_words = 32;
  args.rows = 1;
  row_reference({.op = RowOp::quantize, .n = 512, .group = 256, .sum_group = 16, .zero = 32}, args);
  EXPECT_EQ(scales[0], 1);
  EXPECT_EQ(scales[1], 2);
  for (size_t g = 0; g < 32; ++g) {
    int32_t sum = 0;
    for (size_t i = 0; i < 16; ++i) sum += q[g * 16 + i];
    EXPECT_EQ(sums[g], -32 * sum);
  }
  int32_t pairs[8];
  args.q_sum = pairs;
  args.q_sum_words = 8;
  row_reference({.op = RowOp::quantize,
                 .n = 512,
                 .group = 256,
                 .sum_group = 32,
                 .word_sums = true,
                 .zero = 1},
                args);
  int16_t words[16];
  std::memcpy(words, pairs, sizeof(words));
  for (size_t g = 0; g < 16; ++g) EXPECT_EQ(words[g], (sums[2 * g] + sums[2 * g + 1]) / 32);
  EXPECT_EQ(activation_groups(kQ4K),
            (ActivationGroups{.group = 256, .sum_group = 32, .word_sums = true, .zero = 1}));
  EXPECT_EQ(activation_groups(kQ6K),
            (ActivationGroups{.group = 256, .sum_group = 16, .word_sums = false, .zero = 32}));
  EXPECT_EQ(activation_groups({.group = 64, .asym = true}),
            (ActivationGroups{.group = 64, .zero = 1}));
}

}  // namespace
}  // namespace nibble::jit
