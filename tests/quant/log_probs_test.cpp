#include "quant/scores/log_probs.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <random>
#include <vector>

namespace nibble::quant {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();
constexpr float kNan = std::numeric_limits<float>::quiet_NaN();

std::vector<float> random_row(size_t length, float scale, float offset, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, 1.0F);
  std::vector<float> row(length);
  for (float& x : row) x = offset + scale * normal(random);
  return row;
}

// By the definition, in long double.
long double exact_log_sum(const std::vector<float>& row) {
  long double most = -std::numeric_limits<long double>::infinity(), sum = 0;
  for (const float x : row) most = std::max(most, static_cast<long double>(x));
  for (const float x : row) sum += std::exp(static_cast<long double>(x) - most);
  return most + std::log(sum);
}

double exact_kl(const std::vector<float>& base, const std::vector<float>& model) {
  const long double b = exact_log_sum(base), m = exact_log_sum(model);
  long double kl = 0;
  for (size_t i = 0; i < base.size(); ++i) {
    const long double log_p = static_cast<long double>(base[i]) - b;
    const long double log_q = static_cast<long double>(model[i]) - m;
    if (std::isfinite(static_cast<double>(log_p))) kl += std::exp(log_p) * (log_p - log_q);
  }
  return static_cast<double>(kl);
}

double kl(const std::vector<float>& base, const std::vector<float>& model) {
  return kl_divergence(base, summarize(base), model, summarize(model));
}

std::vector<size_t> lengths() {
  std::vector<size_t> out;
  for (size_t length = 1; length <= 40; ++length) out.push_back(length);
  for (const size_t length : {255, 256, 257, 263, 264, 511, 4096, 32000, 50257}) {
    out.push_back(length);
  }
  return out;
}

TEST(LogProbs, LogSumsAreThoseOfExactArithmetic) {
  for (const size_t length : lengths()) {
    for (const float scale : {0.0F, 0.5F, 3.0F, 30.0F}) {
      for (const float offset : {0.0F, -50.0F, 900.0F}) {
        const auto row = random_row(length, scale, offset, static_cast<uint32_t>(length));
        EXPECT_NEAR(summarize(row).log_sum, static_cast<double>(exact_log_sum(row)), 4e-7)
            << length << " logits of deviation " << scale << " around " << offset;
      }
    }
  }
}

TEST(LogProbs, AFlatRowIsTheLogarithmOfItsLength) {
  for (const size_t length : lengths()) {
    const std::vector<float> row(length, 2.5F);
    EXPECT_NEAR(summarize(row).log_sum, 2.5 + std::log(static_cast<double>(length)), 1e-12);
  }
}

TEST(LogProbs, TheBestIdIsTheLowestOfTheLargest) {
  for (const size_t length : lengths()) {
    auto row = random_row(length, 1.0F, 0.0F, 7);
    for (const size_t at : {length - 1, length / 2, size_t{0}}) {  // each a tie with those before
      row[at] = 100.0F;
      EXPECT_EQ(summarize(row).best, static_cast<int32_t>(at));
    }
  }
  EXPECT_EQ(summarize(std::vector<float>{-0.0F, 0.0F}).best, 0);
}

TEST(LogProbs, DamageAnywhereMakesTheLogSumNan) {
  for (const size_t length : {1, 4, 7, 8, 9, 33, 300}) {
    for (size_t at = 0; at < length; ++at) {
      for (const float bad : {kNan, -kNan, kInfinity}) {
        auto row = random_row(length, 1.0F, 0.0F, 7);
        row[at] = bad;
        EXPECT_TRUE(std::isnan(summarize(row).log_sum)) << bad << " at " << at << " of " << length;
      }
    }
    EXPECT_TRUE(std::isnan(summarize(std::vector<float>(length, -kInfinity)).log_sum));
  }
}

TEST(LogProbs, MinusInfinityIsAProbabilityOfZero) {
  auto row = random_row(29, 1.0F, 0.0F, 3), rest = row;
  row[4] = row[28] = -kInfinity;
  rest.erase(rest.begin() + 28);
  rest.erase(rest.begin() + 4);
  EXPECT_NEAR(summarize(row).log_sum, static_cast<double>(exact_log_sum(rest)), 4e-7);
  EXPECT_EQ(summarize(row).log_prob(row[4]), -std::numeric_limits<double>::infinity());
}

TEST(KlDivergence, IsThatOfExactArithmetic) {
  for (const size_t length : lengths()) {
    for (const float scale : {0.5F, 3.0F, 12.0F}) {
      for (const float noise : {1e-3F, 0.05F, 1.0F, 5.0F}) {
        const auto base = random_row(length, scale, 0.0F, static_cast<uint32_t>(length));
        auto model = base;
        const auto change = random_row(length, noise, 0.0F, 99);
        for (size_t i = 0; i < length; ++i) model[i] += change[i];
        const double expected = exact_kl(base, model);
        EXPECT_NEAR(kl(base, model), expected, 5e-7 * (1 + noise))
            << length << " logits of deviation " << scale << ", noise " << noise;
      }
    }
  }
}

TEST(KlDivergence, OfEqualRowsIsExactlyZero) {
  for (const size_t length : lengths()) {
    for (const float scale : {0.1F, 5.0F, 60.0F}) {
      const auto row = random_row(length, scale, 3.0F, static_cast<uint32_t>(length));
      EXPECT_EQ(kl(row, row), 0.0) << length;
    }
  }
}

// Softmax does not see what is added to all logits; exactly representable here.
TEST(KlDivergence, DoesNotSeeAnOffset) {
  std::vector<float> base, model;
  for (int i = 0; i < 777; ++i) {
    base.push_back(static_cast<float>(i * 37 % 101) / 16.0F);
    model.push_back(static_cast<float>(i * 53 % 97) / 16.0F);
  }
  const double expected = exact_kl(base, model);
  for (const float offset : {-1000.0F, 64.0F, 8192.0F}) {
    auto moved = model;
    for (float& x : moved) x += offset;
    EXPECT_NEAR(kl(base, moved), expected, 1e-6) << offset;
  }
}

TEST(KlDivergence, ImpossibleIds) {
  auto base = random_row(21, 1.0F, 0.0F, 3), model = random_row(21, 1.0F, 0.0F, 4);
  base[5] = -kInfinity;  // impossible to the base: no part of the sum
  EXPECT_NEAR(kl(base, model), exact_kl(base, model), 5e-7);
  model[5] = -kInfinity;
  EXPECT_NEAR(kl(base, model), exact_kl(base, model), 5e-7);
  model[6] = -kInfinity;  // to the model alone
  EXPECT_EQ(kl(base, model), std::numeric_limits<double>::infinity());
}

}  // namespace
}  // namespace nibble::quant
