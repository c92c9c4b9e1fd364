#include "runtime/sampler.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <set>
#include <string>
#include <vector>

#include "jit/error.h"

namespace nibble::runtime {
namespace {

constexpr float kInfinity = std::numeric_limits<float>::infinity();

// Everything off: plain sampling from the softmax.
SamplerOptions plain(uint64_t seed = 1) {
  SamplerOptions options;
  options.temperature = 1;
  options.top_k = 0;
  options.top_p = 1;
  options.min_p = 0;
  options.seed = seed;
  return options;
}

std::map<int32_t, int> draw(const SamplerOptions& options, const std::vector<float>& logits,
                            int times, const std::vector<int32_t>& history = {}) {
  Sampler sampler(options);
  std::map<int32_t, int> counts;
  for (int i = 0; i < times; ++i) ++counts[sampler.sample(logits, history)];
  return counts;
}

std::set<int32_t> drawn_ids(const SamplerOptions& options, const std::vector<float>& logits,
                            const std::vector<int32_t>& history = {}) {
  std::set<int32_t> ids;
  for (const auto& [id, count] : draw(options, logits, 5000, history)) ids.insert(id);
  return ids;
}

std::vector<float> logs(const std::vector<double>& probabilities) {
  std::vector<float> logits;
  logits.reserve(probabilities.size());
  for (const double p : probabilities) logits.push_back(static_cast<float>(std::log(p)));
  return logits;
}

TEST(Sampler, GreedyTakesTheFirstLargest) {
  SamplerOptions greedy;
  greedy.greedy = true;
  EXPECT_EQ(Sampler(greedy).sample(std::vector<float>{1, 5, 2, 5}, {}), 1);
  SamplerOptions cold = plain();
  cold.temperature = 0;
  EXPECT_EQ(Sampler(cold).sample(std::vector<float>{-3, -1, -1}, {}), 1);
  EXPECT_EQ(Sampler(greedy).sample(std::vector<float>{1, kInfinity, -kInfinity}, {}), 1);
}

TEST(Sampler, DrawsInProportion) {
  const std::vector<double> p{0.5, 0.3, 0.15, 0.05};
  const auto counts = draw(plain(), logs(p), 20'000);
  double chi2 = 0;
  for (int32_t id = 0; id < 4; ++id) {
    const double expected = p[static_cast<size_t>(id)] * 20'000;
    chi2 += std::pow(counts.at(id) - expected, 2) / expected;
  }
  EXPECT_LT(chi2, 16.3);  // three degrees of freedom, p = 0.001; the seed is fixed
}

TEST(Sampler, TemperatureSharpensAndFlattens) {
  const std::vector<float> logits = logs({0.6, 0.3, 0.1});
  SamplerOptions options = plain();
  options.temperature = 0.5F;  // squares the odds: 36 : 9 : 1
  EXPECT_NEAR(draw(options, logits, 20'000).at(0), 20'000 * 36 / 46.0, 300);
  options.temperature = 1000;
  EXPECT_NEAR(draw(options, logits, 20'000).at(2), 20'000 / 3.0, 300);
  options.temperature = 1e-30F;
  EXPECT_EQ(drawn_ids(options, logits), (std::set<int32_t>{0}));
}

TEST(Sampler, TopKKeepsTheLargestAndTheLowerIdOfEquals) {
  SamplerOptions options = plain();
  options.top_k = 2;
  EXPECT_EQ(drawn_ids(options, {0, 3, 1, 2}), (std::set<int32_t>{1, 3}));
  EXPECT_EQ(drawn_ids(options, {1, 1, 1, 1}), (std::set<int32_t>{0, 1}));
  options.top_k = 100;
  EXPECT_EQ(drawn_ids(options, {1, 1, 1, 1}).size(), 4u);
  options.top_k = 1;
  EXPECT_EQ(drawn_ids(options, {1, 2, 2}), (std::set<int32_t>{1}));
}

TEST(Sampler, TopPKeepsTheSmallestSetWithTheMass) {
  const std::vector<float> logits = logs({0.1, 0.5, 0.1, 0.3});
  SamplerOptions options = plain();
  options.top_p = 0.49F;
  EXPECT_EQ(drawn_ids(options, logits), (std::set<int32_t>{1}));
  options.top_p = 0.79F;
  EXPECT_EQ(drawn_ids(options, logits), (std::set<int32_t>{1, 3}));
  options.top_p = 0.85F;
  EXPECT_EQ(drawn_ids(options, logits), (std::set<int32_t>{0, 1, 3}));
  options.top_p = 0.95F;
  EXPECT_EQ(drawn_ids(options, logits).size(), 4u);
}

TEST(Sampler, TopPIsAShareOfWhatTopKKept) {
  // Of the two kept, the first alone has 5/8 of the mass.
  SamplerOptions options = plain();
  options.top_k = 2;
  options.top_p = 0.6F;
  EXPECT_EQ(drawn_ids(options, logs({0.1, 0.5, 0.1, 0.3})), (std::set<int32_t>{1}));
}

TEST(Sampler, MinPDropsTheUnlikely) {
  const std::vector<float> logits = logs({0.1, 0.5, 0.14, 0.26});
  SamplerOptions options = plain();
  options.min_p = 0.25F;  // of 0.5: 0.125
  EXPECT_EQ(drawn_ids(options, logits), (std::set<int32_t>{1, 2, 3}));
  options.min_p = 0.9F;
  EXPECT_EQ(drawn_ids(options, logits), (std::set<int32_t>{1}));
}

TEST(Sampler, LargeVocabulariesAreRankedAsASortWould) {
  std::mt19937 random(5);
  std::normal_distribution<float> normal(0, 2);
  std::vector<float> logits(20'000);
  for (float& l : logits) l = normal(random);
  std::vector<float> sorted = logits;
  std::sort(sorted.rbegin(), sorted.rend());
  double total = 0, mass = 0;
  for (const float l : sorted) total += std::exp(static_cast<double>(l));
  size_t kept = 0;
  while (mass < 0.5 * total) mass += std::exp(static_cast<double>(sorted[kept++]));
  ASSERT_GT(kept, 300u);  // more than the first stretch that is sorted
  SamplerOptions options = plain();
  options.top_p = 0.5F;
  for (const auto& [id, count] : draw(options, logits, 300)) {
    EXPECT_GE(logits[static_cast<size_t>(id)], sorted[kept - 1]);
  }
}

TEST(Sampler, RepetitionPenalty) {
  SamplerOptions options;
  options.greedy = true;
  options.repeat_penalty = 2;
  EXPECT_EQ(Sampler(options).sample(std::vector<float>{4, 3, 1}, std::vector<int32_t>{0}), 1);
  // Negative logits are multiplied, and twice in the history is still once.
  EXPECT_EQ(Sampler(options).sample(std::vector<float>{-2, -3, -9}, std::vector<int32_t>{0}), 1);
  EXPECT_EQ(Sampler(options).sample(std::vector<float>{8, 3, 1}, std::vector<int32_t>{0, 0}), 0);
  // Only the last ids count.
  const std::vector<int32_t> history{0, 2, 2};
  const std::vector<float> logits{4, 3, 1};
  options.repeat_last = 2;
  EXPECT_EQ(Sampler(options).sample(logits, history), 0);
  options.repeat_last = 3;
  EXPECT_EQ(Sampler(options).sample(logits, history), 1);
  options.repeat_last = -1;
  EXPECT_EQ(Sampler(options).sample(logits, history), 1);
  options.repeat_last = 0;
  EXPECT_EQ(Sampler(options).sample(logits, history), 0);
}

TEST(Sampler, ASeedFixesTheSequence) {
  const std::vector<float> logits(1000, 0.0F);
  const auto sequence = [&](uint64_t seed) {
    Sampler sampler(plain(seed));
    std::vector<int32_t> ids;
    ids.reserve(20);
    for (int i = 0; i < 20; ++i) ids.push_back(sampler.sample(logits, {}));
    return ids;
  };
  EXPECT_EQ(sequence(7), sequence(7));
  EXPECT_NE(sequence(7), sequence(8));
  EXPECT_NE(sequence(0), sequence(1));
}

// Known draws, so that no machine, compiler or change of code moves them unseen: the generator is
// xoshiro256** seeded by splitmix64, and with 2^20 equal logits an id is the top 20 bits.
TEST(Sampler, TheGeneratorIsPinned) {
  uint64_t s[4], state = 42;
  for (uint64_t& word : s) {
    uint64_t x = state += 0x9e3779b97f4a7c15;
    x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
    x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
    word = x ^ (x >> 31);
  }
  EXPECT_EQ(s[0], 0xbdd732262feb6e95);  // splitmix64's published first value for seed 42
  const uint64_t product = s[1] * 5;
  const uint64_t first = ((product << 7) | (product >> 57)) * 9;
  const std::vector<float> logits(1 << 20, 1.0F);
  EXPECT_EQ(Sampler(plain(42)).sample(logits, {}), static_cast<int32_t>(first >> 44));
}

TEST(Sampler, InfinitiesAreOrderly) {
  EXPECT_EQ(drawn_ids(plain(), {-kInfinity, 1, -kInfinity}), (std::set<int32_t>{1}));
  EXPECT_EQ(drawn_ids(plain(), {kInfinity, 1, kInfinity}), (std::set<int32_t>{0, 2}));
  EXPECT_THROW(Sampler(plain()).sample(std::vector<float>{-kInfinity, -kInfinity}, {}), Error);
}

TEST(Sampler, RefusesWhatItCannotSampleFrom) {
  const std::vector<float> bad{1, std::nanf(""), 2};
  SamplerOptions greedy;
  greedy.greedy = true;
  for (const SamplerOptions& options : {greedy, plain(), SamplerOptions{}}) {
    EXPECT_THROW(Sampler(options).sample(bad, {}), Error);
    EXPECT_THROW(Sampler(options).sample({}, {}), Error);
  }
  SamplerOptions penalty = plain();
  penalty.repeat_penalty = 1.5F;
  const std::vector<float> logits{1, 2};
  EXPECT_THROW(Sampler(penalty).sample(logits, std::vector<int32_t>{2}), Error);
  EXPECT_THROW(Sampler(penalty).sample(logits, std::vector<int32_t>{-1}), Error);
}

TEST(Sampler, RefusesOptionsOutOfRange) {
  const auto refused = [](auto change, const std::string& name) {
    SamplerOptions options;
    change(options);
    try {
      Sampler sampler(options);
    } catch (const Error& error) {
      return std::string(error.what()).find(name) != std::string::npos;
    }
    return false;
  };
  using O = SamplerOptions;
  EXPECT_TRUE(refused([](O& o) { o.temperature = -0.1F; }, "temperature"));
  EXPECT_TRUE(refused([](O& o) { o.temperature = std::nanf(""); }, "temperature"));
  EXPECT_TRUE(refused([](O& o) { o.temperature = kInfinity; }, "temperature"));
  EXPECT_TRUE(refused([](O& o) { o.top_k = -1; }, "top-k"));
  EXPECT_TRUE(refused([](O& o) { o.top_p = 0; }, "top-p"));
  EXPECT_TRUE(refused([](O& o) { o.top_p = 1.01F; }, "top-p"));
  EXPECT_TRUE(refused([](O& o) { o.min_p = 1; }, "min-p"));
  EXPECT_TRUE(refused([](O& o) { o.min_p = -0.1F; }, "min-p"));
  EXPECT_TRUE(refused([](O& o) { o.repeat_penalty = 0; }, "penalty"));
  EXPECT_TRUE(refused([](O& o) { o.repeat_last = -2; }, "penalty"));
}

}  // namespace
}  // namespace nibble::runtime
