#include "jit/packed_layout.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <tuple>
#include <vector>

#include "jit/error.h"
#include "jit/float16.h"
#include "jit/packed_numbers.h"

namespace nibble::jit {
namespace {

// A random matrix, packed, with the values that went in.
struct Packed {
  Packed(const WeightFormat& f, int64_t n, int64_t k) : shape(packed_shape(f, n, k)), format(f) {
    data.assign(shape.data_bytes, 0xee);
    scales.assign(shape.scale_bytes, 0xee);
    zeros.assign(shape.zero_bytes, 0xee);
    std::mt19937 random(static_cast<uint32_t>(n * 1000 + k));
    const uint32_t levels = top_value(f.type) + 1U;
    for (int64_t nb = 0; nb < shape.nblocks; ++nb) {
      std::vector<uint8_t> bq(16 * shape.kpad);
      std::vector<uint8_t> bzero(16 * shape.groups);
      std::vector<float> bscale(16 * shape.groups);
      for (uint8_t& v : bq) v = static_cast<uint8_t>(random() % levels);
      for (uint8_t& v : bzero) v = static_cast<uint8_t>(random() % levels);
      const auto number = [&] {
        return round_to(f.scale, static_cast<float>(random() % 1000) * 0.01F - 5);
      };
      for (float& v : bscale) v = number();
      std::vector<float> bminimum(16 * shape.groups);
      for (float& v : bminimum) v = number();
      pack_block(f, n, k, nb, bq.data(), bscale.data(), bzero.data(), data.data(), scales.data(),
                 zeros.data(), f.minimum ? bminimum.data() : nullptr);
      minimum.insert(minimum.end(), bminimum.begin(), bminimum.end());
      q.insert(q.end(), bq.begin(), bq.end());
      scale.insert(scale.end(), bscale.begin(), bscale.end());
      zero.insert(zero.end(), bzero.begin(), bzero.end());
    }
  }
  PackedView view() const {
    return {format,      shape.n,       shape.k,
            data.data(), scales.data(), format.asym ? zeros.data() : nullptr};
  }
  PackedShape shape;
  WeightFormat format;
  std::vector<uint8_t> data, scales, zeros, q, zero;
  std::vector<float> scale, minimum;
};

TEST(PackedLayout, ShapesAsDocumented) {
  const PackedShape s = packed_shape({.group = 32, .asym = true}, 33, 77);
  EXPECT_EQ(s.nblocks, 3);
  EXPECT_EQ(s.kpad, 80);
  EXPECT_EQ(s.groups, 3);
  EXPECT_EQ(s.group, 32);
  EXPECT_EQ(s.block_bytes, 10 * 64);
  EXPECT_EQ(s.data_bytes, 30 * 64);
  EXPECT_EQ(s.scale_bytes, 3 * 3 * 16 * 2);
  EXPECT_EQ(s.zero_bytes, 3 * 3 * 16);
  const PackedShape whole = packed_shape({.type = WeightType::u8, .group = 0}, 16, 77);
  EXPECT_EQ(whole.group, 80);
  EXPECT_EQ(whole.groups, 1);
  EXPECT_EQ(whole.block_bytes, 20 * 64);
  EXPECT_EQ(whole.zero_bytes, 0);
  const PackedShape f32 = packed_shape({.type = WeightType::f32}, 17, 77);
  EXPECT_EQ(f32.groups, 0);
  EXPECT_EQ(f32.data_bytes, 2 * 77 * 64);
  EXPECT_EQ(f32.scale_bytes, 0);
}

TEST(PackedLayout, ImpossibleShapesAreRefused) {
  EXPECT_THROW(packed_shape({}, 0, 8), Error);
  EXPECT_THROW(packed_shape({}, 16, 0), Error);
  EXPECT_THROW(packed_shape({}, 16, -8), Error);
  EXPECT_THROW(packed_shape({}, int64_t{1} << 62, 8), Error);
  EXPECT_THROW(packed_shape({}, 16, INT64_MAX), Error);
  EXPECT_THROW(packed_shape({.group = 12}, 16, 24), Error);
  EXPECT_THROW(packed_shape({.group = -8}, 16, 24), Error);
  // The longest group there is does not overflow.
  EXPECT_EQ(packed_shape({.group = INT64_MAX / 8 * 8}, 16, 24).groups, 1);
}

// The line drawn in packed_layout.h, byte by byte.
TEST(PackedLayout, BytesOfALine) {
  std::vector<uint8_t> q(128);
  for (int c = 0; c < 16; ++c) {
    for (int kk = 0; kk < 8; ++kk) q[c * 8 + kk] = static_cast<uint8_t>((c + 3 * kk) % 16);
  }
  const std::vector<float> scale(16, 1.0F);
  std::vector<uint8_t> line(128);
  std::vector<uint16_t> scales(16);
  pack_block({.group = 8}, 16, 8, 0, q.data(), scale.data(), nullptr, line.data(), scales.data(),
             nullptr);
  for (int c = 0; c < 16; ++c) {
    for (int i = 0; i < 4; ++i) {
      EXPECT_EQ(line[c * 4 + i] & 15, (c + 3 * i) % 16);
      EXPECT_EQ(line[c * 4 + i] >> 4, (c + 3 * (i + 4)) % 16);
    }
  }
  pack_block({.type = WeightType::u8, .group = 8}, 16, 8, 0, q.data(), scale.data(), nullptr,
             line.data(), scales.data(), nullptr);
  for (int c = 0; c < 16; ++c) {
    for (int kk = 0; kk < 8; ++kk) {
      EXPECT_EQ(line[kk / 4 * 64 + c * 4 + kk % 4], (c + 3 * kk) % 16);
    }
  }
  EXPECT_EQ(scales[15], 0x3c00);
}

// Four bits in two lines, two more in a third.
TEST(PackedLayout, BytesOfAUnitOfSixBits) {
  std::vector<uint8_t> q(256);
  for (int c = 0; c < 16; ++c) {
    for (int kk = 0; kk < 16; ++kk) q[c * 16 + kk] = static_cast<uint8_t>((5 * c + 7 * kk) % 64);
  }
  const std::vector<float> scale(16, 1.0F);
  std::vector<uint8_t> unit(192);
  std::vector<uint16_t> scales(16);
  const WeightFormat format{.type = WeightType::u6, .group = 16};
  ASSERT_EQ(packed_shape(format, 16, 16).data_bytes, 192);
  pack_block(format, 16, 16, 0, q.data(), scale.data(), nullptr, unit.data(), scales.data(),
             nullptr);
  for (int c = 0; c < 16; ++c) {
    for (int i = 0; i < 4; ++i) {
      const int at = c * 4 + i;
      for (int j = 0; j < 4; ++j) {
        const int value = q[c * 16 + 4 * j + i];
        EXPECT_EQ(unit[j / 2 * 64 + at] >> (j % 2 * 4) & 15, value & 15);
        EXPECT_EQ(unit[128 + at] >> (2 * j) & 3, value >> 4);
      }
    }
  }
  set_unit_value(WeightType::u6, unit.data(), 3, 13, 42);
  q[3 * 16 + 13] = 42;
  for (int c = 0; c < 16; ++c) {
    for (int kk = 0; kk < 16; ++kk) {
      ASSERT_EQ(unit_value(WeightType::u6, unit.data(), c, kk), q[c * 16 + kk]);
    }
  }
  EXPECT_THROW(packed_shape({.type = WeightType::u6, .group = 8}, 16, 16), Error);
  EXPECT_EQ(packed_shape({.type = WeightType::u6, .group = 0}, 16, 24).data_bytes, 384);
}

class PackedRoundTrip
    : public testing::TestWithParam<std::tuple<WeightType, bool, ScaleType, int64_t>> {};

TEST_P(PackedRoundTrip, EveryElementComesBack) {
  const auto& [type, asym, scale_type, group] = GetParam();
  const WeightFormat format{.type = type, .group = group, .asym = asym, .scale = scale_type};
  const Packed p(format, 37, 77);
  const PackedView view = p.view();
  for (int64_t column = 0; column < p.shape.nblocks * 16; ++column) {
    const bool inside = column < 37;
    std::vector<float> unpacked(77);
    unpack_column(view, column, unpacked);
    for (int64_t kk = 0; kk < p.shape.kpad; ++kk) {
      const int64_t g = kk / p.shape.group;
      const uint8_t zero = packed_zero(view, column, g);
      const uint8_t default_zero = middle_value(type);
      ASSERT_EQ(zero, inside && asym ? p.zero[column * p.shape.groups + g] : default_zero);
      ASSERT_EQ(packed_scale(view, column, g),
                inside ? p.scale[column * p.shape.groups + g] : 0.0F);
      // Padding holds the zero point, so it adds nothing to any product.
      const uint8_t expected = inside && kk < 77 ? p.q[column * p.shape.kpad + kk] : zero;
      ASSERT_EQ(packed_value(view, column, kk), expected) << column << " " << kk;
      if (kk < 77) {
        ASSERT_EQ(unpacked[kk],
                  static_cast<float>(expected - zero) * packed_scale(view, column, g));
      }
    }
  }
}

TEST_P(PackedRoundTrip, ColumnsComeBackAsTheyWerePacked) {
  const auto& [type, asym, scale_type, group] = GetParam();
  const Packed p({.type = type, .group = group, .asym = asym, .scale = scale_type}, 37, 77);
  const PackedView view = p.view();
  std::vector<uint8_t> q(77), zeros(p.shape.groups);
  std::vector<float> scales(p.shape.groups);
  for (int64_t column = 0; column < 37; ++column) {
    unpack_quantized(view, column, q, scales, zeros);
    for (int64_t kk = 0; kk < 77; ++kk) ASSERT_EQ(q[kk], packed_value(view, column, kk));
    for (int64_t g = 0; g < p.shape.groups; ++g) {
      ASSERT_EQ(scales[g], packed_scale(view, column, g));
      ASSERT_EQ(zeros[g], packed_zero(view, column, g));
    }
  }
  q.pop_back();
  EXPECT_THROW(unpack_quantized(view, 0, q, scales, zeros), Error);
}

INSTANTIATE_TEST_SUITE_P(
    Formats, PackedRoundTrip,
    testing::Combine(testing::Values(WeightType::u4, WeightType::u8), testing::Bool(),
                     testing::Values(ScaleType::f16, ScaleType::f32, ScaleType::bf16),
                     testing::Values(8, 32, 128, 0)));
INSTANTIATE_TEST_SUITE_P(SixBits, PackedRoundTrip,
                         testing::Combine(testing::Values(WeightType::u6), testing::Bool(),
                                          testing::Values(ScaleType::f16),
                                          testing::Values(16, 48, 0)));

TEST(PackedLayout, MinimumsComeBack) {
  for (const WeightType type : {WeightType::u4, WeightType::u6, WeightType::u8}) {
    for (const ScaleType scale : {ScaleType::f16, ScaleType::f32, ScaleType::bf16}) {
      const WeightFormat format{
          .type = type, .group = 32, .asym = true, .scale = scale, .minimum = true};
      const Packed p(format, 37, 77);
      EXPECT_EQ(p.shape.zero_bytes, p.shape.scale_bytes);
      const PackedView view = p.view();
      std::vector<float> column(77);
      for (int64_t c = 0; c < 48; ++c) {
        unpack_column(view, c, column);
        for (int64_t kk = 0; kk < 80; ++kk) {
          const bool inside = c < 37 && kk < 77;
          const int64_t entry = c * p.shape.groups + kk / 32;
          const float minimum = c < 37 ? p.minimum[entry] : 0.0F;
          ASSERT_EQ(packed_zero(view, c, kk / 32), 0);
          ASSERT_EQ(packed_minimum(view, c, kk / 32), minimum);
          const auto q = static_cast<float>(packed_value(view, c, kk));
          // Padding of k is 0, that of columns has a scale of 0.
          if (!inside) {
            ASSERT_EQ(c < 37 ? q : 0.0F, 0.0F);
            continue;
          }
          ASSERT_EQ(q, static_cast<float>(p.q[c * p.shape.kpad + kk]));
          ASSERT_EQ(column[kk], std::fma(q, p.scale[entry], minimum));
        }
      }
    }
  }
  EXPECT_THROW(packed_shape({.group = 8, .minimum = true}, 16, 8), Error);
}

TEST(PackedLayout, ScaleTypesRoundToNearestEven) {
  EXPECT_EQ(round_to(ScaleType::f32, 0.1F), 0.1F);
  EXPECT_EQ(round_to(ScaleType::f16, 1 + 0x1p-11F), 1.0F);
  EXPECT_EQ(round_to(ScaleType::f16, 1 + 0x3p-11F), 1 + 0x1p-9F);
  EXPECT_EQ(round_to(ScaleType::bf16, 1 + 0x1p-8F), 1.0F);
  EXPECT_EQ(round_to(ScaleType::bf16, 1 + 0x3p-8F), 1 + 0x1p-6F);
  for (const ScaleType type : {ScaleType::f16, ScaleType::f32, ScaleType::bf16}) {
    EXPECT_EQ(parse_scale_type(scale_type_name(type)), type);
  }
  EXPECT_EQ(parse_scale_type("f64"), std::nullopt);
}

// Column c's element kk in the test below: blocks start at multiples of 1000, columns of 13.
float packed_source(int64_t c, int64_t kk) {
  const int64_t block = c / 16;
  return static_cast<float>(block * 1000 + c % 16 * 13 + kk);
}

TEST(PackedLayout, F32RoundTrip) {
  const PackedShape shape = packed_shape({.type = WeightType::f32}, 21, 13);
  std::vector<uint8_t> data(shape.data_bytes, 0xee);
  std::vector<float> w(208);
  for (int64_t nb = 0; nb < 2; ++nb) {
    for (int64_t i = 0; i < 208; ++i) w[i] = static_cast<float>(nb * 1000 + i);
    pack_block_f32(21, 13, nb, w.data(), data.data());
  }
  const PackedView view{{.type = WeightType::f32}, 21, 13, data.data(), nullptr, nullptr};
  std::vector<float> column(13);
  for (int64_t c = 0; c < 32; ++c) {
    unpack_column(view, c, column);
    for (int64_t kk = 0; kk < 13; ++kk) {
      EXPECT_EQ(column[kk], c < 21 ? packed_source(c, kk) : 0.0F);
    }
  }
  EXPECT_THROW(packed_value(view, 0, 0), Error);
}

TEST(PackedLayout, WrongInputIsRefused) {
  std::vector<uint8_t> q(128, 3);
  std::vector<float> scale(16, 1.0F);
  std::vector<uint8_t> data(128);
  std::vector<uint16_t> scales(16);
  const auto pack = [&] {
    pack_block({.group = 8}, 16, 8, 0, q.data(), scale.data(), nullptr, data.data(), scales.data(),
               nullptr);
  };
  pack();
  q[5] = 16;  // no nibble
  EXPECT_THROW(pack(), Error);
  q[5] = 15;
  for (const float bad : {0.1F, 1e6F, static_cast<float>(std::nan(""))}) {
    scale[3] = bad;
    EXPECT_THROW(pack(), Error) << bad;
  }
  std::vector<float> short_column(7);
  const PackedView view{{.group = 8}, 16, 8, data.data(), scales.data(), nullptr};
  EXPECT_THROW(unpack_column(view, 0, short_column), Error);
}

}  // namespace
}  // namespace nibble::jit
