// Norms and activations of com.microsoft and newer opsets, against values worked out by hand.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/graph/one_node.h"

namespace nibble::test {
namespace {

using F = std::vector<float>;
using graph::Array;

TEST(ContribNorms, RmsInItsThreeNames) {
  for (const auto& [op, domain] : {std::pair{"RMSNormalization", ""},
                                   {"SimplifiedLayerNormalization", ""},
                                   {"SimplifiedLayerNormalization", "com.microsoft"}}) {
    OneNode node(op, domain);
    node.in(floats({1, 2}, {1, 7})).in(floats({2}, {1, 10})).attr("epsilon", 0.0F);
    expect_near(node.one(), {0.2F, 14});
  }
}

TEST(ContribNorms, RmsOverSeveralAxes) {
  OneNode node("RMSNormalization");
  node.in(floats({2, 1, 2}, {1, 7, 3, 4})).in(floats({1, 2}, {1, 1}));
  node.attr("axis", int64_t{1}).attr("epsilon", 0.0F);
  expect_near(node.one(), {0.2F, 1.4F, 3 / std::sqrt(12.5F), 4 / std::sqrt(12.5F)});
}

TEST(ContribNorms, SkipSimplifiedAddsFirst) {
  OneNode node("SkipSimplifiedLayerNormalization", "com.microsoft");
  node.in(floats({1, 1, 2}, {0, 4})).in(floats({1, 1, 2}, {1, 1})).in(floats({2}, {1, 10}));
  node.in(floats({2}, {0, 2})).attr("epsilon", 0.0F);
  const auto outputs = node.run(4);
  expect_near(outputs[0], {0.2F, 14});
  expect_near(outputs[3], {1, 7});
}

TEST(ContribNorms, SkipLayerHasTwoBiases) {
  OneNode node("SkipLayerNormalization", "com.microsoft");
  node.in(floats({1, 2, 2}, {0, 2, 0, 4})).in(floats({1, 2}, {1, 1})).in(floats({2}, {10, 20}));
  EXPECT_NE(node.error(), "");  // the skip lacks a token
  OneNode fits("SkipLayerNormalization", "com.microsoft");
  fits.in(floats({1, 1, 2}, {0, 2})).in(floats({1, 2}, {1, 1})).in(floats({2}, {10, 20}));
  fits.in(floats({2}, {1, 2})).in(floats({2}, {5, 7})).attr("epsilon", 0.0F);
  const auto outputs = fits.run(4);
  expect_near(outputs[0], {-9, 22});
  expect_near(outputs[3], {6, 10});
}

float activation(const char* op, const char* domain, float x) {
  return OneNode(op, domain).in(floats({1}, {x})).one().floats()[0];
}

TEST(ContribActivations, AgreeWithTheirDefinitions) {
  EXPECT_FLOAT_EQ(activation("Gelu", "com.microsoft", 1), 0.84134475F);
  EXPECT_FLOAT_EQ(activation("FastGelu", "com.microsoft", 1), 0.84119199F);
  EXPECT_FLOAT_EQ(activation("QuickGelu", "com.microsoft", 1), 0.84579577F);
  EXPECT_FLOAT_EQ(activation("Swish", "", 1), 0.73105858F);
  OneNode bias("BiasGelu", "com.microsoft");
  EXPECT_FLOAT_EQ(bias.in(floats({1, 1}, {0.5F})).in(floats({1}, {0.5F})).one().floats()[0],
                  0.84134475F);
  OneNode steep("Swish");
  EXPECT_FLOAT_EQ(steep.in(floats({1}, {1})).attr("alpha", 1.702F).one().floats()[0], 0.84579577F);
}

TEST(Einsum, SumsTheLettersThatTheOutputLacks) {
  const auto einsum = [](const char* equation) {
    OneNode node("Einsum");
    return node.attr("equation", std::string(equation));
  };
  const Array a = floats({2, 3}, {1, 2, 3, 4, 5, 6}), b = floats({2, 3}, {1, 0, 2, 0, 1, 3});
  expect_near(einsum("ik,jk->ij").in(a).in(b).one(), {7, 11, 16, 23});
  expect_near(einsum(" ik , jk -> ji ").in(a).in(b).one(), {7, 16, 11, 23});
  expect_near(einsum("ij,ij").in(a).in(b).one(), {1 + 6 + 5 + 18});
  expect_near(einsum("ij->j").in(a).one(), {5, 7, 9});
  expect_near(einsum("ii").in(floats({2, 2}, {1, 2, 3, 4})).one(), {5});
  const Array found = einsum("i,j->ji").in(floats({2}, {1, 2})).in(floats({3}, {1, 10, 100})).one();
  EXPECT_EQ(found.shape, (graph::Shape{3, 2}));
  expect_near(found, {1, 2, 10, 20, 100, 200});
  EXPECT_NE(einsum("i...->i").in(a).error().find("'.'"), std::string::npos);
  EXPECT_NE(einsum("ij->k").in(a).error().find("'k'"), std::string::npos);
  EXPECT_NE(einsum("ij,jk->ik").in(a).in(b).error().find("3 and 2"), std::string::npos);
  EXPECT_NE(einsum("i->i").in(a).error().find("[2,3]"), std::string::npos);
}

TEST(ContribProducts, FusedMatMulTransposesAndScales) {
  const F a = {1, 2, 3, 4, 5, 6}, b = {1, 0, 2, 0, 1, 3};
  const auto product = [&](int64_t swap_a, int64_t swap_b) {
    OneNode node("FusedMatMul", "com.microsoft");
    node.in(swap_a != 0 ? floats({1, 3, 2}, {1, 4, 2, 5, 3, 6}) : floats({1, 2, 3}, a));
    node.in(swap_b != 0 ? floats({2, 3}, b) : floats({3, 2}, {1, 0, 0, 1, 2, 3}));
    return node.attr("transA", swap_a).attr("transB", swap_b).attr("alpha", 0.5F).one();
  };
  for (const int64_t swap_a : {0, 1}) {
    for (const int64_t swap_b : {0, 1}) {
      const Array found = product(swap_a, swap_b);
      EXPECT_EQ(found.shape, (graph::Shape{1, 2, 2}));
      expect_near(found, {3.5F, 5.5F, 8, 11.5F});
    }
  }
  OneNode batches("FusedMatMul", "com.microsoft");
  batches.in(floats({1, 1, 1}, {1})).in(floats({1, 1, 1}, {1})).attr("transBatchA", int64_t{1});
  EXPECT_NE(batches.error().find("transBatchA"), std::string::npos);
}

TEST(ContribProducts, FusedGemmEndsInItsActivation) {
  const auto gemm = [](const char* activation) {
    OneNode node("FusedGemm", "com.microsoft");
    node.in(floats({1, 2}, {1, -2})).in(floats({2, 2}, {1, 1, 1, -1})).in(floats({2}, {0, 1}));
    return node.attr("activation", std::string(activation));
  };
  expect_near(gemm("Relu").one(), {0, 4});
  expect_near(gemm("Tanh").one(), {std::tanh(-1.0F), std::tanh(4.0F)});
  expect_near(gemm("Sigmoid").one(), {0.26894142F, 0.98201379F});
  EXPECT_NE(gemm("Elu").error().find("Elu"), std::string::npos);
}

}  // namespace
}  // namespace nibble::test
