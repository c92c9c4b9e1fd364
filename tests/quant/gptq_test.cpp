#include "quant/solvers/gptq.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "jit/error.h"
#include "quant/formats/group_grid.h"
#include "tests/quant/solver_inputs.h"

namespace nibble::quant {
namespace {

using jit::ScaleType;
using jit::WeightFormat;
using jit::WeightType;

// Solves a x = b by elimination with pivoting, in double.
std::vector<double> solve(std::vector<std::vector<double>> a, std::vector<double> b) {
  const size_t k = b.size();
  for (size_t c = 0; c < k; ++c) {
    size_t pivot = c;
    for (size_t r = c; r < k; ++r) {
      if (std::fabs(a[r][c]) > std::fabs(a[pivot][c])) pivot = r;
    }
    std::swap(a[c], a[pivot]);
    std::swap(b[c], b[pivot]);
    for (size_t r = c + 1; r < k; ++r) {
      const double factor = a[r][c] / a[c][c];
      for (size_t j = c; j < k; ++j) a[r][j] -= factor * a[c][j];
      b[r] -= factor * b[c];
    }
  }
  for (size_t c = k; c-- > 0;) {
    for (size_t j = c + 1; j < k; ++j) b[c] -= a[c][j] * b[j];
    b[c] /= a[c][c];
  }
  return b;
}

// Greedy rounding from its definition: after each channel the weights left are the conditional
// minimum of (w' - w) H (w' - w)^T, solved afresh from the original weights. O(k^4) a row.
SolvedMatrix naive_gptq(const std::vector<float>& w, int64_t n, int64_t k,
                        const WeightFormat& format, const GptqOptions& options,
                        const InputStats& stats) {
  const GroupShape shape = group_shape(format, n, k);
  const std::vector<int64_t> order = order_channels(stats, shape, options.order);
  double mean = 0;
  const auto at = [&](int64_t r, int64_t c) {
    return static_cast<double>(stats.gram[static_cast<size_t>(r * k + c)]);
  };
  for (int64_t i = 0; i < k; ++i) mean += at(i, i) / static_cast<double>(k);
  const auto h = [&](int64_t p, int64_t q) {
    const int64_t r = order[static_cast<size_t>(p)], c = order[static_cast<size_t>(q)];
    return at(r, c) + (p == q ? options.damping * mean : 0.0);
  };
  SolvedMatrix solved = make_solved(format, n, k);
  for (int64_t row = 0; row < n; ++row) {
    std::vector<double> original, now;
    for (const int64_t channel : order) {
      original.push_back(w[static_cast<size_t>(row * k + channel)]);
    }
    now = original;
    std::vector<bool> known(static_cast<size_t>(shape.groups));
    for (int64_t p = 0; p < k; ++p) {
      const int64_t channel = order[static_cast<size_t>(p)], g = channel / shape.group;
      const auto entry = static_cast<size_t>(row * shape.groups + g);
      if (!known[static_cast<size_t>(g)]) {
        known[static_cast<size_t>(g)] = true;
        std::vector<float> group;
        for (int64_t i = shape.begin(g); i < shape.end(g); ++i) {
          const auto position = std::find(order.begin(), order.end(), i) - order.begin();
          group.push_back(static_cast<float>(options.static_groups
                                                 ? w[static_cast<size_t>(row * k + i)]
                                                 : now[static_cast<size_t>(position)]));
        }
        const GroupResult grid = choose_range(group, format, options.range, {});
        solved.scales[entry] = grid.scale;
        solved.zeros[entry] = grid.zero;
      }
      const double scale = solved.scales[entry];
      const GridLimits limits = grid_limits(format, solved.zeros[entry]);
      const double q =
          std::clamp(std::nearbyint(now[static_cast<size_t>(p)] / scale),
                     static_cast<double>(limits.low), static_cast<double>(limits.high));
      solved.q[static_cast<size_t>(row * k + channel)] =
          static_cast<uint8_t>(q + solved.zeros[entry]);
      now[static_cast<size_t>(p)] = q * scale;
      const int64_t rest = k - p - 1;
      if (rest == 0) break;
      std::vector<std::vector<double>> a(static_cast<size_t>(rest));
      std::vector<double> b(static_cast<size_t>(rest));
      for (int64_t r = 0; r < rest; ++r) {
        for (int64_t c = 0; c < rest; ++c)
          a[static_cast<size_t>(r)].push_back(h(p + 1 + r, p + 1 + c));
        for (int64_t f = 0; f <= p; ++f) {
          b[static_cast<size_t>(r)] -=
              h(p + 1 + r, f) * (now[static_cast<size_t>(f)] - original[static_cast<size_t>(f)]);
        }
      }
      const std::vector<double> change = solve(a, b);
      for (int64_t r = 0; r < rest; ++r) {
        now[static_cast<size_t>(p + 1 + r)] =
            original[static_cast<size_t>(p + 1 + r)] + change[static_cast<size_t>(r)];
      }
    }
  }
  return solved;
}

InputStats correlated(int64_t k, uint32_t seed, int64_t outliers = 0) {
  return make_stats(
      make_inputs({.k = k, .rows = 3 * k, .factors = k / 4 + 1, .outliers = outliers}, seed), k);
}

double rtn_error(const std::vector<float>& w, int64_t n, int64_t k, const WeightFormat& format,
                 const InputStats& stats) {
  runtime::ThreadPool pool(1);
  return relative_error(w, solve_rtn(w, n, k, format, {}, nullptr, pool), stats);
}

TEST(GptqTest, EqualsGreedyRoundingFromItsDefinition) {
  runtime::ThreadPool pool(1);
  const int64_t n = 6;
  for (const int64_t k : {int64_t{16}, int64_t{27}}) {
    const InputStats stats = correlated(k, 1, 2);
    const std::vector<float> w = normal_numbers(n * k, 2, 0.05F);
    for (const int64_t group : {int64_t{0}, int64_t{8}, int64_t{16}}) {
      for (const bool asym : {false, true}) {
        for (const ChannelOrder order :
             {ChannelOrder::natural, ChannelOrder::hybrid, ChannelOrder::full}) {
          for (const bool static_groups : {false, true}) {
            if (order == ChannelOrder::full && !static_groups) continue;
            const WeightFormat format{WeightType::u4, group, asym, ScaleType::f16};
            const GptqOptions options{.order = order, .static_groups = static_groups};
            const SolvedMatrix got = solve_gptq(w, n, k, format, options, stats, pool).matrix;
            const SolvedMatrix want = naive_gptq(w, n, k, format, options, stats);
            ASSERT_EQ(got.q, want.q)
                << "k " << k << " group " << group << " asym " << asym << " order "
                << static_cast<int>(order) << " static " << static_groups;
            ASSERT_EQ(got.zeros, want.zeros);
            for (size_t i = 0; i < got.scales.size(); ++i) {
              ASSERT_NEAR(got.scales[i], want.scales[i], 1e-3 * std::fabs(want.scales[i]));
            }
          }
        }
      }
    }
  }
}

// Batches of 128 against groups that fill them, straddle them and go beyond them: the same rule in
// batches of one, written plainly.
SolvedMatrix unbatched_gptq(const std::vector<float>& w, int64_t n, int64_t k,
                            const WeightFormat& format, const InputStats& stats,
                            ChannelOrder order) {
  runtime::ThreadPool pool(1);
  const GroupShape shape = group_shape(format, n, k);
  const GptqFactor factor = factor_inputs(stats, shape, order, 0.01, pool);
  SolvedMatrix solved = make_solved(format, n, k);
  for (int64_t row = 0; row < n; ++row) {
    std::vector<double> now;
    for (const int64_t channel : factor.order)
      now.push_back(w[static_cast<size_t>(row * k + channel)]);
    int64_t last = -1;
    for (int64_t p = 0; p < k; ++p) {
      const int64_t channel = factor.order[static_cast<size_t>(p)], g = channel / shape.group;
      const auto entry = static_cast<size_t>(row * shape.groups + g);
      if (g != last) {
        const int64_t length = shape.end(g) - shape.begin(g);
        const std::vector<float> group(now.begin() + p, now.begin() + p + length);
        solved.scales[entry] = choose_range(group, format, {}, {}).scale;
        solved.zeros[entry] = 8;
        last = g;
      }
      const double scale = solved.scales[entry], value = now[static_cast<size_t>(p)];
      const double q = std::clamp(std::nearbyint(value / scale), -8.0, 7.0);
      solved.q[static_cast<size_t>(row * k + channel)] = static_cast<uint8_t>(q + 8);
      const float* u = factor.u.data() + p * k;
      for (int64_t j = p + 1; j < k; ++j) {
        now[static_cast<size_t>(j)] -= (value - q * scale) / u[p] * u[j];
      }
    }
  }
  return solved;
}

TEST(GptqTest, BatchesChangeNothingWhateverTheGroup) {
  runtime::ThreadPool pool(3);
  const int64_t n = 5, k = 418;
  const InputStats stats = correlated(k, 3, 5);
  const std::vector<float> w = normal_numbers(n * k, 4, 0.05F);
  for (const int64_t group : {0, 16, 48, 96, 128, 136, 192, 256}) {
    for (const ChannelOrder order : {ChannelOrder::natural, ChannelOrder::hybrid}) {
      const WeightFormat format{WeightType::u4, group, false, ScaleType::f32};
      const SolvedMatrix got = solve_gptq(w, n, k, format, {.order = order}, stats, pool).matrix;
      const SolvedMatrix want = unbatched_gptq(w, n, k, format, stats, order);
      // A weight in the middle of two values may fall either way, and changes those after it.
      int64_t different = 0;
      for (size_t i = 0; i < got.q.size(); ++i) different += got.q[i] != want.q[i] ? 1 : 0;
      EXPECT_LE(different, n * k / 50) << "group " << group;
      EXPECT_NEAR(relative_error(w, got, stats) / relative_error(w, want, stats), 1.0, 0.02);
    }
  }
}

TEST(GptqTest, IsBelowRoundingToNearestInEveryForm) {
  runtime::ThreadPool pool(1);
  const int64_t n = 64, k = 200;
  const InputStats stats = correlated(k, 5, 4);
  const std::vector<float> w = normal_numbers(n * k, 6, 0.05F);
  for (const WeightType type : {WeightType::u4, WeightType::u8}) {
    for (const int64_t group : {int64_t{0}, int64_t{32}, int64_t{128}}) {
      for (const bool asym : {false, true}) {
        const WeightFormat format{type, group, asym, ScaleType::f16};
        const double rtn = rtn_error(w, n, k, format, stats);
        for (const ChannelOrder order : {ChannelOrder::natural, ChannelOrder::hybrid}) {
          for (const bool static_groups : {false, true}) {
            for (const RangeMethod method : {RangeMethod::full, RangeMethod::search}) {
              const GptqOptions options{
                  .order = order, .static_groups = static_groups, .range = {.method = method}};
              const GptqResult result = solve_gptq(w, n, k, format, options, stats, pool);
              EXPECT_LT(relative_error(w, result.matrix, stats), 0.75 * rtn);
              EXPECT_NO_THROW((void)pack(result.matrix, pool));
            }
          }
        }
      }
    }
  }
}

TEST(GptqTest, OrderAndSearchLowerTheErrorOnAverage) {
  runtime::ThreadPool pool(1);
  const int64_t n = 32, k = 256;
  const WeightFormat format{WeightType::u4, 32, false, ScaleType::f16};
  double natural = 0, hybrid = 0, searched = 0;
  for (uint32_t seed = 0; seed < 6; ++seed) {
    const InputStats stats = correlated(k, 20 + seed, 8);
    const std::vector<float> w = normal_numbers(n * k, 40 + seed, 0.05F);
    const auto error = [&](const GptqOptions& options) {
      return relative_error(w, solve_gptq(w, n, k, format, options, stats, pool).matrix, stats);
    };
    natural += error({});
    hybrid += error({.order = ChannelOrder::hybrid});
    searched += error({.order = ChannelOrder::hybrid, .range = {.method = RangeMethod::search}});
  }
  EXPECT_LT(hybrid, 0.9 * natural);
  EXPECT_LT(searched, 0.97 * hybrid);
}

TEST(GptqTest, DoesNotDependOnTheThreads) {
  runtime::ThreadPool alone(1), team(3);
  const int64_t n = 37, k = 300;
  const InputStats stats = correlated(k, 7, 3);
  const std::vector<float> w = normal_numbers(n * k, 8, 0.05F);
  const WeightFormat format{WeightType::u4, 32, true, ScaleType::f16};
  const GptqOptions options{.order = ChannelOrder::hybrid,
                            .range = {.method = RangeMethod::search}};
  EXPECT_TRUE(same_solution(solve_gptq(w, n, k, format, options, stats, alone).matrix,
                            solve_gptq(w, n, k, format, options, stats, team).matrix));
}

TEST(GptqTest, DropsTheWeightsOfDeadChannelsOrRoundsThem) {
  runtime::ThreadPool pool(1);
  const int64_t n = 8, k = 64;
  std::vector<float> x = make_inputs({.k = k, .rows = 200}, 9);
  for (int64_t r = 0; r < 200; ++r) {
    for (const int64_t dead : {3, 40}) x[static_cast<size_t>(r * k + dead)] = 0;
  }
  const InputStats stats = make_stats(x, k);
  std::vector<float> w = normal_numbers(n * k, 10, 0.05F);
  for (int64_t row = 0; row < n; ++row) w[static_cast<size_t>(row * k + 40)] = 1.0F;
  for (const bool static_groups : {false, true}) {
    for (const bool zero_dead : {true, false}) {
      const GptqOptions options{.static_groups = static_groups, .zero_dead = zero_dead};
      const GptqResult result = solve_gptq(w, n, k, {.group = 32}, options, stats, pool);
      EXPECT_EQ(result.dead, 2);
      const std::vector<float> rounded = dequantize(result.matrix, pool);
      for (int64_t row = 0; row < n; ++row) {
        EXPECT_EQ(rounded[static_cast<size_t>(row * k + 3)] == 0.0F &&
                      rounded[static_cast<size_t>(row * k + 40)] == 0.0F,
                  zero_dead);
        const float scale = std::fabs(result.matrix.scales[static_cast<size_t>(row * 2 + 1)]);
        EXPECT_EQ(scale > 0.1F, !zero_dead) << "a weight that was dropped has a say in the scale";
      }
    }
  }
}

TEST(GptqTest, SurvivesAGramMatrixThatIsNotPositiveDefinite) {
  runtime::ThreadPool pool(1);
  const int64_t n = 8, k = 96;
  const std::vector<float> w = normal_numbers(n * k, 11, 0.05F);
  // Fewer inputs than channels, and no damping to begin with: the first retry helps.
  const InputStats few = make_stats(make_inputs({.k = k, .rows = 20}, 12), k);
  const GptqResult retried = solve_gptq(w, n, k, {.group = 32}, {.damping = 0}, few, pool);
  EXPECT_GT(retried.retries, 0);
  EXPECT_LT(retried.retries, 3);
  EXPECT_FALSE(retried.floored);
  EXPECT_NEAR(retried.damping, 0.0015 * retried.retries, 1e-9);
  EXPECT_LT(relative_error(w, retried.matrix, few), rtn_error(w, n, k, {.group = 32}, few));

  // Indefinite by far: products of two channels that no inputs could have.
  InputStats broken = correlated(k, 13);
  broken.gram[5 * k + 9] = broken.gram[9 * k + 5] = 3 * broken.gram[5 * k + 5];
  const GptqResult floored = solve_gptq(w, n, k, {.group = 32}, {}, broken, pool);
  EXPECT_TRUE(floored.floored);
  EXPECT_NO_THROW((void)pack(floored.matrix, pool));
}

TEST(GptqTest, RefusesWhatItCannotSolve) {
  runtime::ThreadPool pool(1);
  const int64_t n = 4, k = 16;
  InputStats stats = correlated(k, 14);
  std::vector<float> w = normal_numbers(n * k, 15);
  const auto message = [&](const GptqOptions& options) -> std::string {
    try {
      (void)solve_gptq(w, n, k, {.group = 8}, options, stats, pool);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  EXPECT_EQ(message({}), "no error");
  EXPECT_NE(message({.order = ChannelOrder::full}).find("static"), std::string::npos);
  EXPECT_NE(message({.damping = -1}).find("-1"), std::string::npos);
  w[2 * k + 11] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_NE(message({}).find("column 2 at k = 11 is nan"), std::string::npos);
  w[2 * k + 11] = 1;
  stats.gram[3 * k + 4] = std::numeric_limits<float>::infinity();
  EXPECT_NE(message({}).find("input 3"), std::string::npos);
  stats.gram.pop_back();
  EXPECT_NE(message({}), "no error");
}

}  // namespace
}  // namespace nibble::quant
