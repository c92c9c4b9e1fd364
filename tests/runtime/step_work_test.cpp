#include "runtime/step_work.h"

#include <gtest/gtest.h>

namespace nibble::runtime {
namespace {

constexpr HeadLayout kHead{.layer = 0, .heads = 8, .kv_heads = 2, .head_dim = 64};

Step attention(int64_t window) {
  AttentionStep step;
  step.head = kHead;
  step.window = window;
  return Step::of(std::move(step));
}

TEST(StepWork, MatmulsReadTheirWeightsOnceAPass) {
  Step step = Step::of(GemmStep{});
  step.weight_bytes = 1000;
  step.macs = 700;
  EXPECT_EQ(work_of(step, 50, 1, jit::KvType::f16).bytes, 1000);
  EXPECT_EQ(work_of(step, 50, 16, jit::KvType::f16).bytes, 1000);
  EXPECT_EQ(work_of(step, 50, 16, jit::KvType::f16).operations, 2 * 16 * 700);
}

TEST(StepWork, AttentionReadsWhatIsHeld) {
  // Keys and values of 2 heads of 64, 2 bytes each: 512 bytes a position.
  const StepWork one = work_of(attention(0), 99, 1, jit::KvType::f16);
  EXPECT_EQ(one.bytes, 100 * 512);
  EXPECT_EQ(one.operations, 100 * 8 * 64 * 4);
  EXPECT_EQ(work_of(attention(0), 99, 1, jit::KvType::f32).bytes, 2 * one.bytes);
  // Rows at 10, 11 and 12 see 11, 12 and 13 positions, and the cache is read once.
  const StepWork three = work_of(attention(0), 10, 3, jit::KvType::f16);
  EXPECT_EQ(three.bytes, 13 * 512);
  EXPECT_EQ(three.operations, (11 + 12 + 13) * 8 * 64 * 4);
}

TEST(StepWork, OfAWindowOnlyTheWindow) {
  EXPECT_EQ(work_of(attention(30), 99, 1, jit::KvType::f16).bytes, 30 * 512);
  EXPECT_EQ(work_of(attention(30), 9, 1, jit::KvType::f16).bytes, 10 * 512);
  const StepWork three = work_of(attention(30), 99, 3, jit::KvType::f16);
  EXPECT_EQ(three.bytes, 32 * 512);  // from the first row's oldest to the last row's own
  EXPECT_EQ(three.operations, 3 * 30 * 8 * 64 * 4);
}

TEST(StepWork, CacheBytesOfATokenAreAllLayers) {
  Plan plan;
  plan.steps.push_back(attention(0));
  plan.steps.push_back(attention(30));
  plan.steps.emplace_back(Step::of(GemmStep{})).weight_bytes = 12345;  // no part of the cache
  EXPECT_EQ(kv_bytes_read(plan, 99, jit::KvType::f16), (100 + 30) * 512);
}

TEST(StepWork, AppendingWritesTheRows) {
  CacheStep step;
  step.head = kHead;
  EXPECT_EQ(work_of(Step::of(std::move(step)), 99, 3, jit::KvType::f16).bytes, 3 * 512);
}

}  // namespace
}  // namespace nibble::runtime
