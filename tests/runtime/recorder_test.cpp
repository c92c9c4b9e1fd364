// What a recorder keeps of steps that only note that they ran.
#include "runtime/recorder.h"

#include <gtest/gtest.h>

#include <atomic>
#include <memory>

#include "runtime/session.h"

namespace nibble::runtime {
namespace {

constexpr int kThreads = 2;
std::atomic<int> runs{0};

Step counting_step(bool tail) {
  Step step;
  step.run = [](const Step&, const StepContext&) noexcept { ++runs; };
  step.tail = tail;
  return step;
}

// Three steps, the last for the logits only; chunks of four rows.
Session session_of_three_steps() {
  auto plan = std::make_shared<Plan>();
  plan->steps = {counting_step(false), counting_step(false), counting_step(true)};
  plan->vocab_size = 8;
  plan->context_length = 64;
  SessionOptions options;
  options.prefill_chunk = 4;
  return {plan, std::make_shared<ThreadPool>(kThreads), options};
}

std::vector<StepTime> of_thread(const std::vector<StepTime>& times, int thread) {
  std::vector<StepTime> result;
  for (const StepTime& time : times) {
    if (time.thread == thread) result.push_back(time);
  }
  return result;
}

TEST(Recorder, KeepsEveryStepOfEveryThreadInOrder) {
  Session session = session_of_three_steps();
  Recorder recorder(kThreads, 100);
  session.record(&recorder);
  const std::vector<int32_t> ids = {1, 2, 3, 4, 5, 6};
  runs = 0;
  session.forward(ids);  // chunks of 4 and 2; the tail only after the second
  session.forward(std::vector<int32_t>{7});
  EXPECT_EQ(runs, kThreads * (2 + 3 + 3));
  const auto times = recorder.times();
  EXPECT_EQ(recorder.lost(), 0U);
  const struct {
    int64_t pass, step, position, rows;
  } expected[] = {{0, 0, 0, 4}, {0, 1, 0, 4}, {1, 0, 4, 2}, {1, 1, 4, 2},
                  {1, 2, 5, 1}, {2, 0, 6, 1}, {2, 1, 6, 1}, {2, 2, 6, 1}};
  for (int thread = 0; thread < kThreads; ++thread) {
    const auto lane = of_thread(times, thread);
    ASSERT_EQ(lane.size(), std::size(expected));
    double before = 0;
    for (size_t i = 0; i < lane.size(); ++i) {
      SCOPED_TRACE(i);
      EXPECT_EQ(lane[i].pass, expected[i].pass);
      EXPECT_EQ(lane[i].step, expected[i].step);
      EXPECT_EQ(lane[i].position, expected[i].position);
      EXPECT_EQ(lane[i].rows, expected[i].rows);
      EXPECT_LE(before, lane[i].begin);
      EXPECT_LE(lane[i].begin, lane[i].end);
      EXPECT_LE(lane[i].end, lane[i].left);
      before = lane[i].left;
    }
  }
}

TEST(Recorder, WhatFindsNoRoomIsCounted) {
  Session session = session_of_three_steps();
  Recorder recorder(kThreads, 2);
  session.record(&recorder);
  session.forward(std::vector<int32_t>{1});
  EXPECT_EQ(recorder.times().size(), size_t{2} * kThreads);
  EXPECT_EQ(recorder.lost(), size_t{1} * kThreads);
  recorder.clear();
  EXPECT_TRUE(recorder.times().empty());
  EXPECT_EQ(recorder.lost(), 0U);
}

TEST(Recorder, IsLeftAloneOnceItIsTakenAway) {
  Session session = session_of_three_steps();
  Recorder recorder(kThreads, 100);
  session.record(&recorder);
  session.forward(std::vector<int32_t>{1});
  session.record(nullptr);
  session.forward(std::vector<int32_t>{1});
  EXPECT_EQ(recorder.times().size(), size_t{3} * kThreads);
}

}  // namespace
}  // namespace nibble::runtime
