#include "quant/formats/rtn.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "jit/error.h"
#include "jit/float16.h"
#include "tests/quant/solver_inputs.h"

namespace nibble::quant {
namespace {

using jit::ScaleType;
using jit::WeightFormat;
using jit::WeightType;

constexpr WeightFormat kU4{WeightType::u4, 32, false, ScaleType::f32};
constexpr WeightFormat kU4Asym{WeightType::u4, 32, true, ScaleType::f32};
constexpr WeightFormat kU8{WeightType::u8, 32, false, ScaleType::f32};
constexpr WeightFormat kU8Asym{WeightType::u8, 32, true, ScaleType::f32};

struct Quantized {
  GroupResult group;
  std::vector<int> q;
};

Quantized quantize(const std::vector<float>& w, const WeightFormat& format,
                   RtnRange range = RtnRange::plain) {
  std::vector<uint8_t> q(w.size());
  const GroupResult group = rtn_group(w, format, range, q);
  return {group, {q.begin(), q.end()}};
}

double squared_error(const std::vector<float>& w, const WeightFormat& format, RtnRange range,
                     size_t group) {
  double sum = 0;
  for (size_t begin = 0; begin < w.size(); begin += group) {
    const std::vector<float> part(w.begin() + static_cast<int64_t>(begin),
                                  w.begin() + static_cast<int64_t>(begin + group));
    const Quantized result = quantize(part, format, range);
    for (size_t i = 0; i < part.size(); ++i) {
      const double error =
          static_cast<double>(result.q[i] - result.group.zero) * result.group.scale - part[i];
      sum += error * error;
    }
  }
  return sum;
}

TEST(Rtn, SymmetricScaleIsASeventh) {
  const Quantized r = quantize({-7, 3, 0, 7, 1}, kU4);
  EXPECT_EQ(r.group.scale, 1.0F);
  EXPECT_EQ(r.group.zero, 8);
  EXPECT_EQ(r.q, (std::vector<int>{1, 11, 8, 15, 9}));
}

TEST(Rtn, TiesGoToEven) {
  const Quantized r = quantize({7, 0.5F, 1.5F, 2.5F, -0.5F, -1.5F, -2.5F, 3.5F, 4.5F}, kU4);
  EXPECT_EQ(r.q, (std::vector<int>{15, 8, 10, 10, 8, 6, 6, 12, 12}));
}

TEST(Rtn, FullRangeMapsTheExtremeToMinusEight) {
  const Quantized negative = quantize({-8, 4, 7}, kU4, RtnRange::full);
  EXPECT_EQ(negative.group.scale, 1.0F);
  EXPECT_EQ(negative.q, (std::vector<int>{0, 12, 15}));
  const Quantized positive = quantize({8, -4, -7}, kU4, RtnRange::full);
  EXPECT_EQ(positive.group.scale, -1.0F);
  EXPECT_EQ(positive.q, (std::vector<int>{0, 12, 15}));
  // Equal extremes: the scale stays positive and the positive one is clamped.
  const Quantized equal = quantize({8, -8}, kU4, RtnRange::full);
  EXPECT_EQ(equal.group.scale, 1.0F);
  EXPECT_EQ(equal.q, (std::vector<int>{15, 0}));
}

TEST(Rtn, Asymmetric) {
  const Quantized r = quantize({-5, 10, 0, 2.5F, 3.5F}, kU4Asym);
  EXPECT_EQ(r.group.scale, 1.0F);
  EXPECT_EQ(r.group.zero, 5);
  EXPECT_EQ(r.q, (std::vector<int>{0, 15, 5, 7, 9}));
}

TEST(Rtn, AsymmetricRangeIncludesZero) {
  const Quantized positive = quantize({15, 30}, kU4Asym);
  EXPECT_EQ(positive.group.scale, 2.0F);
  EXPECT_EQ(positive.group.zero, 0);
  EXPECT_EQ(positive.q, (std::vector<int>{8, 15}));  // 7.5 rounds to 8
  const Quantized negative = quantize({-15, -30}, kU4Asym);
  EXPECT_EQ(negative.group.zero, 15);
  EXPECT_EQ(negative.q, (std::vector<int>{7, 0}));  // -7.5 rounds to -8
}

TEST(Rtn, EightBits) {
  const Quantized r = quantize({-127, 127, 0, 0.5F, 1.5F}, kU8);
  EXPECT_EQ(r.group.scale, 1.0F);
  EXPECT_EQ(r.group.zero, 128);
  EXPECT_EQ(r.q, (std::vector<int>{1, 255, 128, 128, 130}));
  EXPECT_EQ(quantize({-127, 127, 0, 0.5F, 1.5F}, kU8, RtnRange::full).q, r.q);
  const Quantized asym = quantize({-55, 200, 0}, kU8Asym);
  EXPECT_EQ(asym.group.scale, 1.0F);
  EXPECT_EQ(asym.group.zero, 55);
  EXPECT_EQ(asym.q, (std::vector<int>{0, 255, 55}));
}

TEST(Rtn, ZeroGroupsHaveScaleOne) {
  for (const WeightFormat& format : {kU4, kU4Asym, kU8, kU8Asym}) {
    for (const RtnRange range : {RtnRange::plain, RtnRange::full}) {
      const Quantized r = quantize({0.0F, -0.0F, 0.0F, 0.0F, 0.0F}, format, range);
      EXPECT_EQ(r.group.scale, 1.0F);
      for (const int q : r.q) EXPECT_EQ(q, r.group.zero);
    }
  }
}

TEST(Rtn, TheScaleIsRoundedBeforeQ) {
  WeightFormat format = kU4;
  format.scale = ScaleType::f16;
  int differs = 0;
  for (uint32_t seed = 0; seed < 200; ++seed) {
    const std::vector<float> w = normal_numbers(32, seed, 0.02F);
    const Quantized r = quantize(w, format);
    EXPECT_EQ(jit::f16_to_f32(jit::f32_to_f16(r.group.scale)), r.group.scale);
    const Quantized exact = quantize(w, kU4);
    for (size_t i = 0; i < w.size(); ++i) {
      const float expected = std::clamp(std::nearbyint(w[i] / r.group.scale), -8.0F, 7.0F);
      EXPECT_EQ(r.q[i] - 8, static_cast<int>(expected));
    }
    differs += r.q != exact.q;
  }
  EXPECT_GT(differs, 0) << "no case tells the two orders apart";
}

// Every length: the vector part and the tail compute the same.
TEST(Rtn, EveryLengthFollowsTheFormula) {
  for (size_t length = 1; length <= 70; ++length) {
    const std::vector<float> w = normal_numbers(length, static_cast<uint32_t>(length), 0.02F);
    const float low = std::min(0.0F, *std::min_element(w.begin(), w.end()));
    const float high = std::max(0.0F, *std::max_element(w.begin(), w.end()));
    const float largest = std::max(high, -low);

    const Quantized plain = quantize(w, kU4);
    const Quantized full = quantize(w, kU4, RtnRange::full);
    const Quantized asym = quantize(w, kU4Asym);
    const Quantized wide = quantize(w, kU8Asym);
    EXPECT_EQ(plain.group.scale, largest / 7);
    EXPECT_EQ(full.group.scale, high > -low ? -largest / 8 : largest / 8);
    EXPECT_EQ(asym.group.scale, (high - low) / 15);
    EXPECT_EQ(wide.group.scale, (high - low) / 255);
    EXPECT_EQ(asym.group.zero, static_cast<int>(std::nearbyint(-low / asym.group.scale)));
    EXPECT_EQ(wide.group.zero, static_cast<int>(std::nearbyint(-low / wide.group.scale)));
    for (size_t i = 0; i < length; ++i) {
      const auto rounded = [&](const Quantized& r) {
        return static_cast<int>(std::nearbyint(w[i] / r.group.scale));
      };
      EXPECT_EQ(plain.q[i], std::clamp(rounded(plain), -8, 7) + 8);
      EXPECT_EQ(full.q[i], std::clamp(rounded(full), -8, 7) + 8);
      EXPECT_EQ(asym.q[i], std::clamp(rounded(asym) + asym.group.zero, 0, 15));
      EXPECT_EQ(wide.q[i], std::clamp(rounded(wide) + wide.group.zero, 0, 255));
    }
  }
}

TEST(Rtn, ErrorsAreOrderedAsTheyShouldBe) {
  const std::vector<float> w = normal_numbers(1 << 14, 1, 0.02F);
  const double plain = squared_error(w, kU4, RtnRange::plain, 32);
  const double full = squared_error(w, kU4, RtnRange::full, 32);
  EXPECT_LE(full, plain);
  EXPECT_LT(squared_error(w, kU4, RtnRange::plain, 16), plain);
  EXPECT_GT(squared_error(w, kU4, RtnRange::plain, 128), plain);
  EXPECT_LT(squared_error(w, kU8, RtnRange::plain, 32), plain / 100);
  // What asymmetry is for: weights that lie to one side.
  std::vector<float> shifted = w;
  for (float& x : shifted) x = std::fabs(x) + 0.02F;
  EXPECT_LT(squared_error(shifted, kU4Asym, RtnRange::plain, 32),
            squared_error(shifted, kU4, RtnRange::plain, 32) / 2);
}

TEST(Rtn, TinyWeightsKeepAScale) {
  for (const ScaleType scale : {ScaleType::f16, ScaleType::f32}) {
    for (WeightFormat format : {kU4, kU4Asym, kU8, kU8Asym}) {
      format.scale = scale;
      for (const float tiny : {1e-8F, 1e-20F, 1e-38F, std::numeric_limits<float>::denorm_min()}) {
        for (const RtnRange range : {RtnRange::plain, RtnRange::full}) {
          const Quantized r = quantize({tiny, -tiny, 0, tiny / 2}, format, range);
          EXPECT_TRUE(std::isnormal(r.group.scale)) << tiny;
          EXPECT_LT(std::fabs(r.group.scale), 1e-6F);
          EXPECT_EQ(r.q[2], r.group.zero);
        }
      }
    }
  }
}

TEST(Rtn, HugeWeightsAreQuantizedOrRefused) {
  const float huge = std::numeric_limits<float>::max();
  const Quantized r = quantize({huge, -huge, 0}, kU4Asym);
  EXPECT_TRUE(std::isfinite(r.group.scale));
  EXPECT_EQ(r.q[0] - r.q[1], 15);
  WeightFormat half = kU4;
  half.scale = ScaleType::f16;
  EXPECT_THROW(quantize({1e6F, 0}, half), Error);
  EXPECT_EQ(quantize({4e5F, 0}, half).q[0], 15);
}

TEST(Rtn, NonFiniteWeightsAreRefused) {
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity(),
        -std::numeric_limits<float>::infinity()}) {
    for (size_t at = 0; at < 11; ++at) {  // in the vector part and in the tail
      std::vector<float> w = normal_numbers(11, 3, 0.02F);
      w[at] = bad;
      for (const WeightFormat& format : {kU4, kU4Asym, kU8, kU8Asym}) {
        try {
          quantize(w, format);
          FAIL() << bad << " at " << at;
        } catch (const Error& error) {
          EXPECT_NE(std::string(error.what()).find("index " + std::to_string(at)),
                    std::string::npos)
              << error.what();
        }
      }
    }
  }
}

TEST(Rtn, RefusesWrongUse) {
  std::vector<uint8_t> q(2);
  const std::vector<float> w(3);
  EXPECT_THROW(rtn_group(w, kU4, RtnRange::plain, q), Error);
  EXPECT_THROW(rtn_group(w, {.type = WeightType::f32}, RtnRange::plain, q), Error);
}

}  // namespace
}  // namespace nibble::quant
