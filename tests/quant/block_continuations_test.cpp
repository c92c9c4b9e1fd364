// Scores of continuations block after block, against the rows of block_logits, which runs each text
// by itself.
#include "quant/blocks/block_continuations.h"

#include <gtest/gtest.h>

#include "jit/error.h"
#include "quant/blocks/block_logits.h"
#include "tests/quant/fused_fixture.h"
#include "tests/support/error_of.h"

namespace nibble::test {
namespace {

using quant::Continuation;
using quant::ContinuationScore;

constexpr int64_t kVocabulary = 50;

const graph::Graph& model() {
  static const graph::Graph graph = llama_graph(2, 32, 64, kVocabulary);
  return graph;
}

// Of many lengths, so that batches are padded.
std::vector<Continuation> some_items(int64_t count) {
  std::vector<Continuation> items;
  for (int64_t i = 0; i < count; ++i) {
    const auto seed = static_cast<uint32_t>(i);
    items.push_back({random_ids(1 + i * 7 % 23, kVocabulary, seed),
                     random_ids(1 + i % 4, kVocabulary, seed + 100)});
  }
  return items;
}

TEST(BlockContinuations, AreThoseOfTheLogits) {
  const std::vector<Continuation> items = some_items(40);
  runtime::ThreadPool pool(2), one(1);
  int64_t last = 0, all = 0;
  const auto scores =
      quant::block_continuations(model(), items, pool, [&](int64_t done, int64_t total) {
        EXPECT_GE(done, last);
        EXPECT_LE(done, total);
        last = done, all = total;
      });
  EXPECT_EQ(last, all);
  ASSERT_EQ(scores.size(), items.size());
  int64_t greedy = 0;
  for (size_t i = 0; i < items.size(); ++i) {
    std::vector<int32_t> ids = items[i].context;
    ids.insert(ids.end(), items[i].continuation.begin(), items[i].continuation.end());
    const auto rows = quant::block_logits(
        model(), ids, {.window = std::max<int64_t>(2, std::ssize(ids))}, pool, {});
    double log_prob = 0;
    bool likeliest = true;
    for (size_t c = 0; c < items[i].continuation.size(); ++c) {
      const auto row = static_cast<int64_t>(items[i].context.size() - 1 + c);
      log_prob -= rows.nll(row);
      likeliest = likeliest && rows.summary(row).best == items[i].continuation[c];
    }
    EXPECT_NEAR(scores[i].log_prob, log_prob, 1e-5) << i;
    EXPECT_EQ(scores[i].greedy, likeliest) << i;
    greedy += scores[i].greedy ? 1 : 0;
  }
  EXPECT_LT(greedy, 40);
  // The same bits on another number of threads, and whatever else is asked.
  for (size_t i = 0; i < items.size(); i += 13) {
    const auto alone = quant::block_continuations(model(), std::span(items).subspan(i, 1), one, {});
    EXPECT_EQ(alone[0].log_prob, scores[i].log_prob) << i;
  }
}

TEST(BlockContinuations, FindWhatIsLikeliest) {
  runtime::ThreadPool pool(1);
  const std::vector<int32_t> context = {3, 1, 4};
  const auto rows =
      quant::block_logits(model(), std::vector<int32_t>{3, 1, 4, 0}, {.window = 4}, pool, {});
  const int32_t best = rows.summary(2).best;
  const std::vector<Continuation> items = {{context, {best}}, {context, {(best + 1) % 50}}};
  const auto scores = quant::block_continuations(model(), items, pool, {});
  EXPECT_TRUE(scores[0].greedy);
  EXPECT_FALSE(scores[1].greedy);
  EXPECT_GT(scores[0].log_prob, scores[1].log_prob);
}

TEST(BlockContinuations, WhatIsMissingIsSaid) {
  runtime::ThreadPool pool(1);
  const std::vector<Continuation> empty = {{{1}, {2}}, {{1}, {}}};
  EXPECT_NE(
      error_of([&] { quant::block_continuations(model(), empty, pool, {}); }).find("found 1 and 0"),
      std::string::npos);
  const std::vector<Continuation> outside = {{{1}, {50}}};
  EXPECT_NE(error_of([&] {
              quant::block_continuations(model(), outside, pool, {});
            }).find("The id 50 of a continuation"),
            std::string::npos);
  EXPECT_TRUE(quant::block_continuations(model(), {}, pool, {}).empty());
}

}  // namespace
}  // namespace nibble::test
