#include "quant/solvers/solved_matrix.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>

#include "jit/error.h"
#include "quant/formats/dequantize.h"
#include "quant/solvers/range_search.h"
#include "tests/quant/solver_inputs.h"

namespace nibble::quant {
namespace {

using jit::ScaleType;
using jit::WeightFormat;
using jit::WeightType;

std::vector<WeightFormat> solvable_formats() {
  std::vector<WeightFormat> formats;
  for (const WeightType type : {WeightType::u4, WeightType::u6, WeightType::u8}) {
    for (const int64_t group : {int64_t{0}, int64_t{16}, int64_t{48}, int64_t{128}}) {
      for (const bool asym : {false, true}) {
        for (const ScaleType scale : {ScaleType::f16, ScaleType::f32}) {
          formats.push_back({type, group, asym, scale});
        }
      }
    }
  }
  return formats;
}

std::string message_of(const SolvedMatrix& solved) {
  runtime::ThreadPool pool(2);
  try {
    (void)pack(solved, pool);
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST(SolvedMatrixTest, DequantizesToWhatThePackedMatrixHolds) {
  runtime::ThreadPool pool(2);
  const int64_t n = 37, k = 101;
  const std::vector<float> w = normal_numbers(n * k, 1, 0.02F);
  for (const WeightFormat& format : solvable_formats()) {
    const SolvedMatrix solved = solve_rtn(w, n, k, format, {}, nullptr, pool);
    expect_dequantized_as_packed(solved, pool);
  }
}

TEST(SolvedMatrixTest, RefusesToPackWhatTheFormatCannotHold) {
  runtime::ThreadPool pool(1);
  const std::vector<float> w = normal_numbers(800, 2);
  const SolvedMatrix good = solve_rtn(w, 20, 40, {.group = 16}, {}, nullptr, pool);
  EXPECT_EQ(message_of(good), "no error");
  SolvedMatrix bad = good;
  bad.q[17 * 40 + 3] = 16;
  EXPECT_NE(message_of(bad).find("column 17 at k = 3 is 16"), std::string::npos);
  bad = good;
  bad.scales[5 * 3 + 2] = std::numeric_limits<float>::quiet_NaN();
  EXPECT_NE(message_of(bad).find("column 5, group 2"), std::string::npos);
  bad = good;
  bad.scales[0] = 0.1F;  // not a half
  EXPECT_NE(message_of(bad).find("not representable"), std::string::npos);
  bad = good;
  bad.zeros[1] = 7;
  EXPECT_NE(message_of(bad).find("column 0, group 1 is 7"), std::string::npos);
  bad = good;
  bad.zeros.pop_back();
  EXPECT_NE(message_of(bad).find("expected 800, 60 and 60"), std::string::npos);
  bad.format.type = WeightType::f32;
  EXPECT_NE(message_of(bad), "no error");
}

TEST(OutputErrorTest, IsTheSquaredErrorOfTheOutputs) {
  const int64_t n = 4100, k = 40, rows = 30;  // more rows than are multiplied at a time
  const std::vector<float> x = make_inputs({.k = k, .rows = rows, .outliers = 3}, 3);
  const InputStats stats = make_stats(x, k);
  const std::vector<float> w = normal_numbers(n * k, 4);
  std::vector<float> changed = normal_numbers(n * k, 5, 0.1F);
  for (size_t i = 0; i < w.size(); ++i) changed[i] += w[i];
  double sum = 0, whole = 0;
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < n; ++c) {
      double y = 0, error = 0;
      for (int64_t i = 0; i < k; ++i) {
        const auto at = static_cast<size_t>(c * k + i);
        const double input = x[static_cast<size_t>(r * k + i)];
        y += input * w[at];
        error += input * (changed[at] - w[at]);
      }
      sum += error * error;
      whole += y * y;
    }
  }
  runtime::ThreadPool alone(1), team(3);
  const OutputError one = output_error(w, changed, n, k, stats.gram, alone);
  const OutputError three = output_error(w, changed, n, k, stats.gram, team);
  EXPECT_NEAR(one.sum, sum, 1e-5 * sum);
  EXPECT_NEAR(one.relative, sum / whole, 1e-5 * sum / whole);
  EXPECT_EQ(one.sum, three.sum);
  EXPECT_EQ(output_error(w, w, n, k, stats.gram, team).relative, 0);
  EXPECT_THROW(output_error(w, changed, n, k - 1, stats.gram, alone), Error);
}

// The triangle of G, in panels of columns and parts of the rows, beside the whole product.
TEST(InputStatsTest, ErrorsOfRowsAreThoseOfTheWholeProduct) {
  const int64_t n = 4100, k = 900;
  const InputStats stats =
      make_stats(make_inputs({.k = k, .rows = 300, .factors = 20, .outliers = 8}, 21), k);
  const std::vector<float> d = normal_numbers(n * k, 22, 0.01F);
  runtime::ThreadPool alone(1), team(3);
  std::vector<double> one(static_cast<size_t>(n)), three(one), want(one);
  std::vector<float> product(d.size());
  double share = 0;
  int told = 0;
  row_errors(d, n, k, stats.gram, alone, one, [&](double done) {
    EXPECT_GE(done, share);
    EXPECT_LT(done, 1);
    share = done;
    ++told;
  });
  EXPECT_EQ(told, 4);  // two panels of two parts
  row_errors(d, n, k, stats.gram, team, three);
  row_errors_and_products(d, n, k, stats.gram, team, want, product);
  for (size_t row = 0; row < want.size(); ++row) {
    ASSERT_NEAR(one[row], want[row], 1e-5 * want[row]) << row;
    ASSERT_EQ(one[row], three[row]) << row;
  }
  struct Stop {};
  EXPECT_THROW(row_errors(d, n, k, stats.gram, team, one, [](double) { throw Stop{}; }), Stop);
  EXPECT_THROW(
      row_errors_and_products(d, n, k, stats.gram, team, want, std::span(product).first(7)), Error);
}

TEST(InputStatsTest, RefusesWhatDoesNotFitOrIsNotANumber) {
  InputStats stats = make_stats(make_inputs({.k = 8, .rows = 9}, 1), 8);
  EXPECT_NO_THROW(check_stats(stats, 8));
  EXPECT_THROW(check_stats(stats, 9), Error);
  stats.gram[9] = -1;
  EXPECT_THROW(check_stats(stats, 8), Error);
  stats.gram[9] = std::numeric_limits<float>::infinity();
  EXPECT_THROW(check_stats(stats, 8), Error);
}

}  // namespace
}  // namespace nibble::quant
