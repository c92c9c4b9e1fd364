#include "quant/solvers/awq.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>

#include "jit/error.h"
#include "quant/solvers/awq_clip.h"
#include "quant/solvers/gptq.h"
#include "quant/solvers/sign_round_gram.h"
#include "tests/quant/solver_inputs.h"

namespace nibble::quant {
namespace {

using jit::ScaleType;
using jit::WeightFormat;
using jit::WeightType;

WeightFormat u4(int64_t group, bool asym = false) {
  return {WeightType::u4, group, asym, ScaleType::f16};
}

struct Layer {
  int64_t n, k;
  std::vector<float> w;
  InputStats stats;
};

Layer outlier_layer(int64_t n, int64_t k, uint32_t seed) {
  return {
      n, k, normal_numbers(n * k, seed, 0.02F),
      make_stats(
          make_inputs({.k = k, .rows = 2 * k, .factors = k / 8, .outliers = k / 64}, seed + 1), k)};
}

struct Scaled {
  std::vector<float> w;
  InputStats stats;
};

Scaled apply(const Layer& layer, const std::vector<float>& scales, runtime::ThreadPool& pool) {
  Scaled scaled{layer.w, layer.stats};
  scale_channels(scaled.w, layer.n, scales, pool);
  scale_inputs(scaled.stats, scales, pool);
  return scaled;
}

TEST(AwqTest, TheLossIsTheOutputErrorOfTheScaledLayer) {
  runtime::ThreadPool pool(1);
  const Layer layer = outlier_layer(40, 256, 1);
  const WeightFormat format = u4(32);
  const AwqSharer sharer{layer.w, layer.n, format};
  const AwqScales found = search_awq_scales({&sharer, 1}, layer.stats, {}, {}, pool);
  ASSERT_FALSE(found.identity);
  EXPECT_LT(found.loss, 0.5 * found.identity_loss);
  const Scaled scaled = apply(layer, found.scales, pool);
  const SolvedMatrix solved = solve_rtn(scaled.w, layer.n, layer.k, format, {}, nullptr, pool);
  const std::vector<float> rounded = dequantize(solved, pool);
  const double sum = output_error(scaled.w, rounded, layer.n, layer.k, scaled.stats.gram, pool).sum;
  EXPECT_NEAR(found.loss, sum, 1e-3 * sum);
  const std::vector<float> plain =
      dequantize(solve_rtn(layer.w, layer.n, layer.k, format, {}, nullptr, pool), pool);
  const double before = output_error(layer.w, plain, layer.n, layer.k, layer.stats.gram, pool).sum;
  EXPECT_NEAR(found.identity_loss, before, 1e-5 * before);
}

// Many rows are looked at in two heats: what wins has its loss in all of them, the least of all
// exponents, which one heat of the same rows finds.
TEST(AwqTest, HeatsFindWhatAllRowsFind) {
  runtime::ThreadPool alone(1), team(3);
  const Layer layer = outlier_layer(511, 192, 31);
  const WeightFormat format = u4(64);
  // Each row four times, so that the first heat, every fourth, sees all of them.
  std::vector<float> four;
  for (int64_t row = 0; row < layer.n; ++row) {
    for (int i = 0; i < 4; ++i) {
      four.insert(four.end(), layer.w.begin() + row * layer.k,
                  layer.w.begin() + (row + 1) * layer.k);
    }
  }
  const AwqSharer few{layer.w, layer.n, format}, many{four, 4 * layer.n, format};
  const AwqScales one = search_awq_scales({&few, 1}, layer.stats, {}, {.rows = 0}, team);
  std::vector<double> shares;
  const AwqOptions options{.rows = 0, .told = [&](double share) { shares.push_back(share); }};
  const AwqScales heats = search_awq_scales({&many, 1}, layer.stats, {}, options, team);
  ASSERT_FALSE(one.identity);
  EXPECT_EQ(heats.exponent, one.exponent);
  EXPECT_EQ(heats.inputs_alone, one.inputs_alone);
  ASSERT_EQ(heats.scales.size(), one.scales.size());
  for (size_t i = 0; i < one.scales.size(); ++i) {  // means of more rows are rounded otherwise
    EXPECT_NEAR(heats.scales[i], one.scales[i], 1e-6 * one.scales[i]) << i;
  }
  EXPECT_NEAR(heats.loss, 4 * one.loss, 1e-6 * heats.loss);
  EXPECT_NEAR(heats.identity_loss, 4 * one.identity_loss, 1e-6 * heats.identity_loss);
  EXPECT_TRUE(std::is_sorted(shares.begin(), shares.end()));
  EXPECT_GT(shares.size(), 5U);
  const AwqScales again = search_awq_scales({&many, 1}, layer.stats, {}, {.rows = 0}, alone);
  EXPECT_EQ(again.scales, heats.scales);
  EXPECT_EQ(again.loss, heats.loss);
}

TEST(AwqTest, ScalingLeavesTheOutputsAsTheyAre) {
  runtime::ThreadPool pool(1);
  const int64_t n = 8, k = 64, rows = 50;
  std::vector<float> x = make_inputs({.k = k, .rows = rows, .outliers = 2}, 2),
                     w = normal_numbers(n * k, 3);
  std::vector<float> scales = normal_numbers(k, 4);
  for (float& s : scales) s = std::exp(s);
  Scaled scaled{w, make_stats(x, k)};
  scale_channels(scaled.w, n, scales, pool);
  scale_inputs(scaled.stats, scales, pool);
  for (int64_t i = 0; i < rows * k; ++i) {
    x[static_cast<size_t>(i)] /= scales[static_cast<size_t>(i % k)];
  }
  const InputStats want = make_stats(x, k);
  for (int64_t i = 0; i < k; ++i) {
    EXPECT_NEAR(
        scaled.stats.mean_abs[static_cast<size_t>(i)] / want.mean_abs[static_cast<size_t>(i)], 1.0,
        1e-5);
    for (int64_t j = 0; j < k; ++j) {
      const auto at = static_cast<size_t>(i * k + j);
      const double size = std::sqrt(want.gram[static_cast<size_t>(i * (k + 1))] *
                                    want.gram[static_cast<size_t>(j * (k + 1))]);
      ASSERT_NEAR(scaled.stats.gram[at], want.gram[at], 1e-5 * size);
      ASSERT_EQ(scaled.stats.gram[at], scaled.stats.gram[static_cast<size_t>(j * k + i)]);
    }
  }
  for (int64_t i = 0; i < n * k; ++i) {
    ASSERT_EQ(scaled.w[static_cast<size_t>(i)],
              w[static_cast<size_t>(i)] * scales[static_cast<size_t>(i % k)]);
  }
}

// By hand for one exponent: two sharers with groups of their own.
TEST(AwqTest, FollowsTheFormulaOverAllSharers) {
  runtime::ThreadPool pool(1);
  const int64_t k = 48, n0 = 70, n1 = 5;
  const InputStats stats =
      make_stats(make_inputs({.k = k, .rows = 100, .factors = 0, .outliers = 4}, 5), k);
  const std::vector<float> w0 = normal_numbers(n0 * k, 6), w1 = normal_numbers(n1 * k, 7, 3.0F);
  const AwqSharer sharers[] = {{w0, n0, u4(16)}, {w1, n1, u4(0, true)}};
  const AwqOptions options{.steps = 5, .inputs_alone = false, .rows = 0};
  const AwqScales found = search_awq_scales(sharers, stats, {}, options, pool);
  ASSERT_FALSE(found.identity);
  ASSERT_FALSE(found.inputs_alone);
  ASSERT_GT(found.exponent, 0);
  std::vector<double> want;
  for (int64_t i = 0; i < k; ++i) {
    double sum = 0;
    const auto add = [&](const std::vector<float>& w, int64_t n, int64_t group) {
      for (int64_t row = 0; row < n; ++row) {
        float largest = 0;
        for (int64_t j = i / group * group; j < std::min(k, (i / group + 1) * group); ++j) {
          largest = std::max(largest, std::fabs(w[static_cast<size_t>(row * k + j)]));
        }
        sum += std::fabs(w[static_cast<size_t>(row * k + i)]) / largest;
      }
    };
    add(w0, n0, 16);
    add(w1, n1, k);
    const double mean = sum / (n0 + n1), x = stats.mean_abs[static_cast<size_t>(i)];
    want.push_back(std::pow(x, found.exponent) / (std::pow(mean, 1 - found.exponent) + 1e-4));
  }
  const double middle = std::sqrt(*std::max_element(want.begin(), want.end()) *
                                  *std::min_element(want.begin(), want.end()));
  for (int64_t i = 0; i < k; ++i) {
    const double s = want[static_cast<size_t>(i)] / middle;
    EXPECT_NEAR(found.scales[static_cast<size_t>(i)], s, 1e-4 * s);
  }
}

TEST(AwqTest, TiedChannelsHaveOneFactorAndDeadOnesOne) {
  runtime::ThreadPool pool(1);
  const int64_t n = 32, k = 64, rows = 100;
  std::vector<float> x = make_inputs({.k = k, .rows = rows, .factors = 0, .outliers = 4}, 8);
  for (int64_t r = 0; r < rows; ++r) x[static_cast<size_t>(r * k + 5)] = 0;
  const InputStats stats = make_stats(x, k);
  const std::vector<float> w = normal_numbers(n * k, 9);
  const AwqSharer sharer{w, n, u4(32)};
  // As under grouped-query attention: two heads of 16 read each head of 16 values.
  std::vector<int64_t> tied;
  for (int64_t i = 0; i < k; ++i) tied.push_back(i / 32 * 16 + i % 16);
  const AwqScales one = search_awq_scales({&sharer, 1}, stats, tied, {}, pool);
  const AwqScales free = search_awq_scales({&sharer, 1}, stats, {}, {}, pool);
  ASSERT_FALSE(one.identity);
  bool differ = false;
  for (int64_t i = 0; i < k; ++i) {
    for (int64_t j = 0; j < k; ++j) {
      const auto a = static_cast<size_t>(i), b = static_cast<size_t>(j);
      if (tied[a] == tied[b]) {
        ASSERT_EQ(one.scales[a], one.scales[b]);
      }
      differ = differ || (tied[a] == tied[b] && free.scales[a] != free.scales[b]);
    }
  }
  EXPECT_TRUE(differ);
  EXPECT_LE(free.loss, one.loss);
  EXPECT_LT(one.loss, one.identity_loss);
  EXPECT_EQ(free.scales[5], 1.0F);
}

TEST(AwqTest, KeepsTheIdentityWhereNothingIsToBeWon) {
  runtime::ThreadPool pool(1);
  const int64_t n = 16, k = 32;
  // Weights that lie on a grid of their own: rounding loses nothing until they are scaled.
  std::vector<float> w;
  for (int64_t i = 0; i < n * k; ++i) w.push_back(0.5F * static_cast<float>(i * 7 % 16 - 8));
  const InputStats stats =
      make_stats(make_inputs({.k = k, .rows = 60, .factors = 0, .outliers = 2}, 10), k);
  const AwqSharer sharer{w, n, u4(32)};
  const AwqScales found = search_awq_scales({&sharer, 1}, stats, {}, {}, pool);
  EXPECT_TRUE(found.identity);
  EXPECT_EQ(found.scales, std::vector<float>(static_cast<size_t>(k), 1.0F));
  EXPECT_EQ(found.loss, 0);
}

TEST(AwqTest, SamplesRowsAndDoesNotDependOnTheThreads) {
  runtime::ThreadPool alone(1), team(2);
  const Layer layer = outlier_layer(600, 128, 11);
  const AwqSharer sharers[] = {
      {std::span(layer.w).first(static_cast<size_t>(400 * layer.k)), 400, u4(32)},
      {std::span(layer.w).subspan(static_cast<size_t>(400 * layer.k)), 200, u4(32)}};
  const AwqScales all = search_awq_scales(sharers, layer.stats, {}, {.rows = 0}, team);
  const AwqScales one = search_awq_scales(sharers, layer.stats, {}, {.rows = 100}, alone);
  const AwqScales three = search_awq_scales(sharers, layer.stats, {}, {.rows = 100}, team);
  EXPECT_EQ(one.scales, three.scales);
  EXPECT_EQ(one.loss, three.loss);
  EXPECT_NEAR(6 * one.loss, all.loss, 0.1 * all.loss);
}

TEST(AwqTest, RefusesWhatDoesNotFit) {
  runtime::ThreadPool pool(1);
  Layer layer = outlier_layer(4, 64, 12);
  const auto search = [&](const WeightFormat& format, const std::vector<int64_t>& tied) {
    const AwqSharer sharer{layer.w, layer.n, format};
    return search_awq_scales({&sharer, 1}, layer.stats, tied, {}, pool);
  };
  EXPECT_NO_THROW(search(u4(32), {}));
  EXPECT_THROW(search({.type = WeightType::f32}, {}), Error);
  EXPECT_THROW(search(u4(32), std::vector<int64_t>(63)), Error);
  EXPECT_THROW(search(u4(32), std::vector<int64_t>(64, 64)), Error);
  EXPECT_THROW(search_awq_scales({}, layer.stats, {}, {}, pool), Error);
  layer.w[7] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW(search(u4(32), {}), Error);
  EXPECT_THROW(search_clips(layer.w, 4, 64, u4(32), RtnRange::full, layer.stats, pool), Error);
}

TEST(AwqClipTest, FindsTheShareOfLeastErrorOfEveryGroup) {
  runtime::ThreadPool alone(1), team(2);
  const int64_t n = 135, k = 72;  // more rows than at a time, and a short last group
  const InputStats stats = make_stats(make_inputs({.k = k, .rows = 150, .outliers = 3}, 13), k);
  const std::vector<float> w = normal_numbers(n * k, 14, 0.05F);
  for (const bool asym : {false, true}) {
    const WeightFormat format = u4(32, asym);
    const GroupShape shape = group_shape(format, n, k);
    const std::vector<float> shares = search_clips(w, n, k, format, RtnRange::full, stats, team);
    EXPECT_EQ(shares, search_clips(w, n, k, format, RtnRange::full, stats, alone));
    int64_t clipped = 0;
    for (int64_t row = 0; row < n; row += 27) {
      for (int64_t g = 0; g < shape.groups; ++g) {
        const int64_t begin = shape.begin(g), length = shape.end(g) - begin;
        const std::span<const float> part =
            std::span(w).subspan(static_cast<size_t>(row * k + begin), static_cast<size_t>(length));
        const Extremes extremes = find_extremes(part);
        double best = std::numeric_limits<double>::infinity(), found = best;
        for (int step = 0; step < 10; ++step) {
          const float share = 1.0F - 0.05F * static_cast<float>(step);
          std::vector<float> cut(part.begin(), part.end());
          for (float& x : cut) x = std::clamp(x, extremes.low * share, extremes.high * share);
          std::vector<uint8_t> q(cut.size());
          const GroupResult grid = rtn_group(cut, format, RtnRange::full, q);
          double loss = 0;
          const auto error = [&](int64_t i) {
            const auto at = static_cast<size_t>(i);
            return static_cast<double>(q[at] - grid.zero) * grid.scale - part[at];
          };
          for (int64_t i = 0; i < length; ++i) {
            for (int64_t j = 0; j < length; ++j) {
              loss += error(i) * error(j) *
                      stats.gram[static_cast<size_t>((begin + i) * k + begin + j)];
            }
          }
          best = std::min(best, loss);
          if (share == shares[static_cast<size_t>(row * shape.groups + g)]) found = loss;
        }
        EXPECT_NEAR(found, best, 1e-4 * best);
        clipped += shares[static_cast<size_t>(row * shape.groups + g)] < 1 ? 1 : 0;
      }
    }
    EXPECT_GT(clipped, 3);
  }
}

TEST(AwqClipTest, ClippedWeightsAreRoundedOnTheShrunkRangeWithLessError) {
  runtime::ThreadPool pool(1);
  const Layer layer = outlier_layer(64, 256, 15);
  const WeightFormat format = u4(128);
  const std::vector<float> shares =
      search_clips(layer.w, layer.n, layer.k, format, RtnRange::full, layer.stats, pool);
  std::vector<float> clipped = layer.w;
  clip_weights(clipped, layer.n, layer.k, format, shares, pool);
  const SolvedMatrix plain = solve_rtn(layer.w, layer.n, layer.k, format, {}, nullptr, pool);
  const SolvedMatrix solved = solve_rtn(clipped, layer.n, layer.k, format, {}, nullptr, pool);
  for (size_t i = 0; i < shares.size(); ++i) {
    EXPECT_NEAR(solved.scales[i], plain.scales[i] * shares[i], 2e-3 * std::fabs(plain.scales[i]));
  }
  EXPECT_LT(relative_error(layer.w, solved, layer.stats),
            0.95 * relative_error(layer.w, plain, layer.stats));
}

// Channels of 20 times the size: what RTN does worst, and what the solvers are for.
TEST(HeavyTailedLayerTest, EverySolverHalvesTheErrorOfRoundingToNearest) {
  runtime::ThreadPool pool(1);
  for (const int64_t group : {int64_t{32}, int64_t{128}}) {
    const Layer layer = outlier_layer(96, 512, 16);
    const WeightFormat format = u4(group);
    const auto rounded = [&](const Scaled& scaled) {
      return relative_error(
          scaled.w, solve_rtn(scaled.w, layer.n, layer.k, format, {}, nullptr, pool), scaled.stats);
    };
    const Scaled plain{layer.w, layer.stats};
    const double rtn = rounded(plain);
    const AwqSharer sharer{layer.w, layer.n, format};
    const AwqScales scales = search_awq_scales({&sharer, 1}, layer.stats, {}, {}, pool);
    const Scaled scaled = apply(layer, scales.scales, pool);
    const double awq = rounded(scaled);
    Scaled clipped = scaled;
    clip_weights(
        clipped.w, layer.n, layer.k, format,
        search_clips(scaled.w, layer.n, layer.k, format, RtnRange::full, scaled.stats, pool), pool);
    const double awq_clip = relative_error(
        scaled.w, solve_rtn(clipped.w, layer.n, layer.k, format, {}, nullptr, pool), scaled.stats);
    const auto gptq_error = [&](const Scaled& on) {
      const GptqOptions options{.order = ChannelOrder::hybrid};
      return relative_error(
          on.w, solve_gptq(on.w, layer.n, layer.k, format, options, on.stats, pool).matrix,
          on.stats);
    };
    const auto sign_round_error = [&](const Scaled& on) {
      return relative_error(
          on.w, solve_sign_round(on.w, layer.n, layer.k, format, {}, on.stats, {}, pool).matrix,
          on.stats);
    };
    const double gptq = gptq_error(plain), awq_gptq = gptq_error(scaled);
    const double sign_round = sign_round_error(plain), awq_sign_round = sign_round_error(scaled);
    RecordProperty("g" + std::to_string(group),
                   fmt::format("rtn {:.3g}, as a share of it: awq {:.3f}, awq and clip {:.3f}, "
                               "gptq {:.3f}, awq and gptq {:.3f}, sign_round {:.3f}, awq and "
                               "sign_round {:.3f}",
                               rtn, awq / rtn, awq_clip / rtn, gptq / rtn, awq_gptq / rtn,
                               sign_round / rtn, awq_sign_round / rtn));
    EXPECT_LT(awq, 0.5 * rtn);
    EXPECT_LT(awq_clip, awq);
    EXPECT_LT(gptq, 0.5 * rtn);
    EXPECT_LT(sign_round, 0.5 * rtn);
    EXPECT_LT(awq_gptq, awq);
    EXPECT_LT(awq_sign_round, awq);
  }
}

}  // namespace
}  // namespace nibble::quant
