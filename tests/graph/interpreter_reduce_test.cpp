#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/graph/one_node.h"
#include "tests/support/not_finite.h"

namespace nibble::test {
namespace {

using F = std::vector<float>;
using I = std::vector<int64_t>;
using graph::Array;
using graph::Shape;

TEST(Reduce, AxesAsAttributeOrInput) {
  const Array x = floats({2, 3}, {1, 2, 3, 4, 5, 6});
  const Array rows = OneNode("ReduceMean").in(x).attr("axes", I{-1}).one();
  EXPECT_EQ(rows.shape, (Shape{2, 1}));
  EXPECT_EQ(values_f(rows), (F{2, 5}));
  const Array columns =
      OneNode("ReduceMean").in(x).in(ints({1}, {0})).attr("keepdims", int64_t{0}).one();
  EXPECT_EQ(columns.shape, (Shape{3}));
  EXPECT_EQ(values_f(columns), (F{2.5F, 3.5F, 4.5F}));
  const Array all = OneNode("ReduceSum").in(x).one();
  EXPECT_EQ(all.shape, (Shape{1, 1}));
  EXPECT_EQ(values_f(all), (F{21}));
  const Array none = OneNode("ReduceSum").in(x).attr("noop_with_empty_axes", int64_t{1}).one();
  EXPECT_EQ(values_f(none), values_f(x));
  EXPECT_NE(OneNode("ReduceSum").in(x).in(ints({1}, {2})).error(), "");
}

TEST(Reduce, AxesInTheMiddle) {
  const Array x = ints({2, 2, 2}, {1, 2, 3, 4, 5, 6, 7, 8});
  EXPECT_EQ(values_i(OneNode("ReduceSum").in(x).in(ints({1}, {1})).one()), (I{4, 6, 12, 14}));
  EXPECT_EQ(values_i(OneNode("ReduceSum").in(x).in(ints({2}, {0, 2})).one()), (I{14, 22}));
}

TEST(Reduce, OtherOperators) {
  const Array x = floats({2, 2}, {3, -4, 1, 2});
  const auto last = [&](const char* op) {
    return values_f(OneNode(op).in(x).attr("axes", I{1}).one());
  };
  EXPECT_EQ(last("ReduceMax"), (F{3, 2}));
  EXPECT_EQ(last("ReduceMin"), (F{-4, 1}));
  EXPECT_EQ(last("ReduceSumSquare"), (F{25, 5}));
  EXPECT_EQ(last("ReduceL2"), (F{5, std::sqrt(5.0F)}));
  EXPECT_EQ(values_i(OneNode("ReduceMax").in(ints({3}, {4, 9, -1})).one()), (I{9}));
  EXPECT_EQ(values_i(OneNode("ReduceMean").in(ints({2}, {4, 9})).one()), (I{6}));
  EXPECT_NE(OneNode("ReduceMax").in(floats({0}, {})).error(), "");
}

TEST(Softmax, AlongAnyAxis) {
  const Array x = floats({2, 2}, {0, std::log(3.0F), 1000, 1000});
  expect_near(OneNode("Softmax").in(x).one(), {0.25F, 0.75F, 0.5F, 0.5F});
  const Array y = floats({2, 2}, {0, 5, std::log(3.0F), 5});
  expect_near(OneNode("Softmax").in(y).attr("axis", int64_t{0}).one(), {0.25F, 0.5F, 0.75F, 0.5F});
  expect_near(OneNode("Softmax").in(floats({2}, {-kInfinity, 0})).one(), {0, 1});
  const F masked = values_f(OneNode("Softmax").in(floats({2}, {-kInfinity, -kInfinity})).one());
  EXPECT_TRUE(std::isnan(masked[0]) && std::isnan(masked[1]));  // as the formula says
}

TEST(LayerNormalization, ScalesAndShifts) {
  // mean 3, variance 4
  const auto outputs = OneNode("LayerNormalization")
                           .in(floats({1, 2}, {1, 5}))
                           .in(floats({2}, {10, 20}))
                           .in(floats({2}, {1, 2}))
                           .attr("epsilon", 0.0F)
                           .run(3);
  expect_near(outputs[0], {-9, 22});
  expect_near(outputs[1], {3});
  expect_near(outputs[2], {0.5F});
  EXPECT_EQ(outputs[1].shape, (Shape{1, 1}));
  expect_near(OneNode("LayerNormalization")
                  .in(floats({2}, {1, 5}))
                  .in(floats({2}, {1, 1}))
                  .attr("epsilon", 12.0F)
                  .one(),
              {-0.5F, 0.5F});
}

TEST(LayerNormalization, OverSeveralAxes) {
  expect_near(OneNode("LayerNormalization")
                  .in(floats({1, 2, 1}, {1, 5}))
                  .in(floats({2, 1}, {1, 2}))
                  .attr("axis", int64_t{1})
                  .attr("epsilon", 0.0F)
                  .one(),
              {-1, 2});
  EXPECT_EQ(
      OneNode("LayerNormalization").in(floats({2}, {1, 5})).in(floats({3}, {1, 1, 1})).error(),
      "Node \"the_node\" (LayerNormalization) of test.onnx: A weight of shape [3] does not "
      "fit rows of shape [2].");
}

TEST(CumSum, ForwardsBackwardsExclusive) {
  const Array x = ints({2, 3}, {1, 2, 3, 4, 5, 6});
  const auto sums = [&](int64_t axis, int64_t exclusive, int64_t reverse) {
    return values_i(OneNode("CumSum")
                        .in(x)
                        .in(ints({}, {axis}))
                        .attr("exclusive", exclusive)
                        .attr("reverse", reverse)
                        .one());
  };
  EXPECT_EQ(sums(1, 0, 0), (I{1, 3, 6, 4, 9, 15}));
  EXPECT_EQ(sums(0, 0, 0), (I{1, 2, 3, 5, 7, 9}));
  EXPECT_EQ(sums(-1, 1, 0), (I{0, 1, 3, 0, 4, 9}));
  EXPECT_EQ(sums(1, 0, 1), (I{6, 5, 3, 15, 11, 6}));
  EXPECT_EQ(sums(1, 1, 1), (I{5, 3, 0, 11, 6, 0}));
  EXPECT_EQ(values_f(OneNode("CumSum").in(floats({2}, {0.5F, 1})).in(ints({}, {0})).one()),
            (F{0.5F, 1.5F}));
  EXPECT_NE(OneNode("CumSum").in(x).in(ints({}, {2})).error(), "");
}

TEST(MatMul, Shapes) {
  const Array a = floats({2, 2}, {1, 2, 3, 4}), b = floats({2, 2}, {5, 6, 7, 8});
  EXPECT_EQ(values_f(OneNode("MatMul").in(a).in(b).one()), (F{19, 22, 43, 50}));
  const Array v = floats({2}, {1, 10});
  const Array left = OneNode("MatMul").in(v).in(a).one(),
              right = OneNode("MatMul").in(a).in(v).one();
  EXPECT_EQ(left.shape, (Shape{2}));
  EXPECT_EQ(values_f(left), (F{31, 42}));
  EXPECT_EQ(values_f(right), (F{21, 43}));
  EXPECT_EQ(OneNode("MatMul").in(v).in(v).one().shape, Shape{});
  EXPECT_EQ(OneNode("MatMul").in(a).in(floats({3, 1}, {1, 2, 3})).error(),
            "Node \"the_node\" (MatMul) of test.onnx: Matrices of shapes [2,2] and [3,1] cannot be "
            "multiplied.");
  EXPECT_NE(OneNode("MatMul").in(a).in(floats({}, {1})).error(), "");
  EXPECT_NE(OneNode("MatMul").in(a).in(ints({2, 1}, {1, 2})).error(), "");
}

TEST(MatMul, Batches) {
  const Array a = floats({2, 1, 1, 2}, {1, 2, 3, 4});
  const Array b = floats({3, 2, 1}, {1, 0, 0, 1, 1, 1});
  const Array c = OneNode("MatMul").in(a).in(b).one();
  EXPECT_EQ(c.shape, (Shape{2, 3, 1, 1}));
  EXPECT_EQ(values_f(c), (F{1, 2, 3, 3, 4, 7}));
  const Array shared = OneNode("MatMul").in(a).in(floats({1, 2, 1}, {1, 1})).one();
  EXPECT_EQ(shared.shape, (Shape{2, 1, 1, 1}));
  EXPECT_EQ(values_f(shared), (F{3, 7}));
  EXPECT_EQ(OneNode("MatMul").in(floats({2, 0}, {})).in(floats({0, 1}, {})).one().size(), 2);
  EXPECT_EQ(OneNode("MatMul").in(floats({0, 2}, {})).in(floats({2, 1}, {1, 1})).one().size(), 0);
}

// Against the plain triple loop, over sizes that cross the blocks of columns and of k.
TEST(MatMul, SizesWithTails) {
  for (const int64_t n : {1, 7, 255, 257, 600}) {
    for (const int64_t k : {1, 3, 4, 9}) {
      const int64_t m = 3;
      F a(static_cast<size_t>(m * k)), b(static_cast<size_t>(k * n));
      for (size_t i = 0; i < a.size(); ++i)
        a[i] = static_cast<float>(static_cast<int>(i * 7 % 11) - 5);
      for (size_t i = 0; i < b.size(); ++i)
        b[i] = static_cast<float>(static_cast<int>(i * 5 % 13) - 6);
      F wanted(static_cast<size_t>(m * n));
      for (int64_t i = 0; i < m; ++i) {
        for (int64_t j = 0; j < n; ++j) {
          for (int64_t kk = 0; kk < k; ++kk) {
            wanted[static_cast<size_t>(i * n + j)] +=
                a[static_cast<size_t>(i * k + kk)] * b[static_cast<size_t>(kk * n + j)];
          }
        }
      }
      ASSERT_EQ(values_f(OneNode("MatMul").in(floats({m, k}, a)).in(floats({k, n}, b)).one()),
                wanted)
          << "k " << k << " n " << n;
    }
  }
}

TEST(Gemm, TransposesScalesAndAdds) {
  const Array a = floats({2, 1}, {1, 2}), b = floats({3, 2}, {1, 2, 3, 4, 5, 6});
  const Array y = OneNode("Gemm")
                      .in(a)
                      .in(b)
                      .in(floats({3}, {1, 1, 1}))
                      .attr("transA", int64_t{1})
                      .attr("transB", int64_t{1})
                      .attr("alpha", 2.0F)
                      .attr("beta", 10.0F)
                      .one();
  EXPECT_EQ(y.shape, (Shape{1, 3}));
  EXPECT_EQ(values_f(y), (F{20, 32, 44}));
  const Array square = floats({2, 2}, {1, 2, 3, 4});
  EXPECT_EQ(values_f(OneNode("Gemm").in(square).in(square).in(floats({2, 1}, {1, 2})).one()),
            (F{8, 11, 17, 24}));
  EXPECT_EQ(values_f(OneNode("Gemm").in(square).in(square).one()), (F{7, 10, 15, 22}));
  EXPECT_NE(OneNode("Gemm").in(square).in(b).error(), "");
  EXPECT_NE(OneNode("Gemm").in(square).in(square).in(floats({3}, {1, 1, 1})).error(), "");
  EXPECT_NE(OneNode("Gemm").in(square).in(square).in(floats({1, 1, 1}, {1})).error(), "");
}

}  // namespace
}  // namespace nibble::test
