#include "quant/scores/perplexity.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <string>
#include <vector>

#include "jit/error.h"
#include "tests/quant/scripted_decoder.h"
#include "tests/support/error_of.h"

namespace nibble::quant {
namespace {

using test::error_of;

constexpr int32_t kBos = 49;

std::vector<int32_t> text(size_t length) {
  std::vector<int32_t> ids;
  for (size_t i = 0; i < length; ++i) ids.push_back(static_cast<int32_t>(i * i * 31 % 47));
  return ids;
}

// The id at index `target` given ids[from ..], straight from the definition.
double expected_nll(const std::vector<int32_t>& ids, size_t target, size_t from, bool bos,
                    float noise = 0) {
  std::vector<int32_t> context;
  if (bos) context.push_back(kBos);
  context.insert(context.end(), ids.begin() + static_cast<std::ptrdiff_t>(from),
                 ids.begin() + static_cast<std::ptrdiff_t>(target));
  return scripted_nll(context, ids[target], kVocabulary, noise);
}

TEST(Perplexity, EveryIdIsScoredAfterWhatIsBeforeItInItsWindow) {
  const auto ids = text(27);
  ScriptedDecoder decoder(kVocabulary);
  const Scores scores = score(decoder, ids, {.window = 8, .bos = kBos});
  ASSERT_EQ(scores.nll.size(), 27U);
  double sum = 0;
  for (size_t i = 0; i < 27; ++i) {
    const double expected = expected_nll(ids, i, i / 8 * 8, true);
    EXPECT_NEAR(scores.nll[i], expected, 1e-6) << i;
    sum += expected;
  }
  EXPECT_NEAR(scores.perplexity(), std::exp(sum / 27), 1e-4);
  EXPECT_EQ(decoder.resets, 4);
  EXPECT_EQ(decoder.rows, 27);
  EXPECT_EQ(decoder.fed, 27);  // and not one more
}

TEST(Perplexity, WithoutBosTheFirstIdIsContext) {
  const auto ids = text(20);
  ScriptedDecoder decoder(kVocabulary);
  const Scores scores = score(decoder, ids, {.window = 8});
  ASSERT_EQ(scores.nll.size(), 19U);
  for (size_t i = 1; i < 20; ++i) {
    EXPECT_NEAR(scores.nll[i - 1], expected_nll(ids, i, (i - 1) / 8 * 8, false), 1e-6) << i;
  }
}

TEST(Perplexity, OverlapGivesContext) {
  const auto ids = text(21);
  ScriptedDecoder decoder(kVocabulary);
  const Scores scores = score(decoder, ids, {.window = 8, .stride = 3, .bos = kBos});
  ASSERT_EQ(scores.nll.size(), 21U);
  for (size_t i = 0; i < 21; ++i) {
    const size_t from = i < 8 ? 0 : ((i - 8) / 3 + 1) * 3;
    EXPECT_NEAR(scores.nll[i], expected_nll(ids, i, from, true), 1e-6) << i;
  }
  EXPECT_EQ(decoder.rows, 21);  // context rows make no logits
}

TEST(Perplexity, TheSecondHalfOnly) {
  const auto ids = text(17);
  ScriptedDecoder decoder(kVocabulary);
  const Scores scores = score(decoder, ids, {.window = 8, .second_half = true});
  ASSERT_EQ(scores.nll.size(), 8U);
  for (size_t i = 0; i < 8; ++i) {
    const size_t from = i / 4 * 8, target = from + 5 + i % 4;
    EXPECT_NEAR(scores.nll[i], expected_nll(ids, target, from, false), 1e-6) << i;
  }
}

TEST(Perplexity, ThreadsChangeNothingAndProgressEndsWithTheTotal) {
  const auto ids = text(40);
  ScriptedDecoder decoder(kVocabulary);
  const Protocol protocol{.window = 16, .stride = 8};
  const Scores alone = score(decoder, ids, protocol);
  runtime::ThreadPool pool(3);
  int64_t done = 0, total = 0;
  const Scores pooled = score(decoder, ids, protocol, {&pool, [&](int64_t d, int64_t t) {
                                                         EXPECT_GE(d, done);
                                                         done = d;
                                                         total = t;
                                                       }});
  EXPECT_EQ(alone.nll, pooled.nll);
  EXPECT_EQ(done, 39);
  EXPECT_EQ(total, 39);
}

TEST(Perplexity, WhatProgressThrowsEndsIt) {
  ScriptedDecoder decoder(kVocabulary);
  const auto stop = [](int64_t, int64_t) { fail("Stopped."); };
  EXPECT_THROW(score(decoder, text(40), {.window = 8}, {nullptr, stop}), Error);
  EXPECT_EQ(decoder.rows, 8);
}

// A row of the largest vocabularies is half a megabyte: what is asked for at once stays bounded.
TEST(Perplexity, LogitsAreBounded) {
  constexpr int64_t kLarge = 600000;
  ScriptedDecoder decoder(kLarge, 64);
  const Scores scores = score(decoder, text(30), {.window = 30, .bos = 0});
  EXPECT_EQ(scores.nll.size(), 30U);
  EXPECT_LE(static_cast<int64_t>(decoder.most_rows * sizeof(float)) * kLarge, kLogitsBytes);
  EXPECT_GT(decoder.most_rows, 16U);
}

TEST(Perplexity, RefusesWhatDoesNotFit) {
  ScriptedDecoder decoder(kVocabulary, 16);
  EXPECT_EQ(error_of([&] { score(decoder, text(40), {.window = 17}); }),
            "Windows of 17 positions were asked for, but the model's context holds 16.");
  auto ids = text(9);
  ids[8] = 50;  // only ever a target
  EXPECT_EQ(error_of([&] { score(decoder, ids, {.window = 8}); }),
            "The text's id 50 at index 8 is outside this model's vocabulary of 50 ids.");
}

TEST(Perplexity, DamagedLogitsAreAnErrorThatSaysWhere) {
  const auto ids = text(20);
  ScriptedDecoder decoder(kVocabulary), base(kVocabulary);
  decoder.spoil_at = {ids[8], ids[9], ids[10]};
  for (const float bad :
       {std::numeric_limits<float>::quiet_NaN(), std::numeric_limits<float>::infinity()}) {
    decoder.spoilt = bad;
    EXPECT_EQ(error_of([&] { score(decoder, ids, {.window = 8}); }),
              "The model's logits before the text's id at index 11 hold NaN or an infinity.");
    EXPECT_EQ(error_of([&] { compare(base, decoder, ids, {.window = 8}); }),
              "The base's logits before the text's id at index 11 hold NaN or an infinity.");
    EXPECT_NE(error_of([&] { score_base(decoder, ids, {.window = 8}); }).find("Row 10"),
              std::string::npos);
  }
}

TEST(Comparison, OfEqualModelsIsExactlyNothing) {
  ScriptedDecoder model(kVocabulary), base(kVocabulary);
  const Comparison same = compare(model, base, text(40), {.window = 8, .bos = kBos});
  EXPECT_EQ(same.mean_kl().value, 0);
  EXPECT_EQ(same.mean_kl().standard_error, 0);
  EXPECT_EQ(same.top1(), 1);
  EXPECT_EQ(same.delta_nll().value, 0);
  EXPECT_EQ(same.perplexity(), same.base_perplexity());
  EXPECT_EQ(same.kl.size(), 40U);
}

TEST(Comparison, FollowsTheDefinitions) {
  const auto ids = text(30);
  constexpr float kNoise = 0.1F;
  ScriptedDecoder model(kVocabulary, 64, kNoise), base(kVocabulary);
  const Comparison found = compare(model, base, ids, {.window = 8, .stride = 4, .bos = kBos});
  ASSERT_EQ(found.kl.size(), 30U);
  int64_t same = 0;
  double delta = 0;
  for (size_t i = 0; i < 30; ++i) {
    const size_t from = i < 8 ? 0 : ((i - 8) / 4 + 1) * 4;
    EXPECT_NEAR(found.model.nll[i], expected_nll(ids, i, from, true, kNoise), 1e-6);
    EXPECT_NEAR(found.base_nll[i], expected_nll(ids, i, from, true), 1e-6);
    delta += (found.model.nll[i] - found.base_nll[i]) / 30;
    std::vector<int32_t> context{kBos};
    context.insert(context.end(), ids.begin() + static_cast<std::ptrdiff_t>(from),
                   ids.begin() + static_cast<std::ptrdiff_t>(i));
    const auto p = scripted_logits(context, kVocabulary);
    const auto q = scripted_logits(context, kVocabulary, kNoise);
    double kl = 0;
    for (int32_t id = 0; id < kVocabulary; ++id) {
      const double log_p = -scripted_nll(context, id, kVocabulary);
      kl += std::exp(log_p) * (log_p + scripted_nll(context, id, kVocabulary, kNoise));
    }
    EXPECT_NEAR(found.kl[i], kl, 1e-6) << i;
    same += std::max_element(p.begin(), p.end()) - p.begin() ==
            std::max_element(q.begin(), q.end()) - q.begin();
  }
  EXPECT_EQ(found.same_best, same);
  EXPECT_LT(same, 30) << "no case tells agreement from its absence";
  EXPECT_GT(same, 0);
  EXPECT_NEAR(found.delta_nll().value, delta, 1e-12);
  EXPECT_NEAR(std::log(found.perplexity() / found.base_perplexity()), delta, 1e-9);
  EXPECT_LT(found.perplexity_ratio().low, std::exp(delta));
  EXPECT_GT(found.perplexity_ratio().high, std::exp(delta));
}

TEST(Comparison, WithKeptScoresIsTheSameToTheBit) {
  const auto ids = text(50);
  const Protocol protocol{.window = 16, .stride = 8, .bos = kBos, .max_tokens = 45};
  ScriptedDecoder model(kVocabulary, 64, 0.1F), base(kVocabulary);
  const Comparison beside = compare(model, base, ids, protocol);
  const BaseScores kept = score_base(base, ids, protocol);
  EXPECT_EQ(kept.rows(), 45);
  EXPECT_GE(kept.bytes(), 45 * kVocabulary * 4);
  EXPECT_LT(kept.bytes(), 45 * (kVocabulary * 4 + 24) + 200);
  for (int round = 0; round < 2; ++round) {
    runtime::ThreadPool pool(2);
    const Comparison after = compare(model, kept, {&pool, {}});
    EXPECT_EQ(after.model.nll, beside.model.nll);
    EXPECT_EQ(after.base_nll, beside.base_nll);
    EXPECT_EQ(after.kl, beside.kl);
    EXPECT_EQ(after.same_best, beside.same_best);
  }
  EXPECT_EQ(kept.nll(44), beside.base_nll[44]);
}

// Rows may come from elsewhere, in the order of the scored ids.
TEST(Comparison, RowsOfAnotherProgram) {
  const auto ids = text(12);
  const Protocol protocol{.window = 16};
  ScriptedDecoder model(kVocabulary);
  BaseScores base(ids, protocol, kVocabulary);
  for (size_t i = 1; i < 12; ++i) {
    EXPECT_FALSE(base.complete());
    EXPECT_NE(error_of([&] { compare(model, base); }).find(fmt::format("only {}", i - 1)),
              std::string::npos);
    base.add_row(scripted_logits(std::span(ids).first(i), kVocabulary));
  }
  EXPECT_TRUE(base.complete());
  const Comparison found = compare(model, base);
  EXPECT_EQ(found.mean_kl().value, 0);
  EXPECT_EQ(found.top1(), 1);
  const auto row = scripted_logits(ids, kVocabulary);
  EXPECT_NE(error_of([&] { base.add_row(row); }).find("one more"), std::string::npos);
}

TEST(Comparison, RefusesOtherVocabulariesAndBadRows) {
  const auto ids = text(12);
  ScriptedDecoder model(kVocabulary), base(kVocabulary + 1);
  EXPECT_NE(error_of([&] { compare(model, base, ids, {}); }).find("knows 50 ids and the base 51"),
            std::string::npos);
  const BaseScores kept = score_base(base, ids, {.window = 8});
  EXPECT_NE(error_of([&] { compare(model, kept); }).find("knows 50 ids and the base 51"),
            std::string::npos);
  BaseScores rows(ids, {}, kVocabulary);
  EXPECT_NE(error_of([&] { rows.add_row(std::vector<float>(49)); }).find("has 49"),
            std::string::npos);
  EXPECT_NE(error_of([&] { BaseScores(ids, {}, 40); }).find("the base knows 40"),
            std::string::npos);
}

}  // namespace
}  // namespace nibble::quant
