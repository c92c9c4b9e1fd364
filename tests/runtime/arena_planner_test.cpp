#include "runtime/arena_planner.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <random>
#include <vector>

#include "jit/error.h"

namespace nibble::runtime {
namespace {

void expect_sound(const std::vector<BufferLife>& buffers, const ArenaPlan& plan) {
  ASSERT_EQ(plan.offsets.size(), buffers.size());
  for (size_t i = 0; i < buffers.size(); ++i) {
    EXPECT_EQ(plan.offsets[i] % 64, 0);
    EXPECT_GE(plan.offsets[i], 0);
    EXPECT_LE(plan.offsets[i] + buffers[i].bytes, plan.total);
    for (size_t j = 0; j < i; ++j) {
      const bool together = buffers[i].first_step <= buffers[j].last_step &&
                            buffers[j].first_step <= buffers[i].last_step;
      const bool overlap = plan.offsets[i] < plan.offsets[j] + buffers[j].bytes &&
                           plan.offsets[j] < plan.offsets[i] + buffers[i].bytes;
      EXPECT_FALSE(together && overlap) << "buffers " << i << " and " << j;
    }
  }
}

TEST(ArenaPlanner, ReusesDeadBuffers) {
  // A chain: each buffer is made by one step and read by the next, so two places are enough.
  std::vector<BufferLife> chain;
  chain.reserve(10);
  for (int step = 0; step < 10; ++step) chain.push_back({1024, step, step + 1});
  const ArenaPlan plan = plan_arena(chain);
  expect_sound(chain, plan);
  EXPECT_EQ(plan.total, 2048);
}

TEST(ArenaPlanner, LiveTogetherMeansApart) {
  const std::vector<BufferLife> buffers{{100, 0, 5}, {100, 5, 9}, {1, 5, 5}};
  const ArenaPlan plan = plan_arena(buffers);
  expect_sound(buffers, plan);
  EXPECT_EQ(plan.total, 128 + 128 + 64);
}

TEST(ArenaPlanner, FillsHoles) {
  // The long-lived small buffer goes beside the large ones, the last into the gap they leave.
  const std::vector<BufferLife> buffers{{4096, 0, 1}, {64, 0, 9}, {2048, 2, 3}, {2048, 2, 3}};
  const ArenaPlan plan = plan_arena(buffers);
  expect_sound(buffers, plan);
  EXPECT_EQ(plan.total, 4096 + 64);
}

TEST(ArenaPlanner, RandomLivesNeverCollide) {
  std::mt19937 random(7);
  for (int round = 0; round < 50; ++round) {
    std::vector<BufferLife> buffers;
    int64_t peak = 0, sum = 0;
    for (int i = 0; i < 60; ++i) {
      const int first = static_cast<int>(random() % 40);
      buffers.push_back(
          {static_cast<int64_t>(random() % 5000), first, first + static_cast<int>(random() % 6)});
      sum += (buffers.back().bytes + 63) / 64 * 64;
    }
    for (int step = 0; step < 46; ++step) {
      int64_t live = 0;
      for (const BufferLife& b : buffers) {
        if (b.first_step <= step && step <= b.last_step) live += (b.bytes + 63) / 64 * 64;
      }
      peak = std::max(peak, live);
    }
    const ArenaPlan plan = plan_arena(buffers);
    expect_sound(buffers, plan);
    EXPECT_GE(plan.total, peak);
    EXPECT_LT(plan.total, 2 * peak);
    EXPECT_LT(plan.total, sum);
  }
}

TEST(ArenaPlanner, NothingNeedsNothing) {
  EXPECT_EQ(plan_arena({}).total, 0);
  const std::vector<BufferLife> empty{{0, 0, 1}};
  EXPECT_EQ(plan_arena(empty).total, 0);
}

TEST(ArenaPlanner, RefusesNonsense) {
  const std::vector<BufferLife> negative{{-1, 0, 1}}, backwards{{64, 3, 2}},
      huge{{INT64_MAX, 0, 1}, {INT64_MAX, 0, 1}};
  EXPECT_THROW(plan_arena(negative), Error);
  EXPECT_THROW(plan_arena(backwards), Error);
  EXPECT_THROW(plan_arena(huge), Error);
}

}  // namespace
}  // namespace nibble::runtime
