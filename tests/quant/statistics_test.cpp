#include "quant/scores/statistics.h"

#include <gtest/gtest.h>

#include <cmath>
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

}  // namespace
}  // namespace nibble::quant
