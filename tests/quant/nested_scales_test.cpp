#include "quant/formats/nested_scales.h"

#include <gtest/gtest.h>

#include <cmath>
#include <vector>

#include "graph/ops.h"
#include "jit/error.h"
#include "quant/formats/quantize.h"
#include "quant/solvers/range_search.h"
#include "tests/quant/solver_inputs.h"

namespace nibble::quant {
namespace {

using jit::ScaleType;
using jit::WeightFormat;
using jit::WeightType;

constexpr WeightFormat kFormat{WeightType::u4, 32, false, ScaleType::q8};

TEST(NestedScales, OnlyFittingFormatsHaveThem) {
  EXPECT_EQ(with_fitting_scales(kFormat, 512), kFormat);
  WeightFormat plain = kFormat;
  plain.scale = ScaleType::f16;
  EXPECT_EQ(with_fitting_scales(kFormat, 300), plain);
  EXPECT_EQ(with_fitting_scales(plain, 512), plain);
  for (const int64_t group : {0, 8, 48, 256}) {
    WeightFormat other = kFormat;
    other.group = group;
    EXPECT_EQ(with_fitting_scales(other, 512).scale, ScaleType::f16) << group;
  }
  WeightFormat asym = kFormat;
  asym.asym = true;
  EXPECT_EQ(with_fitting_scales(asym, 512).scale, ScaleType::f16);
}

// The largest is 127 of the number above, and each moves by half of that number at most.
TEST(NestedScales, AreTheNearestProducts) {
  std::vector<float> scales(16);
  for (size_t g = 0; g < scales.size(); ++g) {
    scales[g] = (g % 3 == 0 ? -0.001F : 0.0007F) * static_cast<float>(g + 1);
  }
  const std::vector<float> exact = scales;
  const std::vector<uint8_t> q(512, 3);
  std::vector<float> above(2);
  nest_scales(32, 8, q, scales, above);
  for (size_t g = 0; g < scales.size(); ++g) {
    const float number = above[g / 8];
    EXPECT_EQ(jit::round_to(ScaleType::f16, number), number);
    EXPECT_LE(std::fabs(scales[g] - exact[g]), number * 0.51F);
    EXPECT_EQ(std::nearbyint(scales[g] / number) * number, scales[g]);
  }
  EXPECT_NEAR(above[0], std::fabs(exact[6]) / 127, above[0] * 0x1p-11F);
}

// A group of zeros has a scale of 1, which must not drown the others.
TEST(NestedScales, GroupsOfZerosCountForNothing) {
  std::vector<uint8_t> q(256, 8);
  q[40] = 9;
  std::vector<float> scales(8, 1.0F), above(1);
  scales[1] = 0.01F;
  nest_scales(32, 8, q, scales, above);
  EXPECT_NEAR(scales[1], 0.01F, 1e-5F);
  for (const size_t g : {0, 2, 7}) EXPECT_EQ(scales[g], 0);
  std::vector<float> none(8, 1.0F);
  nest_scales(32, 8, std::vector<uint8_t>(256, 8), none, above);
  EXPECT_EQ(none, std::vector<float>(8, 0.0F));
  EXPECT_EQ(above[0], 0);
}

TEST(NestedScales, TinyAndHugeScales) {
  const std::vector<uint8_t> q(256, 3);
  std::vector<float> scales(8, 1e-9F), above(1);
  nest_scales(32, 8, q, scales, above);
  EXPECT_EQ(above[0], 0x1p-24F);
  EXPECT_EQ(scales[0], 0);  // 1e-9 is nothing beside the least that there is
  scales.assign(8, 1e9F);
  EXPECT_THROW(nest_scales(32, 8, q, scales, above), Error);
}

// sum of (w - packed w)^2 over the matrix
double error_of(const std::vector<float>& w, const jit::PackedView& view) {
  std::vector<float> column(static_cast<size_t>(view.k));
  double sum = 0;
  for (int64_t c = 0; c < view.n; ++c) {
    jit::unpack_column(view, c, column);
    for (int64_t kk = 0; kk < view.k; ++kk) {
      const double d =
          double{w[static_cast<size_t>(c * view.k + kk)]} - double{column[static_cast<size_t>(kk)]};
      sum += d * d;
    }
  }
  return sum;
}

TEST(NestedScales, CostLittleWhenQuantizing) {
  runtime::ThreadPool pool(2);
  const int64_t n = 37, k = 512;
  const std::vector<float> w = normal_numbers(n * k, 1, 0.02F);
  const auto source = graph::MatrixSource::whole(graph::make_f32({n, k}, w), false);
  for (const WeightType type : {WeightType::u4, WeightType::u6, WeightType::u8}) {
    for (const int64_t group : {16, 32, 128}) {
      const WeightFormat nested{type, group, false, ScaleType::q8};
      const WeightFormat exact{type, group, false, ScaleType::f32};
      for (const RtnRange range : {RtnRange::plain, RtnRange::full}) {
        const auto packed = quantize_matrix(source, nested, range, "w", pool);
        EXPECT_EQ(packed.view.format, nested);
        const auto wanted = quantize_matrix(source, exact, range, "w", pool);
        // Of weights of 8 bits half a byte of their scale is much.
        const double most = type == WeightType::u8 ? 1.2 : 1.03;
        EXPECT_LT(error_of(w, packed.view), most * error_of(w, wanted.view))
            << jit::weight_type_name(type) << " " << group;
      }
    }
  }
}

TEST(NestedScales, SolvedMatricesAreDequantizedAsTheyArePacked) {
  runtime::ThreadPool pool(2);
  const int64_t n = 21, k = 512;
  const std::vector<float> w = normal_numbers(n * k, 2, 0.02F);
  for (const WeightType type : {WeightType::u4, WeightType::u6, WeightType::u8}) {
    const WeightFormat format{type, 32, false, ScaleType::q8};
    const SolvedMatrix solved = solve_rtn(w, n, k, format, {}, nullptr, pool);
    expect_dequantized_as_packed(solved, pool);
  }
}

}  // namespace
}  // namespace nibble::quant
