// The tuner's search over made-up costs whose best is known, its candidates and bounds, the bench's
// check of bits, and what the watch says of a machine.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <set>

#include "jit/error.h"
#include "jit/gemm.h"
#include "tools/tune/candidates.h"
#include "tools/tune/machine_watch.h"
#include "tools/tune/matmul_bench.h"
#include "tools/tune/search.h"

namespace nibble::tune {
namespace {

using jit::Tiling;

const jit::GemmSpec kSpec{.weight = {.group = 128}, .n = 4096, .k = 4096};

// A machine in which one tiling is the best, whose samples are noisy and whose speed drifts. Time
// passes only while it measures.
class FakeMachine {
 public:
  FakeMachine(const Tiling& best, uint64_t seed, double noise)
      : best_(best), noise_(noise), random_(seed) {}

  // Every parameter that is off costs something, and more the further off it is.
  double cost(const Tiling& t) const {
    const auto off = [](double a, double b) { return std::abs(std::log2((a + 1) / (b + 1))); };
    double factor = 1 + 0.25 * off(t.mr * t.nr, best_.mr * best_.nr) + 0.15 * off(t.nr, best_.nr);
    factor += 0.08 * off(t.k_unroll, best_.k_unroll);
    factor += 0.04 * off(t.prefetch_l1 / 1024.0, best_.prefetch_l1 / 1024.0);
    factor += 0.04 * off(t.prefetch_l2 / 1024.0, best_.prefetch_l2 / 1024.0);
    if (t.panel != best_.panel) factor += 0.1;
    if (t.apart != best_.apart) factor += 0.1;
    return 1e-3 * factor;
  }

  double sample(const Tiling& t) {
    samples.push_back(t);
    // Half as fast again and back, over thousands of samples.
    const double drift = 1 + 0.25 * (1 + std::sin(time_ * 0.5));
    const double disturbed = std::exponential_distribution<double>(1 / noise_)(random_);
    const double seconds = cost(t) * drift * (1 + disturbed);
    time_ += seconds + 0.5e-3;
    return seconds;
  }

  SearchHooks hooks() {
    SearchHooks out;
    out.sample = [this](const Tiling& t, bool) { return sample(t); };
    out.clock = [this] { return time_; };
    return out;
  }

  std::vector<Tiling> samples;

 private:
  Tiling best_;
  double noise_, time_ = 0;
  std::mt19937_64 random_;
};

std::vector<Tiling> many_candidates() {
  return candidate_tilings(kSpec, jit::Isa::avx512_vnni, 512);
}

TEST(TuneSearch, FindsTheKnownBestOnEverySeed) {
  const auto candidates = many_candidates();
  ASSERT_GT(candidates.size(), 500U);
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    const Tiling best = candidates[1 + seed * 7919 % (candidates.size() - 1)];
    FakeMachine machine(best, seed, 0.01);
    const SearchResult result =
        search_tilings(candidates, {.budget_s = 60, .seed = seed}, machine.hooks());
    EXPECT_EQ(jit::name(result.winner), jit::name(best)) << "seed " << seed;
    EXPECT_TRUE(result.complete);
    EXPECT_LT(result.ratio, 1);
    EXPECT_EQ(result.candidates, static_cast<int64_t>(candidates.size()));
    EXPECT_EQ(result.tried, result.candidates);
  }
}

// With time for a part of the candidates only, what lies beside the best so far leads there.
TEST(TuneSearch, FindsTheKnownBestWithoutTryingAll) {
  const auto candidates = many_candidates();
  for (uint64_t seed = 1; seed <= 12; ++seed) {
    const Tiling best = candidates[1 + seed * 104729 % (candidates.size() - 1)];
    FakeMachine machine(best, seed, 0.005);
    const SearchResult result =
        search_tilings(candidates, {.budget_s = 1.5, .seed = seed}, machine.hooks());
    EXPECT_EQ(jit::name(result.winner), jit::name(best)) << "seed " << seed;
    EXPECT_FALSE(result.complete);
    EXPECT_LT(result.tried, result.candidates * 3 / 4);
  }
}

TEST(TuneSearch, TheOrderFollowsFromTheSeed) {
  const auto candidates = many_candidates();
  const auto order = [&](uint64_t seed) {
    FakeMachine machine(candidates[40], 1, 0.01);
    search_tilings(candidates, {.budget_s = 1, .seed = seed}, machine.hooks());
    return machine.samples;
  };
  EXPECT_EQ(order(3), order(3));
  EXPECT_NE(order(3), order(4));
}

TEST(TuneSearch, TheDefaultStaysWhereNothingIsFaster) {
  const auto candidates = many_candidates();
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    FakeMachine machine(candidates[0], seed, 0.05);
    const SearchResult result =
        search_tilings(candidates, {.budget_s = 5, .seed = seed}, machine.hooks());
    EXPECT_EQ(result.winner, candidates[0]);
    EXPECT_EQ(result.ratio, 1);
  }
  // Nor where all are alike: what noise makes of them is no gain.
  for (uint64_t seed = 1; seed <= 10; ++seed) {
    FakeMachine machine(candidates[0], seed, 0.05);
    SearchHooks hooks = machine.hooks();
    hooks.sample = [&](const Tiling&, bool) { return machine.sample(candidates[0]); };
    const SearchResult result = search_tilings(candidates, {.budget_s = 5, .seed = seed}, hooks);
    EXPECT_GT(result.ratio, 0.97) << "seed " << seed;
  }
}

TEST(TuneSearch, WhatTheBoundRulesOutIsNeverMeasured) {
  const auto candidates = many_candidates();
  const Tiling best = candidates[400];
  ASSERT_NE(best.mr, 1);
  FakeMachine machine(best, 5, 0.01);
  SearchHooks hooks = machine.hooks();
  hooks.bound = [](const Tiling& t) { return t.mr == 1 ? 1.0 : 0.0; };
  const SearchResult result = search_tilings(candidates, {.budget_s = 60}, hooks);
  EXPECT_EQ(result.winner, best);
  EXPECT_GT(result.pruned, 0);
  EXPECT_EQ(result.tried + result.pruned, result.candidates);
  EXPECT_TRUE(result.complete);
  for (const Tiling& t : machine.samples) EXPECT_NE(t.mr, 1);
}

// A roof that was measured on a bad moment: what has been beaten binds no more.
TEST(TuneSearch, BoundsThatAreTooHighRuleNothingGoodOut) {
  const auto candidates = many_candidates();
  const Tiling best = candidates[400];
  FakeMachine machine(best, 5, 0.01);
  SearchHooks hooks = machine.hooks();
  hooks.bound = [&](const Tiling&) { return 3 * machine.cost(best); };
  const SearchResult result = search_tilings(candidates, {.budget_s = 60}, hooks);
  EXPECT_EQ(result.winner, best);
}

TEST(TuneSearch, WhatIsKnownIsNotExploredAgain) {
  const auto candidates = many_candidates();
  const Tiling best = candidates[200];
  FakeMachine machine(best, 5, 0.01);
  SearchOptions options{.budget_s = 60};
  for (size_t i = 0; i < candidates.size(); ++i) {
    options.known.emplace_back(candidates[i],
                               machine.cost(candidates[i]) / machine.cost(candidates[0]));
  }
  const SearchResult result = search_tilings(candidates, options, machine.hooks());
  EXPECT_EQ(result.winner, best);
  EXPECT_TRUE(result.complete);
  std::set<std::string> measured;
  for (const Tiling& t : machine.samples) measured.insert(jit::name(t));
  EXPECT_LE(measured.size(), 25U);  // the finalists and the default
}

TEST(TuneSearch, StoppingKeepsTheDefault) {
  const auto candidates = many_candidates();
  FakeMachine machine(candidates[100], 5, 0.01);
  SearchHooks hooks = machine.hooks();
  hooks.stop = [&] { return machine.samples.size() > 50; };
  const SearchResult result = search_tilings(candidates, {.budget_s = 60}, hooks);
  EXPECT_TRUE(result.interrupted);
  EXPECT_EQ(result.winner, candidates[0]);
  EXPECT_LT(machine.samples.size(), 60U);
  EXPECT_TRUE(result.timings.contains(jit::name(candidates[0])));
}

TEST(TuneSearch, ProgressGoesUpToTheBudget) {
  const auto candidates = many_candidates();
  FakeMachine machine(candidates[100], 5, 0.01);
  SearchHooks hooks = machine.hooks();
  double share = 0, ratio = 1;
  int64_t calls = 0;
  hooks.progress = [&](const SearchProgress& p) {
    EXPECT_GE(p.share, share);
    EXPECT_LE(p.share, 1);
    EXPECT_LE(p.tried, p.candidates);
    share = p.share;
    ratio = p.best_ratio;
    ++calls;
  };
  search_tilings(candidates, {.budget_s = 1}, hooks);
  EXPECT_GT(calls, 20);
  EXPECT_GT(share, 0.5);
  EXPECT_LT(ratio, 1);
}

TEST(TuneSearch, TimingsAreQuantiles) {
  const runtime::Timing timing = timing_of({5, 1, 4, 2, 3, 11, 6, 10, 9, 8, 7});
  EXPECT_EQ(timing.median, 6);
  EXPECT_EQ(timing.p20, 3);
  EXPECT_EQ(timing.p80, 9);
  EXPECT_EQ(timing.n, 11);
}

TEST(TuneDuel, ASlowerChallengerIsKnown) {
  FakeMachine machine({.mr = 4, .nr = 2}, 1, 0.01);
  const Tiling good{.mr = 4, .nr = 2}, bad{.mr = 2, .nr = 2};
  const Duel lost = duel(good, bad, 1, machine.hooks());
  EXPECT_TRUE(lost.slower);
  EXPECT_FALSE(lost.faster);
  const Duel won = duel(bad, good, 1, machine.hooks());
  EXPECT_TRUE(won.faster);
  EXPECT_NEAR(won.ratio, machine.cost(good) / machine.cost(bad), 0.05);
  const Duel tie = duel(good, good, 1, machine.hooks());
  EXPECT_FALSE(tie.slower || tie.faster);
  EXPECT_GE(tie.challenger.n, 7);
}

TEST(TuneCandidates, AllFitAndNoneIsThereTwice) {
  jit::GemmSpec gate = kSpec;
  gate.gate = true;
  gate.activation = jit::Activation::silu;
  jit::GemmSpec floats{
      .weight = {.type = jit::WeightType::f32}, .act = jit::ActType::f32, .n = 64, .k = 64};
  jit::GemmSpec tiny{.weight = {.group = 16}, .n = 5, .k = 8};
  jit::GemmSpec bf16 = kSpec;
  bf16.act = jit::ActType::bf16;
  jit::GemmSpec nested = gate;
  nested.weight.scale = jit::ScaleType::q8;
  for (const jit::GemmSpec& spec : {kSpec, gate, floats, tiny, bf16, nested}) {
    for (const jit::Isa isa :
         {jit::Isa::avx2, jit::Isa::avx_vnni, jit::Isa::avx512, jit::Isa::avx512_vnni}) {
      for (const int64_t m : {1, 4, 8, 16, 512}) {
        const auto candidates = candidate_tilings(spec, isa, m);
        EXPECT_EQ(candidates[0], jit::default_tiling(spec, isa, m));
        EXPECT_GE(candidates.size(), 6U);
        std::set<std::string> names;
        for (const Tiling& t : candidates) {
          EXPECT_TRUE(jit::tiling_fits(spec, isa, t)) << jit::name(t);
          EXPECT_TRUE(names.insert(jit::name(t)).second) << jit::name(t);
          EXPECT_LE(t.mr, m);
        }
      }
    }
  }
}

TEST(TuneCandidates, TheBoundIsTheRooflines) {
  const runtime::Roofs roofs{.read_gbs = 50, .int8_gops = 1000};
  const Tiling wide{.mr = 8, .nr = 1}, narrow{.mr = 1, .nr = 1};
  // One row is memory: 8.65 MB of weights and scales at 50 GB/s.
  EXPECT_NEAR(least_seconds(kSpec, jit::Isa::avx512_vnni, 1, narrow, roofs),
              0.9 * weight_bytes(kSpec) / 50e9, 1e-9);
  // Many rows are dots, where the tile has rows enough to share the unpacking.
  const double dots = operations(kSpec, 512) / 1000e9;
  EXPECT_NEAR(least_seconds(kSpec, jit::Isa::avx512_vnni, 512, wide, roofs), 0.9 * dots, 1e-6);
  EXPECT_GT(least_seconds(kSpec, jit::Isa::avx512_vnni, 512, narrow, roofs), 1.1 * dots);
}

class TuneBench : public testing::Test {
 protected:
  static constexpr runtime::Roofs kRoofs{.read_gbs = 50, .int8_gops = 1000};
  runtime::ThreadPool pool_{2};
};

TEST_F(TuneBench, MeasuresEveryCandidateAndChecksItsBits) {
  jit::GemmSpec gate{.weight = {.group = 32, .asym = true}, .n = 160, .k = 200, .bias = true};
  gate.gate = true;
  gate.activation = jit::Activation::silu;
  const jit::GemmSpec rest{
      .weight = {.type = jit::WeightType::u8, .group = 64}, .n = 100, .k = 77, .residual = true};
  const jit::GemmSpec floats{.weight = {.group = 32}, .act = jit::ActType::f32, .n = 64, .k = 64};
  const jit::GemmSpec bf16{.weight = {.group = 32}, .act = jit::ActType::bf16, .n = 64, .k = 77};
  const jit::Isa isa = jit::supported_isas().back();
  for (const jit::GemmSpec& spec : {gate, rest, floats, bf16}) {
    const RotatingWeights weights(spec, pool_, 100000);
    EXPECT_GE(weights.copies(), 2);
    for (const int64_t m : {1, 5}) {
      MatmulBench bench(spec, isa, m, weights, pool_, kRoofs);
      const auto candidates = candidate_tilings(spec, isa, m);
      for (size_t i = 0; i < candidates.size(); i += 7) {
        EXPECT_GT(bench.sample(candidates[i], i % 2 == 0), 0);
      }
    }
  }
}

TEST_F(TuneBench, LongMatmulsAreSampledInParts) {
  const jit::GemmSpec spec{.weight = {.group = 32}, .n = 16 * 300, .k = 64};
  const RotatingWeights weights(spec, pool_, 1);
  // A slow roof makes it a long one.
  MatmulBench bench(spec, jit::supported_isas().back(), 3, weights, pool_,
                    {.read_gbs = 1e-3, .int8_gops = 1});
  const Tiling tiling{.mr = 2, .nr = 2};
  for (int i = 0; i < 5; ++i) EXPECT_GT(bench.sample(tiling, i % 2 == 0), 0);
}

TEST_F(TuneBench, OtherBitsAreAnErrorThatNamesTheKernel) {
  const jit::GemmSpec spec{.weight = {.group = 32}, .n = 64, .k = 64};
  const RotatingWeights weights(spec, pool_, 1);
  const jit::Isa isa = jit::supported_isas().back();
  MatmulBench bench(spec, isa, 3, weights, pool_, kRoofs);
  const Tiling tiling{.mr = 2, .nr = 1, .k_unroll = 4};
  bench.sample(jit::default_tiling(spec, isa, 3), false);
  bench.spoil_next_result();
  try {
    bench.sample(tiling, false);
    FAIL() << "a wrong result was measured";
  } catch (const Error& error) {
    const std::string kernel = jit::name(jit::KernelKey{spec, isa, tiling});
    EXPECT_NE(std::string(error.what()).find(kernel), std::string::npos) << error.what();
    EXPECT_NE(std::string(error.what()).find("row 0, column 0"), std::string::npos);
  }
}

TEST(TuneWatch, SaysWhatDisturbs) {
  EXPECT_TRUE(warnings_of({.seconds = 10, .others = 0.02, .slowdown = 0.03}).empty());
  EXPECT_EQ(warnings_of({.seconds = 10, .others = 0.5}).size(), 1U);
  EXPECT_NE(warnings_of({.seconds = 10, .stolen = 0.25})[0].find("25%"), std::string::npos);
  EXPECT_NE(warnings_of({.seconds = 10, .slowdown = 0.3})[0].find("throttled"), std::string::npos);
  EXPECT_NE(warnings_of({.governor = "powersave"})[0].find("powersave"), std::string::npos);
  EXPECT_EQ(warnings_of({.others = 1, .stolen = 1, .slowdown = 1}).size(), 3U);
}

TEST(TuneWatch, ReadsTheTimesOfAllProcessors) {
  const CpuTimes times = parse_cpu_times("cpu  10 20 30 400 50 6 7 80 0 0\ncpu0 1 2 3 4 5 6 7 8\n");
  EXPECT_EQ(times.busy, 73);
  EXPECT_EQ(times.idle, 450);
  EXPECT_EQ(times.stolen, 80);
  EXPECT_EQ(parse_cpu_times("").busy, 0);
  EXPECT_EQ(parse_cpu_times("cpu0 1 2 3 4 5 6 7 8").busy, 0);
  EXPECT_EQ(parse_cpu_times("cpu 1 2").busy, 0);
}

TEST(TuneWatch, LooksAtThisMachine) {
  const MachineWatch watch;
  const Disturbance seen = watch.look();
  EXPECT_GE(seen.others, 0);
  EXPECT_GE(seen.stolen, 0);
  EXPECT_LT(seen.slowdown, 1);
}

}  // namespace
}  // namespace nibble::tune
