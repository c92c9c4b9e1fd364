#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "tests/graph/one_node.h"
#include "tests/support/not_finite.h"

namespace nibble::test {
namespace {

using F = std::vector<float>;
using I = std::vector<int64_t>;
using Kind = graph::Array::Kind;

F binary(const std::string& op, F a, F b) {
  const auto n = static_cast<int64_t>(a.size()), m = static_cast<int64_t>(b.size());
  return values_f(OneNode(op).in(floats({n}, std::move(a))).in(floats({m}, std::move(b))).one());
}
I binary_i(const std::string& op, I a, I b) {
  const auto n = static_cast<int64_t>(a.size()), m = static_cast<int64_t>(b.size());
  return values_i(OneNode(op).in(ints({n}, std::move(a))).in(ints({m}, std::move(b))).one());
}
float unary(const std::string& op, float x) {
  return values_f(OneNode(op).in(floats({}, {x})).one())[0];
}

TEST(Elementwise, Arithmetic) {
  EXPECT_EQ(binary("Add", {1, 2}, {10, 20}), (F{11, 22}));
  EXPECT_EQ(binary("Sub", {1, 2}, {10, 20}), (F{-9, -18}));
  EXPECT_EQ(binary("Mul", {1, 2}, {10, 20}), (F{10, 40}));
  EXPECT_EQ(binary("Div", {1, 2}, {4, 0}), (F{0.25F, kInfinity}));
  EXPECT_EQ(binary("Pow", {3, 2, 4}, {2, 3, 0.5F}), (F{9, 8, 2}));
  EXPECT_EQ(binary_i("Add", {1, 2}, {10, 20}), (I{11, 22}));
  EXPECT_EQ(binary_i("Sub", {1, 2}, {10, 20}), (I{-9, -18}));
  EXPECT_EQ(binary_i("Mul", {3, -2}, {10, 20}), (I{30, -40}));
  EXPECT_EQ(binary_i("Div", {7, -7, 7}, {2, 2, -1}), (I{3, -3, -7}));  // towards zero
  EXPECT_EQ(binary_i("Pow", {3, 2, -1}, {4, 0, -3}), (I{81, 1, -1}));
  EXPECT_EQ(binary_i("Mod", {7, -7, 7, -7}, {3, 3, -3, -3}), (I{1, 2, -2, -1}));
  EXPECT_EQ(
      values_i(
          OneNode("Mod").in(ints({2}, {7, -7})).in(ints({}, {3})).attr("fmod", int64_t{1}).one()),
      (I{1, -1}));
  EXPECT_EQ(
      values_f(
          OneNode("Mod").in(floats({1}, {-7})).in(floats({}, {3})).attr("fmod", int64_t{1}).one()),
      (F{-1}));
}

TEST(Elementwise, IntegersWrapInsteadOfOverflowing) {
  constexpr int64_t kMax = std::numeric_limits<int64_t>::max();
  constexpr int64_t kMin = std::numeric_limits<int64_t>::min();
  EXPECT_EQ(binary_i("Add", {kMax}, {1}), (I{kMin}));
  EXPECT_EQ(binary_i("Sub", {kMin}, {1}), (I{kMax}));
  EXPECT_EQ(binary_i("Mul", {kMax}, {2}), (I{-2}));
  EXPECT_EQ(binary_i("Div", {kMin}, {-1}), (I{kMin}));
  EXPECT_EQ(binary_i("Mod", {kMin}, {-1}), (I{0}));
}

TEST(Elementwise, PowTakesTheBasesType) {
  const auto result = OneNode("Pow").in(ints({2}, {4, 9})).in(floats({}, {0.5F})).one();
  EXPECT_EQ(result.kind, Kind::i64);
  EXPECT_EQ(values_i(result), (I{2, 3}));
  EXPECT_EQ(values_f(OneNode("Pow").in(floats({1}, {1.5F})).in(ints({}, {2})).one()), (F{2.25F}));
}

TEST(Elementwise, Broadcasts) {
  const auto a = floats({2, 1, 3}, {1, 2, 3, 4, 5, 6}), b = floats({2, 1}, {10, 20});
  const auto sum = OneNode("Add").in(a).in(b).one();
  EXPECT_EQ(sum.shape, (graph::Shape{2, 2, 3}));
  EXPECT_EQ(values_f(sum), (F{11, 12, 13, 21, 22, 23, 14, 15, 16, 24, 25, 26}));
  EXPECT_EQ(values_f(OneNode("Sub").in(floats({}, {1})).in(a).one()), (F{0, -1, -2, -3, -4, -5}));
  const auto empty = OneNode("Add").in(floats({0, 3}, {})).in(floats({3}, {1, 2, 3})).one();
  EXPECT_EQ(empty.shape, (graph::Shape{0, 3}));
  EXPECT_EQ(OneNode("Add").in(floats({2}, {1, 2})).in(floats({3}, {1, 2, 3})).error(),
            "Node \"the_node\" (Add) of test.onnx: The shapes [2] and [3] cannot be broadcast "
            "together.");
}

TEST(Elementwise, MaxMinAndSumOfMany) {
  const auto three = [](const std::string& op) {
    return values_f(
        OneNode(op).in(floats({2}, {1, 5})).in(floats({}, {3})).in(floats({1}, {2})).one());
  };
  EXPECT_EQ(three("Max"), (F{3, 5}));
  EXPECT_EQ(three("Min"), (F{1, 2}));
  EXPECT_EQ(three("Sum"), (F{6, 10}));
  EXPECT_EQ(binary_i("Max", {1, 7}, {4, 4}), (I{4, 7}));
  for (const char* op : {"Max", "Min"}) {
    EXPECT_TRUE(std::isnan(binary(op, {kNaN}, {1})[0])) << op;
    EXPECT_TRUE(std::isnan(binary(op, {1}, {kNaN})[0])) << op;
  }
}

TEST(Elementwise, Comparisons) {
  const auto compare = [](const std::string& op) {
    const auto of_floats = OneNode(op).in(floats({3}, {1, 2, 3})).in(floats({}, {2})).one();
    EXPECT_EQ(of_floats.kind, Kind::boolean);
    EXPECT_EQ(values_i(OneNode(op).in(ints({3}, {1, 2, 3})).in(ints({}, {2})).one()),
              values_i(of_floats));
    return values_i(of_floats);
  };
  EXPECT_EQ(compare("Equal"), (I{0, 1, 0}));
  EXPECT_EQ(compare("Less"), (I{1, 0, 0}));
  EXPECT_EQ(compare("LessOrEqual"), (I{1, 1, 0}));
  EXPECT_EQ(compare("Greater"), (I{0, 0, 1}));
  EXPECT_EQ(compare("GreaterOrEqual"), (I{0, 1, 1}));
  EXPECT_EQ(values_i(OneNode("Equal").in(bools({2}, {1, 0})).in(bools({2}, {1, 1})).one()),
            (I{1, 0}));
}

TEST(Elementwise, Logic) {
  const auto logic = [](const std::string& op) {
    return values_i(OneNode(op).in(bools({4}, {0, 0, 1, 1})).in(bools({4}, {0, 1, 0, 1})).one());
  };
  EXPECT_EQ(logic("And"), (I{0, 0, 0, 1}));
  EXPECT_EQ(logic("Or"), (I{0, 1, 1, 1}));
  EXPECT_EQ(logic("Xor"), (I{0, 1, 1, 0}));
  EXPECT_EQ(values_i(OneNode("Not").in(bools({2}, {0, 1})).one()), (I{1, 0}));
  EXPECT_NE(OneNode("And").in(ints({1}, {1})).in(bools({1}, {1})).error(), "");
  EXPECT_NE(OneNode("Not").in(ints({1}, {1})).error(), "");
}

TEST(Elementwise, WhereBroadcastsAllThree) {
  const auto result = OneNode("Where")
                          .in(bools({2, 1}, {1, 0}))
                          .in(floats({3}, {1, 2, 3}))
                          .in(floats({}, {9}))
                          .one();
  EXPECT_EQ(result.shape, (graph::Shape{2, 3}));
  EXPECT_EQ(values_f(result), (F{1, 2, 3, 9, 9, 9}));
  EXPECT_EQ(
      values_i(OneNode("Where").in(bools({2}, {0, 1})).in(ints({}, {1})).in(ints({}, {2})).one()),
      (I{2, 1}));
  EXPECT_NE(OneNode("Where").in(ints({1}, {1})).in(ints({}, {1})).in(ints({}, {2})).error(), "");
}

TEST(Elementwise, Functions) {
  EXPECT_EQ(unary("Neg", 2), -2);
  EXPECT_EQ(unary("Abs", -2), 2);
  EXPECT_EQ(unary("Sign", -2), -1);
  EXPECT_EQ(unary("Sqrt", 9), 3);
  EXPECT_EQ(unary("Reciprocal", 4), 0.25F);
  EXPECT_FLOAT_EQ(unary("Exp", 1), 2.7182818F);
  EXPECT_FLOAT_EQ(unary("Log", 2.7182818F), 1);
  EXPECT_FLOAT_EQ(unary("Sin", 1), 0.84147098F);
  EXPECT_FLOAT_EQ(unary("Cos", 1), 0.54030231F);
  EXPECT_FLOAT_EQ(unary("Tanh", 0.5F), 0.46211716F);
  EXPECT_FLOAT_EQ(unary("Erf", 0.5F), 0.52049988F);
  EXPECT_FLOAT_EQ(unary("Sigmoid", 2), 0.88079708F);
  EXPECT_FLOAT_EQ(unary("Softplus", 1), 1.3132617F);
  EXPECT_EQ(unary("Relu", -1), 0);
  EXPECT_EQ(unary("Relu", 3), 3);
  EXPECT_EQ(unary("Floor", -1.5F), -2);
  EXPECT_EQ(unary("Ceil", -1.5F), -1);
  EXPECT_EQ(unary("Round", 2.5F), 2);  // to even
  EXPECT_FLOAT_EQ(unary("Gelu", 1), 0.84134475F);
  EXPECT_FLOAT_EQ(
      values_f(
          OneNode("Gelu").in(floats({}, {1})).attr("approximate", std::string("tanh")).one())[0],
      0.84119199F);
  EXPECT_EQ(values_i(OneNode("Neg").in(ints({2}, {3, -4})).one()), (I{-3, 4}));
  EXPECT_EQ(values_i(OneNode("IsNaN").in(floats({3}, {1, kNaN, kInfinity})).one()), (I{0, 1, 0}));
  EXPECT_EQ(values_i(OneNode("IsInf").in(floats({3}, {1, kNaN, -kInfinity})).one()), (I{0, 0, 1}));
  EXPECT_NE(OneNode("Sqrt").in(ints({1}, {4})).error(), "");
}

TEST(Elementwise, Clip) {
  const auto x = floats({3}, {-5, 0, 5});
  EXPECT_EQ(values_f(OneNode("Clip").in(x).in(floats({}, {-1})).in(floats({}, {2})).one()),
            (F{-1, 0, 2}));
  EXPECT_EQ(values_f(OneNode("Clip").in(x).absent().in(floats({}, {2})).one()), (F{-5, 0, 2}));
}

TEST(Elementwise, Cast) {
  const auto cast = [](graph::Array x, int64_t to) {
    return OneNode("Cast").in(std::move(x)).attr("to", to).one();
  };
  EXPECT_EQ(values_i(cast(floats({4}, {1.9F, -1.9F, 0, kNaN}), 7)), (I{1, -1, 0, 0}));
  EXPECT_EQ(values_i(cast(floats({2}, {1e30F, -kInfinity}), 7)),
            (I{std::numeric_limits<int64_t>::max(), std::numeric_limits<int64_t>::min()}));
  EXPECT_EQ(values_f(cast(ints({2}, {3, -4}), 1)), (F{3, -4}));
  EXPECT_EQ(values_f(cast(bools({2}, {1, 0}), 1)), (F{1, 0}));
  EXPECT_EQ(values_f(cast(floats({2}, {1.0001F, -3.4e38F}), 10)), (F{1.0001F, -3.4e38F}));
  const auto booleans = cast(floats({3}, {0, 0.5F, kNaN}), 9);
  EXPECT_EQ(booleans.kind, Kind::boolean);
  EXPECT_EQ(values_i(booleans), (I{0, 1, 1}));
  EXPECT_EQ(values_i(cast(ints({2}, {300, -1}), 2)), (I{44, 255}));
  EXPECT_EQ(values_i(cast(ints({1}, {200}), 3)), (I{-56}));
  EXPECT_EQ(values_i(cast(ints({1}, {(1LL << 32) + 5}), 6)), (I{5}));
  EXPECT_EQ(cast(bools({1}, {1}), 7).kind, Kind::i64);
  EXPECT_NE(OneNode("Cast").in(floats({1}, {1})).attr("to", int64_t{8}).error(), "");
}

TEST(Elementwise, ErrorsNameNodeAndOperator) {
  EXPECT_EQ(OneNode("Div").in(ints({1}, {1})).in(ints({1}, {0})).error(),
            "Node \"the_node\" (Div) of test.onnx: An integer is divided by zero.");
  EXPECT_EQ(OneNode("Mod").in(ints({1}, {1})).in(ints({1}, {0})).error(),
            "Node \"the_node\" (Mod) of test.onnx: An integer is divided by zero.");
  EXPECT_EQ(OneNode("Add").in(ints({1}, {1})).in(floats({1}, {0})).error(),
            "Node \"the_node\" (Add) of test.onnx: The operands are of different types (one float, "
            "integer or boolean, the other not).");
  EXPECT_EQ(OneNode("Add").in(ints({1}, {1})).error(),
            "Node \"the_node\" (Add) of test.onnx: Input 1 is missing.");
}

}  // namespace
}  // namespace nibble::test
