// Profiles and traces of recorded steps whose times are made up.
#include "tools/report/op_profile.h"

#include <gtest/gtest.h>

#include <map>
#include <nlohmann/json.hpp>

#include "tools/report/chrome_trace.h"

namespace nibble::report {
namespace {

constexpr runtime::Roofs kRoofs{.read_gbs = 10, .int8_gops = 1000};

runtime::Plan plan_of_two_layers() {
  runtime::Plan plan;
  for (int64_t layer = 0; layer < 2; ++layer) {
    runtime::Step& norm = plan.steps.emplace_back(runtime::Step::of(runtime::RowStep{}));
    norm.label = "norm";
    norm.layer = layer;
    runtime::Step& matmul = plan.steps.emplace_back(runtime::Step::of(runtime::GemmStep{}));
    matmul.label = "matmul <\"wide\">";
    matmul.layer = layer;
    matmul.weight_bytes = 10'000'000;  // 1 ms at the read roof
    matmul.macs = 50'000'000;          // 0.1 ms at the int8 roof
  }
  return plan;
}

// Two threads: the second begins each step 0.1 ms later and ends it 0.5 ms earlier.
std::vector<runtime::StepTime> times_of(const runtime::Plan& plan, int64_t passes, int64_t rows) {
  std::vector<runtime::StepTime> times;
  for (int thread = 0; thread < 2; ++thread) {
    double now = 1;
    for (int64_t pass = 0; pass < passes; ++pass) {
      for (int64_t step = 0; step < static_cast<int64_t>(plan.steps.size()); ++step) {
        const double takes = step % 2 == 0 ? 1e-3 : 2e-3;
        const double late = thread == 0 ? 0 : 1e-4, early = thread == 0 ? 0 : 5e-4;
        times.push_back({thread, pass, step, pass * rows, rows, now + late, now + takes - early,
                         now + takes + 1e-4});
        now += takes + 1e-4;
      }
    }
  }
  return times;
}

TEST(OpProfile, SumsLayersAndJudgesByTheNearerRoof) {
  const runtime::Plan plan = plan_of_two_layers();
  const OpProfile profile = profile_of(plan, times_of(plan, 3, 1), jit::KvType::f16, false);
  EXPECT_EQ(profile.units, 3);
  EXPECT_EQ(profile.rows, 1);
  EXPECT_NEAR(profile.seconds, 6.3e-3, 1e-9);
  EXPECT_NEAR(profile.between, 0.3e-3, 1e-9);
  EXPECT_NEAR(profile.waiting, 4 * (0.1e-3 + 0.6e-3) / 2, 1e-9);
  ASSERT_EQ(profile.lines.size(), 2U);
  const OpLine& matmul = profile.lines[0];  // the slowest first
  EXPECT_EQ(matmul.kind, "matmul <\"wide\">");
  EXPECT_EQ(matmul.calls, 2);
  EXPECT_NEAR(matmul.seconds, 4e-3, 1e-9);
  EXPECT_EQ(matmul.work.bytes, 20'000'000);
  const RoofShare share = share_of_roof(matmul.work, matmul.seconds, kRoofs);
  EXPECT_NEAR(share.share, 0.5, 1e-9);
  EXPECT_TRUE(share.of_read);
  EXPECT_EQ(profile.lines[1].kind, "norm");
  EXPECT_EQ(share_of_roof(profile.lines[1].work, 1, kRoofs).share, 0);
}

TEST(OpProfile, ManyRowsAreBoundByTheOtherRoof) {
  const runtime::Plan plan = plan_of_two_layers();
  const OpProfile profile = profile_of(plan, times_of(plan, 2, 20), jit::KvType::f16, true);
  EXPECT_EQ(profile.units, 1);
  EXPECT_EQ(profile.rows, 40);
  ASSERT_EQ(profile.lines[0].calls, 4);
  EXPECT_EQ(profile.lines[0].work.bytes, 40'000'000);
  EXPECT_EQ(profile.lines[0].work.operations, int64_t{4} * 20 * 100'000'000);
  const RoofShare share = share_of_roof(profile.lines[0].work, 8e-3, kRoofs);
  EXPECT_NEAR(share.share, 1, 1e-9);
  EXPECT_FALSE(share.of_read);
  const auto json = to_json(profile, kRoofs);
  EXPECT_EQ(json["ops"][0]["roof"], "int8");
  EXPECT_NEAR(json["ops"][0]["gops"].get<double>(), 1000, 1e-6);
  EXPECT_NE(to_table(profile, kRoofs).find("100.0 int8"), std::string::npos);
}

TEST(OpProfile, ADisturbedUnitDoesNotCount) {
  const runtime::Plan plan = plan_of_two_layers();
  auto times = times_of(plan, 8, 1);
  double late = 0;
  for (runtime::StepTime& time : times) {  // the fourth pass takes a second more, on every thread
    if (time.pass == 0 && time.step == 0) late = 0;
    time.begin += late;
    if (time.pass == 3 && time.step == 1) late = 1;
    time.end += late;
    time.left += late;
  }
  const OpProfile profile = profile_of(plan, times, jit::KvType::f16, false);
  EXPECT_EQ(profile.units, 4);
  EXPECT_NEAR(profile.seconds, 6.3e-3, 1e-9);
  EXPECT_EQ(profile.lines[0].calls, 2);
  EXPECT_NEAR(profile.lines[0].seconds + profile.lines[1].seconds + profile.between,
              profile.seconds, 1e-9);
}

// A thread that does not wait may begin a step while another is still in the one before.
TEST(OpProfile, TimeOfStepsThatOverlapCountsOnce) {
  const runtime::Plan plan = plan_of_two_layers();
  auto times = times_of(plan, 1, 1);
  for (runtime::StepTime& time : times) {
    if (time.step == 1 && time.thread == 0) time.begin -= 0.8e-3;
  }
  const OpProfile profile = profile_of(plan, times, jit::KvType::f16, false);
  double seconds = profile.between;
  for (const OpLine& line : profile.lines) seconds += line.seconds;
  EXPECT_NEAR(seconds, profile.seconds, 1e-9);
  EXPECT_NEAR(profile.seconds, 6.3e-3, 1e-9);
}

TEST(OpProfile, NothingRecordedIsNoProfile) {
  const runtime::Plan plan = plan_of_two_layers();
  const OpProfile profile = profile_of(plan, {}, jit::KvType::f16, false);
  EXPECT_EQ(profile.units, 0);
  EXPECT_TRUE(profile.lines.empty());
  EXPECT_TRUE(to_json(profile, kRoofs)["ops"].empty());
}

TEST(ChromeTrace, HasARowAThreadAndASliceAStep) {
  const runtime::Plan plan = plan_of_two_layers();
  const auto times = times_of(plan, 2, 1);
  const auto trace = nlohmann::json::parse(chrome_trace(plan, times, jit::KvType::f16, kRoofs));
  ASSERT_TRUE(trace.is_array());
  std::map<std::string, int> counts;
  std::vector<std::string> threads;
  for (const auto& event : trace) {
    ++counts[event.value("cat", event["name"].get<std::string>())];
    if (event["name"] == "thread_name") threads.push_back(event["args"]["name"]);
    if (event["ph"] != "X") continue;
    EXPECT_GE(event["ts"].get<double>(), 0);
    EXPECT_GE(event["dur"].get<double>(), 0);
  }
  EXPECT_EQ(threads, (std::vector<std::string>{"thread 0", "thread 1"}));
  EXPECT_EQ(counts["step"], static_cast<int>(times.size()));
  EXPECT_EQ(counts["barrier"], static_cast<int>(times.size()));
  for (const auto& event : trace) {
    if (event["name"] != "matmul <\"wide\">" || event["tid"] != 1) continue;
    EXPECT_NEAR(event["dur"].get<double>(), 1400, 1e-3);
    const auto& args = event["args"];
    EXPECT_EQ(args["layer"], 0);
    EXPECT_EQ(args["bytes"], 10'000'000);
    EXPECT_NEAR(args["gbs"].get<double>(), 5, 1e-6);
    EXPECT_NEAR(args["share_of_roof"].get<double>(), 0.5, 1e-9);
    EXPECT_EQ(args["roof"], "read");
    break;
  }
}

}  // namespace
}  // namespace nibble::report
