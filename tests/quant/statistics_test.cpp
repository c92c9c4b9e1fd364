#include "quant/scores/statistics.h"

#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <vector>

#include "jit/error.h"

namespace nibble::quant {
namespace {

TEST(Statistics, MeanAndStandardError) {
  // Squares about the mean of 5: 9 + 1 + 1 + 1 + 0 + 0 + 4 + 16 = 32; sqrt(32 / 7 / 8).
  const std::vector<double> values = {2, 4, 4, 4, 5, 5, 7, 9};
  const Mean mean = mean_of(values);
  EXPECT_DOUBLE_EQ(mean.value, 5);
  EXPECT_DOUBLE_EQ(mean.standard_error, 0.7559289460184544);
  EXPECT_EQ(mean.count, 8);
  const Interval interval = interval_of(mean);
  EXPECT_NEAR(interval.low, 5 - 1.4816, 1e-4);
  EXPECT_NEAR(interval.high, 5 + 1.4816, 1e-4);
}

TEST(Statistics, FewValues) {
  EXPECT_EQ(mean_of({}).value, 0);
  const std::vector<double> one = {3};
  EXPECT_EQ(mean_of(one).value, 3);
  EXPECT_EQ(mean_of(one).standard_error, 0);
}

TEST(Statistics, ALargeOffsetCostsNoDigits) {
  const std::vector<double> values = {1e9 + 1, 1e9 + 2, 1e9 + 3};
  EXPECT_DOUBLE_EQ(mean_of(values).standard_error, 1 / std::sqrt(3.0));
}

TEST(Statistics, PairsCancelWhatTheyShare) {
  const std::vector<double> before = {1, 100, 10000}, after = {1.5, 101, 10001.5};
  const Mean difference = paired_difference(after, before);
  EXPECT_DOUBLE_EQ(difference.value, 1);
  EXPECT_NEAR(difference.standard_error, 0.5 / std::sqrt(3.0), 1e-12);
  EXPECT_THROW(paired_difference(after, std::vector<double>{1, 2}), Error);
}

TEST(Statistics, PerplexityGoesThroughTheLogarithm) {
  const Mean nll{std::log(40.0), 0.01, 1000};
  EXPECT_NEAR(perplexity_of(nll), 40, 1e-12);
  const Interval interval = perplexity_interval(nll);
  EXPECT_NEAR(interval.low, 40 * 0.9805914, 1e-5);
  EXPECT_NEAR(interval.high, 40 * 1.0197930, 1e-5);
}

TEST(Statistics, WilsonsInterval) {
  // 8 of 10: (0.8 + 0.19207) / 1.38415 -+ 1.95996 / 1.38415 * sqrt(0.016 + 0.0096036).
  const Interval eight = share_interval(8, 10);
  EXPECT_NEAR(eight.low, 0.49016, 1e-5);
  EXPECT_NEAR(eight.high, 0.94331, 1e-5);
  EXPECT_EQ(share_interval(0, 10).low, 0);
  EXPECT_NEAR(share_interval(0, 10).high, 0.27753, 1e-5);
  EXPECT_EQ(share_interval(10, 10).high, 1);
  EXPECT_EQ(share_interval(0, 0).high, 1);
}

std::vector<uint8_t> answers(int right, int wrong) {
  std::vector<uint8_t> out(static_cast<size_t>(right), 1);
  out.resize(static_cast<size_t>(right + wrong), 0);
  return out;
}

TEST(Statistics, McNemar) {
  // 1 against 6: 2 * (C(7,0) + C(7,1)) / 2^7 = 16 / 128.
  const std::vector<uint8_t> first = {1, 0, 0, 0, 0, 0, 0, 1, 1, 0};
  const std::vector<uint8_t> second = {0, 1, 1, 1, 1, 1, 1, 1, 1, 0};
  const PairedTest test = mcnemar(first, second);
  EXPECT_EQ(test.only_first, 1);
  EXPECT_EQ(test.only_second, 6);
  EXPECT_NEAR(test.p_value, 0.125, 1e-12);
  EXPECT_EQ(mcnemar(first, first).p_value, 1);
  EXPECT_EQ(mcnemar({}, {}).p_value, 1);
  EXPECT_THROW(mcnemar(first, answers(1, 1)), Error);
}

TEST(Statistics, McNemarOfManyAnswers) {
  // 2000 disagreements, as even as can be: certainly chance, though 2^-2000 is no double.
  auto first = answers(1000, 1000), second = answers(0, 1000);
  second.resize(2000, 1);
  EXPECT_EQ(mcnemar(first, second).p_value, 1);
  // 900 against 1100, 4.47 deviations from even: 8.457e-6 by exact binomials.
  first = answers(900, 1100);
  second = answers(0, 900);
  second.resize(2000, 1);
  EXPECT_NEAR(mcnemar(first, second).p_value / 8.457089535503927e-6, 1, 1e-9);
}

using Answers = std::vector<uint8_t>;

// `both` right twice, then right in the first or second alone, then wrong twice.
PairedRatio ratio_of(size_t both, size_t first, size_t second, size_t none) {
  Answers a(both, 1), b(both, 1);
  a.insert(a.end(), first, 1), b.insert(b.end(), first, 0);
  a.insert(a.end(), second, 0), b.insert(b.end(), second, 1);
  a.insert(a.end(), none, 0), b.insert(b.end(), none, 0);
  return paired_ratio(a, b);
}

TEST(Statistics, RatiosOfPairedShares) {
  const PairedRatio some = ratio_of(60, 5, 10, 25);
  EXPECT_DOUBLE_EQ(some.value, 65.0 / 70);
  EXPECT_LT(some.interval.low, some.value);
  EXPECT_GT(some.interval.high, 1);  // 5 against 10 is no proof
  EXPECT_LT(ratio_of(60, 0, 10, 30).interval.high, 1);
  // What both got wrong does not count.
  EXPECT_EQ(ratio_of(60, 5, 10, 2500).interval.low, some.interval.low);
  // For large counts the standard error of the logarithm is sqrt((b + c) / (first second)).
  const PairedRatio many = ratio_of(60000, 5000, 6000, 1000);
  const double error = std::sqrt(11000.0 / (65000.0 * 66000.0));
  EXPECT_NEAR(std::log(many.interval.high / many.value), 1.959964 * error, 0.02 * error);
  EXPECT_NEAR(std::log(many.value / many.interval.low), 1.959964 * error, 0.02 * error);
}

TEST(Statistics, EqualAnswersAreNoProofOfNoLoss) {
  const PairedRatio few = ratio_of(20, 0, 0, 20), many = ratio_of(2000, 0, 0, 2000);
  for (const PairedRatio& equal : {few, many}) {
    EXPECT_EQ(equal.value, 1);
    EXPECT_NEAR(equal.interval.low * equal.interval.high, 1, 1e-12);
  }
  EXPECT_LT(few.interval.low, 0.95);
  EXPECT_LT(many.interval.low, 1);
  EXPECT_GT(many.interval.low, 0.995);
  EXPECT_EQ(ratio_of(0, 0, 5, 5).value, 0);
  EXPECT_EQ(ratio_of(0, 0, 5, 5).interval.low, 0);
  EXPECT_THROW(ratio_of(0, 3, 0, 5), Error);
}

// Of 95% intervals about 95% hold the true ratio.
TEST(Statistics, RatioIntervalsHoldTheTruth) {
  std::mt19937 random(1);
  std::uniform_real_distribution<double> uniform(0, 1);
  for (const auto& [share, lost, won] : {std::tuple{0.6, 0.04, 0.05}, {0.1, 0.3, 0.02}}) {
    const double truth = (share * (1 - lost) + (1 - share) * won) / share;
    int held = 0;
    constexpr int kDraws = 2000;
    for (int draw = 0; draw < kDraws; ++draw) {
      Answers first, second;
      for (int i = 0; i < 200; ++i) {
        const bool right = uniform(random) < share;
        second.push_back(right ? 1 : 0);
        first.push_back(uniform(random) < (right ? 1 - lost : won) ? 1 : 0);
      }
      const Interval interval = paired_ratio(first, second).interval;
      held += interval.low <= truth && truth <= interval.high ? 1 : 0;
    }
    EXPECT_GT(held, 0.935 * kDraws) << share;
    EXPECT_LT(held, 0.985 * kDraws) << share;
  }
}

}  // namespace
}  // namespace nibble::quant
