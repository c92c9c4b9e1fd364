#include "quant/solvers/sign_round.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <string>

#include "jit/error.h"
#include "jit/float16.h"
#include "quant/solvers/range_search.h"
#include "quant/solvers/sign_round_gram.h"
#include "tests/quant/solver_inputs.h"

namespace nibble::quant {
namespace {

using jit::ScaleType;
using jit::WeightFormat;
using jit::WeightType;

constexpr WeightFormat kFormats[] = {
    {WeightType::u4, 16, false, ScaleType::f16}, {WeightType::u4, 16, true, ScaleType::f16},
    {WeightType::u8, 16, false, ScaleType::f32}, {WeightType::u8, 16, true, ScaleType::f32},
    {WeightType::u4, 0, false, ScaleType::f32},  {WeightType::u4, 0, true, ScaleType::f16},
};

// Somewhere on the way: V within half a step (now and then beyond), ranges shrunk so that the clamp
// acts.
SignRoundParams wander(const std::vector<float>& w, int64_t n, int64_t k,
                       const WeightFormat& format, uint32_t seed) {
  runtime::ThreadPool pool(1);
  SignRoundParams params = make_sign_round(w, n, k, format, pool);
  std::mt19937 random(seed);
  std::uniform_real_distribution<float> step(-0.6F, 0.6F), share(0.4F, 1.0F);
  for (float& v : params.v) v = step(random);
  for (float& a : params.alpha) a = share(random);
  for (float& b : params.beta) b = share(random);
  return params;
}

// The formulas as in the paper, in double but for the stored scale. `smooth` is the function
// that straight-through gradients belong to: every rounding adds what it added at the parameters
// `origin`, and clamped weights stay clamped.
struct Model {
  const std::vector<float>& w;
  const SignRoundParams& origin;
  GroupShape shape = group_shape(origin.format, origin.n, origin.k);
  bool nibbles = origin.format.type == WeightType::u4;

  struct Scale {
    double s, z;
  };
  Scale exact(size_t at, double alpha, double beta) const {
    const double low = origin.low[at], high = origin.high[at];
    if (origin.format.asym) {
      return {(high * beta - low * alpha) / (nibbles ? 15 : 255), 0};
    }
    const double half = nibbles ? 8 : 128;
    return {-low * alpha >= high * beta ? -low * alpha / half : -high * beta / half, half};
  }
  double stored(double s) const {
    const auto single = static_cast<float>(s);
    return origin.format.scale == ScaleType::f16 ? jit::f16_to_f32(jit::f32_to_f16(single))
                                                 : single;
  }
  double rounded(int64_t row, int64_t i, double v, double alpha, double beta, bool smooth) const {
    const auto at = static_cast<size_t>(row * shape.groups + i / shape.group);
    const auto wi = static_cast<size_t>(row * shape.k + i);
    const double alpha0 = origin.alpha[at], beta0 = origin.beta[at], low = origin.low[at];
    const double top = nibbles ? 15 : 255;
    const Scale e0 = exact(at, alpha0, beta0), e = exact(at, alpha, beta);
    const double s0 = stored(e0.s), s = smooth ? e.s + (s0 - e0.s) : stored(e.s);
    const double z0 = origin.format.asym ? std::nearbyint(-low * alpha0 / s0) : e0.z;
    const double q0 = std::nearbyint(w[wi] / s0 + origin.v[wi]) + z0;
    if (!smooth) return s0 * (std::clamp(q0, 0.0, top) - z0);
    const double z = origin.format.asym ? -low * alpha / s + (z0 + low * alpha0 / s0) : z0;
    if (q0 < 0 || q0 > top) return s * (std::clamp(q0, 0.0, top) - z);
    const double added = (q0 - z0) - (w[wi] / s0 + origin.v[wi]);
    return s * (w[wi] / s + v + added);
  }
};

TEST(SignRoundTest, RoundsByTheFormula) {
  runtime::ThreadPool pool(2);
  const int64_t n = 7, k = 45;
  const std::vector<float> w = normal_numbers(n * k, 1, 0.05F);
  for (const WeightFormat& format : kFormats) {
    const SignRoundParams params = wander(w, n, k, format, 2);
    const Model model{w, params};
    std::vector<float> rounded(w.size());
    sign_round_forward(w, params, rounded, pool);
    for (int64_t row = 0; row < n; ++row) {
      for (int64_t i = 0; i < k; ++i) {
        const auto at = static_cast<size_t>(row * k + i);
        const auto g = static_cast<size_t>(row * model.shape.groups + i / model.shape.group);
        const double want =
            model.rounded(row, i, params.v[at], params.alpha[g], params.beta[g], false);
        ASSERT_NEAR(rounded[at], want, 1e-6) << "row " << row << ", k " << i;
      }
    }
    const SolvedMatrix solved = sign_round_matrix(w, params, pool);
    EXPECT_EQ(dequantize(solved, pool), rounded);
    EXPECT_NO_THROW((void)pack(solved, pool));
  }
}

TEST(SignRoundTest, StartsWhereTheFullRangeDoes) {
  runtime::ThreadPool pool(1);
  const int64_t n = 9, k = 70;
  std::vector<float> w = normal_numbers(n * k, 3, 0.05F);
  w[5] = 0.25F;  // extremes of the same size
  w[6] = -0.25F;
  std::fill_n(w.begin() + 3 * k, 32, 0.0F);
  for (const bool asym : {false, true}) {
    const WeightFormat format{WeightType::u4, 32, asym, ScaleType::f16};
    const SignRoundParams params = make_sign_round(w, n, k, format, pool);
    EXPECT_TRUE(same_solution(sign_round_matrix(w, params, pool),
                              solve_rtn(w, n, k, format, {}, nullptr, pool)));
  }
}

// A parameter's derivative of sum d W' by central differences of the smooth function.
TEST(SignRoundTest, GradientsAreThoseOfTheSmoothFunction) {
  runtime::ThreadPool pool(2);
  const int64_t n = 5, k = 45;
  const std::vector<float> w = normal_numbers(n * k, 4, 0.05F);
  const std::vector<float> d = normal_numbers(n * k, 5);
  for (const WeightFormat& format : kFormats) {
    SCOPED_TRACE(testing::Message() << "asym " << format.asym << " group " << format.group
                                    << " type " << static_cast<int>(format.type));
    const SignRoundParams params = wander(w, n, k, format, 6);
    SignRoundGradients gradients = make_gradients(params);
    sign_round_backward(w, params, d, gradients, pool);
    const Model model{w, params};
    const double h = 1e-5;
    int64_t clamped = 0;
    for (int64_t row = 0; row < n; ++row) {
      for (int64_t g = 0; g < model.shape.groups; ++g) {
        const auto at = static_cast<size_t>(row * model.shape.groups + g);
        const double alpha = params.alpha[at], beta = params.beta[at];
        const auto loss = [&](double a, double b) {
          double sum = 0;
          for (int64_t i = model.shape.begin(g); i < model.shape.end(g); ++i) {
            const auto wi = static_cast<size_t>(row * k + i);
            sum += d[wi] * model.rounded(row, i, params.v[wi], a, b, true);
          }
          return sum;
        };
        const double by_alpha = (loss(alpha + h, beta) - loss(alpha - h, beta)) / (2 * h);
        const double by_beta = (loss(alpha, beta + h) - loss(alpha, beta - h)) / (2 * h);
        EXPECT_NEAR(gradients.alpha[at], by_alpha, 2e-4 * (1 + std::fabs(by_alpha)));
        EXPECT_NEAR(gradients.beta[at], by_beta, 2e-4 * (1 + std::fabs(by_beta)));
        for (int64_t i = model.shape.begin(g); i < model.shape.end(g); ++i) {
          const auto wi = static_cast<size_t>(row * k + i);
          const double v = params.v[wi];
          const double by_v = d[wi] *
                              (model.rounded(row, i, v + h, alpha, beta, true) -
                               model.rounded(row, i, v - h, alpha, beta, true)) /
                              (2 * h);
          ASSERT_NEAR(gradients.v[wi], by_v, 1e-4 * std::fabs(by_v) + 1e-9);
          clamped += by_v == 0 ? 1 : 0;
        }
      }
    }
    EXPECT_GT(clamped, 5) << "the clamp was not tried";
    EXPECT_LT(clamped, n * k / 2);
    // In place of what came in.
    SignRoundGradients same = make_gradients(params);
    same.v = d;
    sign_round_backward(w, params, same.v, same, pool);
    EXPECT_EQ(same.v, gradients.v);
    EXPECT_EQ(same.alpha, gradients.alpha);
    EXPECT_EQ(same.beta, gradients.beta);
  }
}

TEST(SignRoundTest, StepsAgainstTheSignAndStaysWithinBounds) {
  runtime::ThreadPool pool(1);
  const std::vector<float> w = {0.5F, -0.25F, 0, 0, 0, 0, 0, 0};
  SignRoundParams params = make_sign_round(w, 1, 8, {.group = 8}, pool);
  SignRoundGradients gradients = make_gradients(params);
  gradients.v = {3, -1e-20F, 0, -2, 0, 0, 0, 0};
  gradients.alpha = {-1};
  gradients.beta = {1};
  sign_round_step(params, gradients, 0.25F, true, pool);
  EXPECT_EQ(params.v, (std::vector<float>{-0.25F, 0.25F, 0, 0.25F, 0, 0, 0, 0}));
  EXPECT_EQ(params.alpha[0], 1.0F);
  EXPECT_EQ(params.beta[0], 0.75F);
  sign_round_step(params, gradients, 5.0F, false, pool);
  EXPECT_EQ(params.beta[0], 0.75F);
  sign_round_step(params, gradients, 5.0F, true, pool);
  EXPECT_EQ(params.beta[0], kSmallestShare);
}

TEST(SignRoundTest, AnEmptyGroupIsLeftAlone) {
  runtime::ThreadPool pool(1);
  const std::vector<float> w(16, 0.0F);
  for (const bool asym : {false, true}) {
    const SignRoundParams params = make_sign_round(w, 2, 8, {.group = 8, .asym = asym}, pool);
    SignRoundGradients gradients = make_gradients(params);
    sign_round_backward(w, params, std::vector<float>(16, 1.0F), gradients, pool);
    EXPECT_EQ(gradients.v, w);
    EXPECT_EQ(gradients.alpha, std::vector<float>(2, 0.0F));
    EXPECT_EQ(gradients.beta, std::vector<float>(2, 0.0F));
    EXPECT_EQ(dequantize(sign_round_matrix(w, params, pool), pool), w);
  }
}

TEST(SignRoundGramTest, LowersTheErrorInEveryFormat) {
  runtime::ThreadPool pool(1);
  const int64_t n = 24, k = 96;
  const InputStats stats =
      make_stats(make_inputs({.k = k, .rows = 400, .factors = 24, .outliers = 3}, 7), k);
  const std::vector<float> w = normal_numbers(n * k, 8, 0.05F);
  for (const WeightType type : {WeightType::u4, WeightType::u6, WeightType::u8}) {
    for (const int64_t group : {int64_t{0}, int64_t{32}, int64_t{48}}) {
      for (const bool asym : {false, true}) {
        const WeightFormat format{type, group, asym, ScaleType::f16};
        const SignRoundResult result = solve_sign_round(w, n, k, format, {}, stats, {}, pool);
        const double rtn = relative_error(w, solve_rtn(w, n, k, format, {}, nullptr, pool), stats);
        const double error = relative_error(w, result.matrix, stats);
        EXPECT_LT(error, 0.6 * rtn) << "group " << group << " asym " << asym;
        if (type == WeightType::u4) {
          EXPECT_NEAR(error / rtn, result.best / result.start, 1e-4);
        }
        EXPECT_NO_THROW((void)pack(result.matrix, pool));
      }
    }
  }
}

TEST(SignRoundGramTest, DoesNotDependOnTheThreadsAndKeepsTheBest) {
  runtime::ThreadPool alone(1), team(3);
  const int64_t n = 4100, k = 16;  // more rows than are tuned at a time
  const InputStats stats = make_stats(make_inputs({.k = k, .rows = 100}, 9), k);
  const std::vector<float> w = normal_numbers(n * k, 10, 0.05F);
  const WeightFormat format{WeightType::u4, 16, true, ScaleType::f16};
  const SignRoundOptions options{.iterations = 20};
  const SignRoundResult one = solve_sign_round(w, n, k, format, options, stats, {}, alone);
  const SignRoundResult three = solve_sign_round(w, n, k, format, options, stats, {}, team);
  EXPECT_TRUE(same_solution(one.matrix, three.matrix));
  EXPECT_EQ(one.best, three.best);
  // A rate far too large only ever makes it worse, and then the start stays.
  const SignRoundResult wild =
      solve_sign_round(w, n, k, format, {.iterations = 3, .rate = 50}, stats, {}, team);
  const SolvedMatrix rtn = solve_rtn(w, n, k, format, {}, nullptr, team);
  EXPECT_TRUE(same_solution(wild.matrix, rtn));
  EXPECT_TRUE(same_solution(
      solve_sign_round(w, n, k, format, {.iterations = 0}, stats, {}, team).matrix, rtn));
}

// Inputs that quantized layers before have changed: the float outputs on float inputs are the mark.
TEST(SignRoundGramTest, MakesGoodForInputsThatChanged) {
  runtime::ThreadPool pool(1);
  const int64_t n = 24, k = 64, rows = 500;
  const std::vector<float> x0 = make_inputs({.k = k, .rows = rows}, 11);
  std::vector<float> x = x0;
  const std::vector<float> noise = normal_numbers(rows * k, 12, 0.1F);
  for (size_t i = 0; i < x.size(); ++i) x[i] = 0.97F * x[i] + noise[i];
  const InputStats stats = make_stats(x, k);
  std::vector<float> x0x(stats.gram.size());
  matmul(pool, {x0.data(), rows, k, k}, true, {x.data(), rows, k, k}, false, {x0x.data(), k, k, k},
         false);
  const std::vector<float> w = normal_numbers(n * k, 13, 0.05F);
  const auto error = [&](const SolvedMatrix& solved) {
    const std::vector<float> rounded = dequantize(solved, pool);
    std::vector<float> y(static_cast<size_t>(rows * n));
    const auto product = [&](const std::vector<float>& inputs, const std::vector<float>& weights,
                             bool add) {
      matmul(pool, {inputs.data(), rows, k, k}, false, {weights.data(), n, k, k}, true,
             {y.data(), rows, n, n}, add);
    };
    std::vector<float> negative = w;
    for (float& value : negative) value = -value;
    product(x, rounded, false);
    product(x0, negative, true);
    double sum = 0;
    for (const float value : y) sum += static_cast<double>(value) * value;
    return sum;
  };
  const WeightFormat format{WeightType::u4, 32, false, ScaleType::f16};
  const SignRoundResult blind = solve_sign_round(w, n, k, format, {}, stats, {}, pool);
  const SignRoundResult seeing = solve_sign_round(w, n, k, format, {}, stats, x0x, pool);
  EXPECT_LT(error(seeing.matrix), 0.9 * error(blind.matrix));
  // The reported loss lacks a constant, so differences are what it reports.
  const SolvedMatrix rtn = solve_rtn(w, n, k, format, {}, nullptr, pool);
  EXPECT_NEAR(seeing.start - seeing.best, error(rtn) - error(seeing.matrix), 1e-3 * error(rtn));
}

TEST(SignRoundGramTest, RefusesWhatItCannotSolve) {
  runtime::ThreadPool pool(1);
  const int64_t n = 4, k = 16;
  const InputStats stats = make_stats(make_inputs({.k = k, .rows = 30}, 14), k);
  std::vector<float> w = normal_numbers(n * k, 15);
  const std::vector<float> short_x0x(17);
  EXPECT_THROW(solve_sign_round(w, n, k, {.group = 8}, {}, stats, short_x0x, pool), Error);
  EXPECT_THROW(solve_sign_round(w, n, k, {.group = 8}, {.iterations = -1}, stats, {}, pool), Error);
  w[k + 2] = std::numeric_limits<float>::infinity();
  EXPECT_THROW(solve_sign_round(w, n, k, {.group = 8}, {}, stats, {}, pool), Error);
}

}  // namespace
}  // namespace nibble::quant
