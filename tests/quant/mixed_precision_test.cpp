#include "quant/formats/mixed_precision.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <tuple>

#include "jit/error.h"

namespace nibble::quant {
namespace {

using jit::ScaleType;
using jit::WeightFormat;
using jit::WeightType;

WeightCandidates weight(int64_t weights, const std::vector<std::pair<int64_t, double>>& options) {
  WeightCandidates all{"w", weights, {}};
  for (const auto& [bytes, loss] : options) all.candidates.push_back({{}, loss, bytes});
  return all;
}

// The least loss of all choices within the budget.
double best_loss(const std::vector<WeightCandidates>& weights, int64_t budget, size_t from = 0) {
  if (from == weights.size()) return 0;
  double best = std::numeric_limits<double>::infinity();
  for (const FormatCandidate& candidate : weights[from].candidates) {
    if (candidate.bytes > budget) continue;
    best = std::min(best, candidate.loss + best_loss(weights, budget - candidate.bytes, from + 1));
  }
  return best;
}

// A choice is what it says it is.
void expect_sound(const std::vector<WeightCandidates>& weights, const FormatChoice& choice,
                  int64_t budget) {
  ASSERT_EQ(choice.picks.size(), weights.size());
  int64_t bytes = 0, count = 0;
  double loss = 0;
  for (size_t w = 0; w < weights.size(); ++w) {
    const FormatCandidate& candidate = weights[w].candidates.at(choice.picks[w]);
    bytes += candidate.bytes;
    loss += candidate.loss;
    count += weights[w].weights;
  }
  EXPECT_EQ(choice.bytes, bytes);
  EXPECT_EQ(choice.loss, loss);
  EXPECT_EQ(choice.bits, 8.0 * static_cast<double>(bytes) / static_cast<double>(count));
  EXPECT_LE(bytes, budget);
  EXPECT_LE(choice.loss_bound, loss);
}

// Random losses, with candidates that are dominated, off the hull and of equal size.
TEST(MixedPrecision, AgainstEveryChoice) {
  std::mt19937 random(11);
  int exact = 0;
  constexpr int kCases = 400;
  for (int i = 0; i < kCases; ++i) {
    std::vector<WeightCandidates> weights;
    int64_t least = 0, most = 0, count = 0;
    const size_t many = 1 + random() % 7;
    for (size_t w = 0; w < many; ++w) {
      std::vector<std::pair<int64_t, double>> options;
      const size_t formats = 1 + random() % 4;
      for (size_t c = 0; c < formats; ++c) {
        options.emplace_back(1 + random() % 40, static_cast<double>(random() % 1000) / 8);
      }
      weights.push_back(weight(16 + static_cast<int64_t>(random() % 64), options));
      const auto sizes = std::minmax_element(options.begin(), options.end());
      least += sizes.first->first;
      most += sizes.second->first;
      count += weights.back().weights;
    }
    const int64_t budget =
        least + static_cast<int64_t>(random() % static_cast<uint32_t>(most - least + 3));
    // A quarter of a byte more than the budget, which takes the rounding and buys nothing.
    const double bits = (static_cast<double>(budget) + 0.25) * 8 / static_cast<double>(count);
    const FormatChoice choice = choose_mixed(weights, bits);
    expect_sound(weights, choice, budget);
    const double best = best_loss(weights, budget);
    EXPECT_LE(choice.loss_bound, best + 1e-9);
    EXPECT_GE(choice.loss, best - 1e-9);
    if (choice.loss <= best + 1e-9) ++exact;
  }
  EXPECT_GE(exact, kCases * 95 / 100);
}

// Losses along a convex curve, as bits have them: a model's worth of weights is as good as optimal.
TEST(MixedPrecision, AModelIsNearTheBound) {
  std::mt19937 random(3);
  std::vector<WeightCandidates> weights;
  for (int i = 0; i < 129; ++i) {
    const auto n = static_cast<int64_t>(16 * (16 + random() % 64));
    const auto k = static_cast<int64_t>(128 * (2 + random() % 8));
    WeightCandidates all{"w", n * k, {}};
    const double sensitivity = std::exp2(static_cast<double>(random() % 100) / 10);
    for (const auto& [type, group, loss] : {std::tuple{WeightType::u4, 128, 1.0},
                                            {WeightType::u4, 32, 0.7},
                                            {WeightType::u4, 16, 0.6},
                                            {WeightType::u8, 32, 0.003}}) {
      const WeightFormat format{type, group, false, ScaleType::f16};
      all.candidates.push_back({format, loss * sensitivity, stored_bytes(format, n, k)});
    }
    weights.push_back(all);
  }
  double last = std::numeric_limits<double>::infinity();
  for (const double bits : {4.2, 4.5, 5.0, 6.0, 8.5}) {
    const FormatChoice choice = choose_mixed(weights, bits);
    EXPECT_LE(choice.bits, bits);
    EXPECT_LE(choice.loss - choice.loss_bound, 5e-3 * choice.loss) << bits;
    EXPECT_LT(choice.loss, last);
    last = choice.loss;
  }
  // Everything at 8 bits, and everything at the smallest.
  const FormatChoice all = choose_mixed(weights, 8.5), least = choose_mixed(weights, 4.125);
  EXPECT_EQ(all.picks, std::vector<size_t>(weights.size(), 3));
  EXPECT_EQ(least.picks, std::vector<size_t>(weights.size(), 0));
}

TEST(MixedPrecision, BytesCountScalesAndZeroPoints) {
  EXPECT_EQ(stored_bytes({WeightType::u4, 32, false, ScaleType::f16}, 16, 64),
            16 * 32 + 16 * 2 * 2);
  EXPECT_EQ(stored_bytes({WeightType::u4, 32, true, ScaleType::f16}, 16, 64),
            16 * 32 + 16 * 2 * 2 + 16 * 2);
  EXPECT_EQ(stored_bytes({WeightType::u8, 0, false, ScaleType::f32}, 16, 64), 16 * 64 + 16 * 4);
  EXPECT_EQ(stored_bytes({WeightType::f32, 0, false, ScaleType::f32}, 16, 64), 16 * 64 * 4);
}

// Of equal worth: the first weight, and the first candidate, every time.
TEST(MixedPrecision, TiesGoToTheFirst) {
  const std::vector<WeightCandidates> weights(3, weight(8, {{4, 2.0}, {8, 1.0}, {8, 1.0}}));
  const FormatChoice choice = choose_mixed(weights, 8.0 * 16.25 / 24);
  EXPECT_EQ(choice.picks, (std::vector<size_t>{1, 0, 0}));
}

// The step that is worth the most a byte is not part of the best choice.
TEST(MixedPrecision, ExchangesWhatGreedTook) {
  const std::vector<WeightCandidates> weights{weight(8, {{1, 10.0}, {3, 7.0}}),
                                              weight(8, {{1, 10.0}, {5, 5.0}})};
  const FormatChoice choice = choose_mixed(weights, 8.0 * 6 / 16);
  EXPECT_EQ(choice.picks, (std::vector<size_t>{0, 1}));
  EXPECT_EQ(choice.loss, 15.0);
  EXPECT_DOUBLE_EQ(choice.loss_bound, 17.0 - 2 * 5.0 / 4);
}

std::string failure(const std::vector<WeightCandidates>& weights, double bits) {
  try {
    choose_mixed(weights, bits);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(MixedPrecision, RefusesWhatCannotBe) {
  const std::vector<WeightCandidates> weights{weight(16, {{9, 1.0}, {16, 0.0}})};
  EXPECT_EQ(failure(weights, 4.4),
            "The smallest formats together take 4.5000 bits a weight with their scales, but the "
            "budget is 4.4 bits.");
  EXPECT_EQ(failure(weights, 4.5), "");
  EXPECT_NE(failure(weights, 0), "");
  EXPECT_NE(failure(weights, std::numeric_limits<double>::quiet_NaN()), "");
  EXPECT_NE(failure({weight(16, {})}, 4.5).find("'w'"), std::string::npos);
  EXPECT_NE(failure({weight(0, {{9, 1.0}})}, 4.5).find("'w'"), std::string::npos);
  EXPECT_NE(failure({weight(16, {{9, std::nan("")}})}, 4.5).find("'w'"), std::string::npos);
}

}  // namespace
}  // namespace nibble::quant
