// Norms and activations of com.microsoft and newer opsets, against values worked out by hand.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/graph/one_node.h"

namespace nibble::test {
namespace {

using F = std::vector<float>;
using graph::Array;

void expect_near(const Array& found, const F& wanted, float tolerance = 1e-6F) {
  ASSERT_EQ(found.floats().size(), wanted.size());
  for (size_t i = 0; i < wanted.size(); ++i) EXPECT_NEAR(found.floats()[i], wanted[i], tolerance);
}

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

}  // namespace
}  // namespace nibble::test
