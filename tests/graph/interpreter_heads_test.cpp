// Attention, GroupQueryAttention and RotaryEmbedding on cases small enough to work out by hand:
// with queries of zero every visible position counts the same, so a result is a mean of values.
#include <gtest/gtest.h>

#include <cmath>

#include "tests/graph/one_node.h"

namespace nibble::test {
namespace {

using F = std::vector<float>;
using graph::Array;
using graph::Shape;

Array zeros(Shape shape) {
  const auto count = static_cast<size_t>(graph::element_count(shape));
  return Array::of(std::move(shape), F(count, 0.0F));
}

// Opset 23: one head of one dimension.
OneNode attention(int64_t length, F values) {
  OneNode node("Attention");
  const auto total = static_cast<int64_t>(values.size());
  node.in(zeros({1, 1, length, 1})).in(zeros({1, 1, total, 1}));
  node.in(floats({1, 1, total, 1}, std::move(values)));
  return node;
}

TEST(StandardAttention, TakesTheMeanOfWhatIsVisible) {
  expect_near(attention(2, {3, 6, 9}).one(), {6, 6});
  // Causal: the last token sees all.
  expect_near(attention(2, {3, 6, 9}).attr("is_causal", int64_t{1}).one(), {4.5F, 6});
}

TEST(StandardAttention, MasksHideOrAdd) {
  const Array hides = Array::of_bool({2, 3}, {1, 0, 1, 0, 0, 0});
  expect_near(attention(2, {3, 6, 9}).in(hides).one(), {6, 0});  // a row that sees nothing gives 0
  const Array adds = floats({1, 1, 1, 3}, {0, std::log(2.0F), 0});
  expect_near(attention(1, {4, 8, 12}).in(adds).one(), {8});
  const Array shorter = Array::of_bool({1, 2}, {1, 1});  // what lies past a mask is hidden
  expect_near(attention(1, {3, 6, 9}).in(shorter).one(), {4.5F});
}

TEST(StandardAttention, ScalesAndCapsBeforeTheMask) {
  const auto scored = [](float scale, float cap) {
    OneNode node("Attention");
    node.in(floats({1, 1, 1, 1}, {2})).in(floats({1, 1, 2, 1}, {0, 3}));
    node.in(floats({1, 1, 2, 1}, {0, 1})).attr("scale", scale).attr("softcap", cap);
    return node.one().floats()[0];
  };
  EXPECT_NEAR(scored(0.5F, 0), 1 / (1 + std::exp(-3.0)), 1e-6);
  EXPECT_NEAR(scored(0.5F, 2), 1 / (1 + std::exp(-2 * std::tanh(1.5))), 1e-6);
}

TEST(StandardAttention, ThreeDimensionsSplitIntoHeads) {
  OneNode node("Attention");
  node.in(zeros({1, 1, 4})).in(zeros({1, 2, 2})).in(floats({1, 2, 2}, {1, 10, 3, 30}));
  node.attr("q_num_heads", int64_t{4}).attr("kv_num_heads", int64_t{2});
  const auto outputs = node.run(3);
  EXPECT_EQ(outputs[0].shape, (Shape{1, 1, 4}));
  expect_near(outputs[0], {2, 2, 20, 20});
  EXPECT_EQ(outputs[2].shape, (Shape{1, 2, 2, 1}));
  expect_near(outputs[2], {1, 3, 10, 30});
}

TEST(StandardAttention, AppendsToItsCache) {
  OneNode node("Attention");
  node.in(zeros({1, 1, 1, 1})).in(floats({1, 1, 1, 1}, {7})).in(floats({1, 1, 1, 1}, {9}));
  node.absent().in(floats({1, 1, 2, 1}, {5, 6})).in(floats({1, 1, 2, 1}, {1, 2}));
  const auto outputs = node.attr("is_causal", int64_t{1}).run(3);
  expect_near(outputs[0], {4});
  expect_near(outputs[1], {5, 6, 7});
  expect_near(outputs[2], {1, 2, 9});
}

TEST(StandardAttention, ShapesThatDoNotFitAreErrors) {
  OneNode node("Attention");
  node.in(zeros({1, 3, 1, 2})).in(zeros({1, 2, 1, 2})).in(zeros({1, 2, 1, 2}));
  EXPECT_NE(node.error().find("do not fit"), std::string::npos);
}

// One head of two dimensions, turned a quarter at position 1.
const F kCos = {1, 0, -1}, kSin = {0, 1, 0};

TEST(RotaryEmbedding, TurnsByTheTokensPosition) {
  OneNode standard("RotaryEmbedding");
  standard.in(floats({1, 1, 2, 2}, {3, 4, 3, 4})).in(floats({3, 1}, kCos)).in(floats({3, 1}, kSin));
  expect_near(standard.in(ints({1, 2}, {1, 2})).one(), {-4, 3, -3, -4});
  OneNode rows("RotaryEmbedding");  // tables of a row a token need no positions
  rows.in(floats({1, 1, 2, 2}, {3, 4, 3, 4}));
  expect_near(rows.in(floats({1, 2, 1}, {0, -1})).in(floats({1, 2, 1}, {1, 0})).one(),
              {-4, 3, -3, -4});
  OneNode microsoft("RotaryEmbedding", "com.microsoft");
  microsoft.in(floats({1, 2, 2}, {3, 4, 3, 4})).in(ints({1}, {1}));
  expect_near(microsoft.in(floats({3, 1}, kCos)).in(floats({3, 1}, kSin)).one(), {-4, 3, -3, -4});
}

TEST(RotaryEmbedding, InterleavedAndPartial) {
  const auto turn = [](int64_t interleaved, F x) {
    const auto dim = static_cast<int64_t>(x.size());
    OneNode node("RotaryEmbedding");
    node.in(floats({1, 1, 1, dim}, std::move(x))).in(floats({1, 2}, {0, 1}));
    node.in(floats({1, 2}, {1, 0})).in(ints({1, 1}, {0}));
    node.attr("interleaved", interleaved).attr("rotary_embedding_dim", int64_t{4});
    return node.one();
  };
  expect_near(turn(0, {1, 2, 3, 4, 5}), {-3, 2, 1, 4, 5});
  expect_near(turn(1, {1, 2, 3, 4, 5}), {-2, 1, 3, 4, 5});
}

TEST(RotaryEmbedding, PositionsOutsideTheTableAreErrors) {
  OneNode node("RotaryEmbedding");
  node.in(zeros({1, 1, 1, 2})).in(floats({3, 1}, kCos)).in(floats({3, 1}, kSin));
  EXPECT_NE(node.in(ints({1, 1}, {3})).error().find("position 3 is outside"), std::string::npos);
}

// Two query heads of two dimensions on one key and value head, rows [Q | K | V], after `past`.
OneNode grouped(const F& values, const F& past) {
  const auto length = static_cast<int64_t>(values.size());
  const auto cached = static_cast<int64_t>(past.size());
  OneNode node("GroupQueryAttention", "com.microsoft");
  F rows;
  for (const float v : values) rows.insert(rows.end(), {0, 0, 0, 0, 3, 4, v, 2 * v});
  F past_values;
  for (const float v : past) past_values.insert(past_values.end(), {v, 2 * v});
  node.in(floats({1, length, 8}, rows)).absent().absent();
  node.in(zeros({1, 1, cached, 2})).in(floats({1, 1, cached, 2}, past_values));
  node.in(ints({1}, {cached + length - 1})).in(ints({}, {cached + length}));
  node.attr("num_heads", int64_t{2}).attr("kv_num_heads", int64_t{1});
  return node;
}

TEST(GroupQueryAttention, IsCausalOverItsCache) {
  const auto outputs = grouped({3, 6}, {9}).run(3);
  EXPECT_EQ(outputs[0].shape, (Shape{1, 2, 4}));
  expect_near(outputs[0], {6, 12, 6, 12, 6, 12, 6, 12});
  expect_near(outputs[2], {9, 18, 3, 6, 6, 12});
}

TEST(GroupQueryAttention, TheWindowIncludesTheToken) {
  OneNode node = grouped({1, 2, 4, 8}, {});
  const Array out = node.attr("local_window_size", int64_t{2}).one();
  for (const auto& [s, mean] : {std::pair<size_t, float>{0, 1}, {1, 1.5F}, {2, 3}, {3, 6}}) {
    EXPECT_NEAR(out.floats()[s * 4], mean, 1e-6F) << s;
  }
}

TEST(GroupQueryAttention, TurnsQueriesAndKeys) {
  OneNode node = grouped({1}, {5});
  node.in(floats({3, 1}, kCos)).in(floats({3, 1}, kSin)).attr("do_rotary", int64_t{1});
  const auto outputs = node.run(2);
  expect_near(outputs[1], {0, 0, -4, 3});  // position 1, after one in the cache
}

TEST(GroupQueryAttention, BiasAndSinks) {
  OneNode biased = grouped({4, 8}, {});
  biased.absent().absent().absent().in(floats({1, 1, 2, 2}, {0, 0, 0, std::log(3.0F)}));
  expect_near(biased.one(), {4, 8, 4, 8, 7, 14, 7, 14});
  OneNode sinks = grouped({6}, {});
  sinks.absent().absent().absent().absent().in(floats({2}, {0, std::log(2.0F)}));
  expect_near(sinks.one(), {3, 6, 2, 4});
  expect_near(grouped({6}, {}).attr("smooth_softmax", int64_t{1}).one(), {3, 6, 3, 6});
}

TEST(GroupQueryAttention, NormalisesHeads) {
  OneNode node = grouped({1}, {});
  for (int i = 7; i <= 13; ++i) node.absent();
  node.in(floats({2}, {1, 1})).in(floats({2}, {1, 10})).attr("qk_norm_epsilon", 0.0F);
  const float root = std::sqrt(12.5F);  // of the mean square of 3 and 4
  expect_near(node.run(2)[1], {3 / root, 40 / root}, 1e-5F);
}

TEST(GroupQueryAttention, SeparateKeysAndValues) {
  OneNode node("GroupQueryAttention", "com.microsoft");
  node.in(zeros({1, 1, 4})).in(zeros({1, 1, 2})).in(floats({1, 1, 2}, {5, 6})).absent().absent();
  node.in(ints({1}, {0})).in(ints({}, {1}));
  node.attr("num_heads", int64_t{2}).attr("kv_num_heads", int64_t{1});
  expect_near(node.one(), {5, 6, 5, 6});
}

TEST(GroupQueryAttention, AQuantizedCacheIsRefused) {
  OneNode node = grouped({1}, {});
  for (int i = 7; i <= 11; ++i) node.absent();
  node.in(floats({1}, {1}));
  EXPECT_NE(node.error().find("quantized KV cache (k_scale)"), std::string::npos);
}

}  // namespace
}  // namespace nibble::test
