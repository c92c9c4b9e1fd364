#include "quant/scores/continuations.h"

#include <gtest/gtest.h>

#include <limits>
#include <string>
#include <vector>

#include "jit/error.h"
#include "tests/quant/scripted_decoder.h"

namespace nibble::quant {
namespace {

using Ids = std::vector<int32_t>;

double expected(Ids context, const Ids& continuation) {
  double sum = 0;
  for (const int32_t id : continuation) {
    sum -= scripted_nll(context, id, kVocabulary);
    context.push_back(id);
  }
  return sum;
}

int32_t likeliest(const Ids& context) {
  const auto logits = scripted_logits(context, kVocabulary);
  return static_cast<int32_t>(std::max_element(logits.begin(), logits.end()) - logits.begin());
}

TEST(Continuations, SumTheirLogProbabilities) {
  ScriptedDecoder decoder(kVocabulary);
  ContinuationScorer scorer(decoder);
  const Ids context = {3, 1, 4, 1, 5};
  for (const Ids& continuation : {Ids{9}, Ids{9, 2}, Ids{9, 2, 6, 5}, Ids{2, 7}}) {
    EXPECT_NEAR(scorer.score(context, continuation).log_prob, expected(context, continuation),
                1e-5);
  }
  EXPECT_NEAR(scorer.score(Ids{3}, Ids{1, 4}).log_prob, expected({3}, {1, 4}), 1e-5);
}

TEST(Continuations, SharedBeginningsAreRunOnce) {
  ScriptedDecoder decoder(kVocabulary);
  ContinuationScorer scorer(decoder);
  const Ids context = {3, 1, 4, 1, 5, 9, 2, 6};
  scorer.score(context, Ids{10, 11, 12});
  EXPECT_EQ(decoder.fed, 10);  // 8 and 3, but for the very last
  scorer.score(context, Ids{20, 21});
  EXPECT_EQ(decoder.fed, 12);  // the context's last, whose logits are needed again, and one
  Ids other = context;
  other[6] = 40;
  scorer.score(other, Ids{20});
  EXPECT_EQ(decoder.fed, 14);
  EXPECT_EQ(scorer.ids_run(), decoder.fed);
}

// Shared or not, held in whatever way: the same figures.
TEST(Continuations, WhatWasScoredBeforeDoesNotMatter) {
  const std::vector<std::pair<Ids, Ids>> questions = {
      {{1, 2, 3}, {4, 5}}, {{1, 2, 3}, {4, 6}},    {{1, 2, 3, 4}, {5}}, {{1, 2}, {3, 4, 5}},
      {{9, 2, 3}, {4, 5}}, {{1, 2, 3, 4, 5}, {6}}, {{1}, {2}},          {{1}, {2}}};
  for (const bool can_rewind : {true, false}) {
    ScriptedDecoder decoder(kVocabulary);
    decoder.can_rewind = can_rewind;
    ContinuationScorer scorer(decoder);
    for (const auto& [context, continuation] : questions) {
      ScriptedDecoder fresh(kVocabulary);
      const auto alone = ContinuationScorer(fresh).score(context, continuation);
      EXPECT_EQ(scorer.score(context, continuation).log_prob, alone.log_prob);
      EXPECT_NEAR(alone.log_prob, expected(context, continuation), 1e-5);
    }
  }
}

TEST(Continuations, GreedyMeansEveryId) {
  ScriptedDecoder decoder(kVocabulary);
  ContinuationScorer scorer(decoder);
  Ids context = {3, 1}, best;
  for (int i = 0; i < 3; ++i) {
    Ids all = context;
    all.insert(all.end(), best.begin(), best.end());
    best.push_back(likeliest(all));
  }
  EXPECT_TRUE(scorer.score(context, best).greedy);
  for (size_t i = 0; i < 3; ++i) {
    Ids other = best;
    other[i] = (other[i] + 1) % 50;
    EXPECT_FALSE(scorer.score(context, other).greedy) << i;
  }
}

TEST(Continuations, LongContextsLoseTheirFront) {
  ScriptedDecoder decoder(kVocabulary, 6);
  ContinuationScorer scorer(decoder);
  const Ids continuation = {30, 31, 32};
  const auto fits = scorer.score(Ids{1, 2, 3, 4}, continuation);
  EXPECT_FALSE(fits.truncated);
  const auto cut = scorer.score(Ids{8, 9, 1, 2, 3, 4}, continuation);
  EXPECT_TRUE(cut.truncated);
  EXPECT_EQ(cut.log_prob, fits.log_prob);
  EXPECT_NEAR(scorer.score(Ids{1, 2}, Ids{1, 2, 3, 4, 5, 6}).log_prob,
              expected({2}, {1, 2, 3, 4, 5, 6}), 1e-5);
  EXPECT_THROW(scorer.score(Ids{1}, Ids(7, 1)), Error);
}

TEST(Continuations, RefusesWhatCannotBeScored) {
  ScriptedDecoder decoder(kVocabulary);
  ContinuationScorer scorer(decoder);
  EXPECT_THROW(scorer.score(Ids{}, Ids{1}), Error);
  EXPECT_THROW(scorer.score(Ids{1}, Ids{}), Error);
  EXPECT_THROW(scorer.score(Ids{1}, Ids{50}), Error);
  EXPECT_THROW(scorer.score(Ids{50}, Ids{1}), Error);
  decoder.spoil_at = {1, 2};
  decoder.spoilt = std::numeric_limits<float>::quiet_NaN();
  EXPECT_THROW(scorer.score(Ids{1, 2}, Ids{3}), Error);
  EXPECT_NO_THROW(scorer.score(Ids{1, 3}, Ids{3}));
}

}  // namespace
}  // namespace nibble::quant
