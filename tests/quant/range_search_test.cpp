#include "quant/solvers/range_search.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <cstring>
#include <limits>
#include <string>

#include "graph/matrix_source.h"
#include "jit/error.h"
#include "jit/float16.h"
#include "quant/formats/quantize.h"
#include "tests/quant/solver_inputs.h"

namespace nibble::quant {
namespace {

using jit::ScaleType;
using jit::WeightFormat;
using jit::WeightType;

double squared_error(const std::vector<float>& w, const SolvedMatrix& solved,
                     const std::vector<float>& weight = {}) {
  runtime::ThreadPool pool(1);
  const std::vector<float> rounded = dequantize(solved, pool);
  double sum = 0;
  for (size_t i = 0; i < w.size(); ++i) {
    const double error = static_cast<double>(rounded[i]) - w[i];
    sum += error * error * (weight.empty() ? 1.0 : weight[i % weight.size()]);
  }
  return sum;
}

double error_by(RangeMethod method, const std::vector<float>& w, int64_t n, int64_t k,
                const WeightFormat& format) {
  runtime::ThreadPool pool(2);
  return squared_error(w, solve_rtn(w, n, k, format, {.method = method}, nullptr, pool));
}

void expect_bytes_of_quantize_matrix(const WeightFormat& format, RtnRange range) {
  const int64_t n = 35, k = 77;
  runtime::ThreadPool pool(2);
  std::vector<float> w = normal_numbers(n * k, 7, 0.03F);
  std::fill_n(w.begin() + 5 * k, k, 0.0F);
  const graph::MatrixSource source =
      graph::MatrixSource::whole(graph::make_f32(graph::Shape{n, k}, w), false);
  const runtime::PackedMatrix want = quantize_matrix(source, format, range, "w", pool);
  const RangeMethod method = range == RtnRange::plain ? RangeMethod::plain : RangeMethod::full;
  const runtime::PackedMatrix got =
      pack(solve_rtn(w, n, k, format, {.method = method}, nullptr, pool), pool);
  const jit::PackedShape shape = jit::packed_shape(format, n, k);
  const auto same = [](const void* a, const void* b, int64_t bytes) {
    return bytes == 0 || std::memcmp(a, b, static_cast<size_t>(bytes)) == 0;
  };
  EXPECT_TRUE(same(want.view.data, got.view.data, shape.data_bytes));
  EXPECT_TRUE(same(want.view.scales, got.view.scales, shape.scale_bytes));
  EXPECT_TRUE(same(want.view.zeros, got.view.zeros, shape.zero_bytes));
}

TEST(SolveRtnTest, GivesTheBytesOfQuantizeMatrix) {
  for (const WeightType type : {WeightType::u4, WeightType::u6, WeightType::u8}) {
    for (const int64_t group : {int64_t{0}, int64_t{32}}) {
      for (const bool asym : {false, true}) {
        for (const RtnRange range : {RtnRange::plain, RtnRange::full}) {
          expect_bytes_of_quantize_matrix({type, group, asym, ScaleType::f16}, range);
        }
      }
    }
  }
}

TEST(SolveRtnTest, SearchingNeverRaisesTheErrorOfAGroupAndLowersTheSum) {
  const int64_t n = 24, k = 200;  // the last group of 64 is short
  const std::vector<float> w = normal_numbers(n * k, 8, 0.02F);
  runtime::ThreadPool pool(1);
  for (const WeightType type : {WeightType::u4, WeightType::u6, WeightType::u8}) {
    for (const int64_t group : {int64_t{0}, int64_t{16}, int64_t{64}}) {
      for (const bool asym : {false, true}) {
        const WeightFormat format{type, group, asym, ScaleType::f16};
        const GroupShape shape = group_shape(format, n, k);
        for (int64_t row = 0; row < n; ++row) {
          for (int64_t g = 0; g < shape.groups; ++g) {
            const std::span<const float> part =
                std::span(w).subspan(static_cast<size_t>(row * k + shape.begin(g)),
                                     static_cast<size_t>(shape.end(g) - shape.begin(g)));
            const GroupResult full = choose_range(part, format, {}, {});
            const GroupResult best =
                choose_range(part, format, {.method = RangeMethod::search}, {});
            ASSERT_LE(grid_error(part, {}, best.scale, grid_limits(format, best.zero)),
                      grid_error(part, {}, full.scale, grid_limits(format, full.zero)));
            ASSERT_EQ(jit::f16_to_f32(jit::f32_to_f16(best.scale)), best.scale);
          }
        }
        const double full = error_by(RangeMethod::full, w, n, k, format);
        EXPECT_LT(error_by(RangeMethod::search, w, n, k, format),
                  (type == WeightType::u4 ? 0.95 : 0.99) * full)
            << "group " << group << ", asym " << asym;
      }
    }
  }
}

TEST(SolveRtnTest, OrdersTheMethodsByError) {
  const int64_t n = 64, k = 512;
  const std::vector<float> w = normal_numbers(n * k, 9, 0.02F);
  const WeightFormat format{WeightType::u4, 128, false, ScaleType::f16};
  const double plain = error_by(RangeMethod::plain, w, n, k, format);
  const double full = error_by(RangeMethod::full, w, n, k, format);
  const double inverse = error_by(RangeMethod::inverse, w, n, k, format);
  const double search = error_by(RangeMethod::search, w, n, k, format);
  EXPECT_LT(full, plain);
  EXPECT_LT(inverse, full);
  EXPECT_LT(search, inverse);
}

TEST(SolveRtnTest, WeighsErrorsByTheInputs) {
  const int64_t n = 32, k = 128;
  const std::vector<float> w = normal_numbers(n * k, 10, 0.02F);
  const InputStats stats =
      make_stats(make_inputs({.k = k, .rows = 64, .factors = 0, .outliers = 12}, 11), k);
  const std::vector<float> weight = diagonal_weights(stats);
  runtime::ThreadPool pool(2);
  for (const bool asym : {false, true}) {
    for (const RangeMethod method : {RangeMethod::search, RangeMethod::inverse}) {
      if (asym && method == RangeMethod::inverse) continue;
      const WeightFormat format{WeightType::u4, 32, asym, ScaleType::f16};
      const RangeOptions options{.method = method};
      const SolvedMatrix blind = solve_rtn(w, n, k, format, options, nullptr, pool);
      const SolvedMatrix seeing = solve_rtn(w, n, k, format, options, &stats, pool);
      EXPECT_LT(squared_error(w, seeing, weight), 0.9 * squared_error(w, blind, weight));
      EXPECT_GT(squared_error(w, seeing), squared_error(w, blind));
    }
  }
}

TEST(SolveRtnTest, FindsTheBestOfTheInverseScales) {
  const std::vector<float> w = {0.9F, -0.31F, 0.22F, 0.4F, -0.55F, 0.05F, 0.47F, -0.13F};
  const WeightFormat format{WeightType::u4, 8, false, ScaleType::f32};
  const GroupResult found = choose_range(w, format, {.method = RangeMethod::inverse}, {});
  double best = 1e9, scale = 0;
  for (int i = -100; i <= 100; ++i) {
    const double s = -0.9 / (8 + 0.02 * i);
    double error = 0;
    for (const float x : w) {
      const double q = std::clamp(std::nearbyint(x / s), -8.0, 7.0);
      error += (q * s - x) * (q * s - x);
    }
    if (error < best) {
      best = error;
      scale = s;
    }
  }
  EXPECT_NEAR(found.scale, scale, 1e-6);
}

TEST(SolveRtnTest, FindsAGridThatTheWeightsLieOn) {
  // One weight is out of range of a grid that holds the others exactly: clipping it costs less
  // than a coarser grid for all.
  const WeightFormat format{WeightType::u4, 0, false, ScaleType::f32};
  std::vector<float> w(256);
  for (size_t i = 0; i < w.size(); ++i) w[i] = 0.125F * (static_cast<float>(i % 15) - 7);
  w[100] = 1.5F;
  const GroupResult found = choose_range(w, format, {.method = RangeMethod::search}, {});
  EXPECT_NEAR(std::fabs(found.scale), 0.125F, 1e-3F);
}

TEST(SolveRtnTest, KeepsZerosAndTinyGroups) {
  runtime::ThreadPool pool(1);
  std::vector<float> w(120, 0.0F);
  for (size_t i = 80; i < 120; ++i) w[i] = (i % 2 == 0 ? 1.0F : -0.5F) * 1e-30F;
  for (const RangeMethod method : {RangeMethod::search, RangeMethod::inverse}) {
    for (const bool asym : {false, true}) {
      if (asym && method == RangeMethod::inverse) continue;
      const WeightFormat format{WeightType::u4, 16, asym, ScaleType::f16};
      const SolvedMatrix solved = solve_rtn(w, 3, 40, format, {.method = method}, nullptr, pool);
      EXPECT_NO_THROW((void)pack(solved, pool));
      EXPECT_EQ(solved.scales[0], 1.0F);
      for (const float x : dequantize(solved, pool)) EXPECT_NEAR(x, 0.0F, 1e-6F);
    }
  }
}

TEST(SolveRtnTest, ErrorsNameTheColumnAndTheCause) {
  runtime::ThreadPool pool(2);
  const auto message = [&](const std::vector<float>& w, const WeightFormat& format,
                           RangeMethod method) -> std::string {
    try {
      (void)solve_rtn(w, 6, 20, format, {.method = method}, nullptr, pool);
    } catch (const Error& error) {
      return error.what();
    }
    return "no error";
  };
  std::vector<float> w = normal_numbers(120, 12);
  w[3 * 20 + 7] = std::numeric_limits<float>::infinity();
  w[4 * 20 + 1] = std::numeric_limits<float>::quiet_NaN();
  for (const RangeMethod method : {RangeMethod::full, RangeMethod::search}) {
    EXPECT_NE(message(w, {.group = 8}, method).find("column 3 at k = 7 is inf"), std::string::npos);
  }
  w = normal_numbers(120, 12);
  w[2 * 20 + 9] = 1e7F;  // a half cannot hold its scale
  EXPECT_NE(message(w, {.group = 8}, RangeMethod::search).find("Column 2"), std::string::npos);
  w[2 * 20 + 9] = 1.0F;
  const WeightFormat asym{.group = 8, .asym = true};
  EXPECT_NE(message(w, asym, RangeMethod::inverse).find("symmetric"), std::string::npos);
  EXPECT_NE(message(w, {.type = WeightType::f32}, RangeMethod::full), "no error");
  w.pop_back();
  EXPECT_NE(message(w, {.group = 8}, RangeMethod::full).find("119"), std::string::npos);
}

}  // namespace
}  // namespace nibble::quant
