// The report's page: well-formed, complete, safe against odd names, and never broken by what is
// missing.
#include "tools/report/report.h"

#include <gtest/gtest.h>

#include <cmath>
#include <memory>
#include <random>
#include <string>
#include <vector>

#include "runtime/session.h"
#include "tests/tools/page_fault.h"
#include "tests/tools/program.h"
#include "tools/cli/model_loader.h"
#include "tools/report/measure_report.h"
#include "tools/report/svg.h"

namespace nibble::report {
namespace {

using test::count;
using test::fault_of;
using test::unwanted_in;

ReportData example_report() {
  ReportData data;
  data.model = "llama2-7b <g128> & \"friends\"";
  data.machine = "a processor";
  data.date = "25 November 2026";
  data.roofs = {.read_gbs = 50, .int8_gops = 1300};
  data.ops = {{"gemm_a", "decode", 32, 2'000'000'000, 7'500'000'000, 0.045},
              {"gemm_b", "decode", 32, 1'000'000'000, 3'700'000'000, 0.025},
              {"norm<script>", "decode", 65, 0, 0, 0.001},
              {"gemm_a", "prefill", 32, 2'000'000'000, 3'800'000'000'000, 3.4},
              {"attention", "prefill", 32, 270'000'000, 140'000'000'000, 0.4}};
  data.tilings = {{"gemm_u4s8f32_g128_n4096_k4096",
                   "avx512_vnni",
                   1,
                   2,
                   {{"1x16x4f8192", 200e-6, 195e-6, 230e-6, 40},
                    {"1x32x4f8192", 190e-6, 188e-6, 201e-6, 40},
                    {"2x16x8p", 400e-6, 390e-6, 480e-6, 5},
                    {"odd & name", 500e-6, 400e-6, 600e-6, 5},
                    {"1x16x8", 260e-6, 250e-6, 270e-6, 5}},
                   "1x32x4f8192",
                   "1x16x4f8192"}};
  data.contexts = {{16, 14.1, 15.2}, {1024, 12.9, 14.4}, {4096, 10.2, 12.3}};
  data.rows = {{1, 0.07, 1}, {4, 0.072, 1.03}, {16, 0.11, 1.57}};
  return data;
}

TEST(Report, IsOneWellFormedPageThatFetchesNothing) {
  const std::string page = render_report(example_report());
  EXPECT_EQ(fault_of(page), "");
  EXPECT_EQ(unwanted_in(page), "");
}

// What the test above relies on.
TEST(Report, FaultsAreFound) {
  EXPECT_EQ(fault_of("<!DOCTYPE html>\n<a b=\"1 > 0\"><c/>x &amp; y</a>"), "");
  for (const char* page : {"<a>", "</a>", "<a></b>", "<a><b></a></b>", "<a>x & y</a>",
                           "<a>x > y</a>", "<a <b></b></a>", "<a"}) {
    EXPECT_NE(fault_of(page), "") << page;
  }
  EXPECT_EQ(unwanted_in("<p x=\"1\">fine</p>"), "");
  for (const char* page : {"<script>", "<a href=\"x\">", "<p x=\"nan\">", "<p>-inf</p>"}) {
    EXPECT_NE(unwanted_in(page), "") << page;
  }
}

TEST(Report, EveryStepThatComputesHasItsDotAndEveryStepItsLine) {
  const ReportData data = example_report();
  const std::string html = render_roofline(data);
  EXPECT_EQ(count(html, "class=\"dot\""), 4U);  // all but the norm
  EXPECT_EQ(count(html, "<tr>"), 1 + data.ops.size());
  EXPECT_NE(html.find("4: gemm_a (prefill), 1117.6 GOP/s"), std::string::npos);
  EXPECT_NE(html.find("read 50.0 GB/s"), std::string::npos);
  EXPECT_NE(html.find("int8 1300 GOP/s"), std::string::npos);
}

TEST(Report, NamesAreEscapedWhereverTheyStand) {
  const std::string page = render_report(example_report());
  EXPECT_EQ(page.find("<g128>"), std::string::npos);
  EXPECT_NE(page.find("llama2-7b &lt;g128&gt; &amp; &quot;friends&quot;"), std::string::npos);
  EXPECT_NE(page.find("norm&lt;script&gt;"), std::string::npos);
  EXPECT_NE(page.find("odd &amp; name"), std::string::npos);
  EXPECT_EQ(escape("a\x01\n'b'"), "a  &#39;b&#39;");
}

TEST(Report, AHeatMapHasACellAShapeAndABarACandidate) {
  const std::string html = render_tilings(example_report());
  EXPECT_EQ(count(html, "<rect"), 3U);          // 1x16 (twice), 1x32, 2x16
  EXPECT_EQ(count(html, "class=\"dot\""), 5U);  // all candidates
  EXPECT_NE(html.find("1x16x4f8192 (default)"), std::string::npos);
  EXPECT_NE(html.find(">1.05</text>"), std::string::npos);  // the better of the two 1x16
  EXPECT_EQ(html.find(">1.37</text>"), std::string::npos);
  EXPECT_NE(html.find("2x16x8p: 400.0 µs (2.11 times the best), p20 390.0 µs, p80 480.0 µs, 5 "
                      "samples"),
            std::string::npos);
}

TEST(Report, TheWinnerAndTheDefaultAreShownHoweverSlow) {
  ReportData data = example_report();
  TilingChoice& choice = data.tilings.front();
  choice.candidates.clear();
  for (int i = 1; i <= 40; ++i) {
    const double time = 1e-3 * i;
    choice.candidates.push_back({std::to_string(i) + "x16x4", time, time, time, 1});
  }
  choice.winner = "30x16x4";
  choice.default_tiling = "40x16x4";
  const std::string html = render_tilings(data);
  EXPECT_EQ(count(html, "class=\"dot\""), 12U + 2);
  EXPECT_EQ(fault_of(html), "");
}

TEST(Report, CurvesHaveADotAPoint) {
  EXPECT_EQ(count(render_contexts(example_report()), "class=\"dot\""), 3U);
  EXPECT_EQ(count(render_rows(example_report()), "class=\"dot\""), 3U);
}

TEST(Report, WhatIsMissingIsSaid) {
  const std::string page = render_report({});
  EXPECT_EQ(fault_of(page), "");
  EXPECT_EQ(count(page, "class=\"none\""), 4U);
  EXPECT_EQ(count(page, "<svg"), 0U);
}

// One of anything, zeros, and equal values: no axis without extent, no number that is none.
TEST(Report, ExtremesStayOnThePage) {
  ReportData data;
  data.roofs = {.read_gbs = 50, .int8_gops = 1300};
  data.ops = {{"one", "decode", 1, 1, 1, 1e-9}, {"no time", "decode", 1, 10, 10, 0}};
  data.tilings = {{"spec", "avx2", 1, 1, {{"1x16x4", 1e-3, 1e-3, 1e-3, 1}}, "", ""},
                  {"empty", "avx2", 1, 1, {}, "", ""},
                  {"no shape", "avx2", 1, 1, {{"fast", 1e-3, 1e-3, 1e-3, 1}}, "fast", "fast"}};
  data.contexts = {{0, 0, 0}};
  data.rows = {{1, 0.1, 1}};
  for (const bool roofed : {true, false}) {
    if (!roofed) data.roofs = {};
    const std::string page = render_report(data);
    EXPECT_EQ(fault_of(page), "");
    EXPECT_EQ(unwanted_in(page), "");
  }
}

// Figures as they may come: many dots in one place, none within reach of an axis's middle.
TEST(Report, AnyFiguresMakeAPage) {
  std::mt19937_64 random(1);
  const auto between = [&](double low, double high) {
    return low * std::pow(high / low, std::uniform_real_distribution<double>(0, 1)(random));
  };
  for (int round = 0; round < 300; ++round) {
    ReportData data;
    data.roofs = {.read_gbs = between(1, 1000), .int8_gops = between(1, 1e5)};
    const double bytes = between(1, 1e10), operations = between(1, 1e13);
    for (int i = 0; i < 24; ++i) {
      data.ops.push_back({"op", i % 2 == 0 ? "decode" : "prefill", 1,
                          static_cast<int64_t>(bytes * between(0.9, 1.1)),
                          static_cast<int64_t>(operations * between(0.9, 1.1)),
                          between(1e-6, 1.1e-6)});
    }
    for (int i = 0; i < 5; ++i) {
      data.contexts.push_back({i * 100, between(1e-3, 1e4), between(1e-3, 1e4)});
      data.rows.push_back({1 << i, between(1e-6, 10), i == 0 ? 1 : between(0.5, 40)});
    }
    data.tilings = {{"spec", "avx2", 1, 1, {}, "", ""}};
    for (int i = 1; i < 20; ++i) {
      const double time = between(1e-7, 1);
      data.tilings.front().candidates.push_back(
          {std::to_string(i) + "x16x4", time, time * 0.9, time * 1.3, i});
    }
    ASSERT_EQ(fault_of(render_report(data)), "") << "round " << round;
  }
}

TEST(Axis, TicksAreRoundAndWithin) {
  const double values[] = {0.0, 4096.0};
  const Axis linear = axis_over(values, false, 0, 100);
  EXPECT_EQ(linear.ticks(), (std::vector<double>{0, 1000, 2000, 3000, 4000, 5000}));
  EXPECT_EQ(number(linear.ticks().front()), "0");  // not -0
  EXPECT_EQ(linear.at(0), 0);
  EXPECT_EQ(linear.at(linear.high), 100);
  const Axis logarithmic{1, 100, 0, 100, true, {}};
  EXPECT_EQ(logarithmic.ticks(), (std::vector<double>{1, 2, 5, 10, 20, 50, 100}));
  EXPECT_NEAR(logarithmic.at(10), 50, 1e-9);
  EXPECT_EQ((Axis{1, 100, 0, 100, true, {3, 7}}.ticks()), (std::vector<double>{3, 7}));
  EXPECT_EQ(number(0.5), "0.5");
  EXPECT_EQ(number(4096), "4096");
  EXPECT_EQ(number(20000), "20k");
}

// From a session to the page.
TEST(MeasureReport, FillsAllThatASessionCanSay) {
  cli::RunOptions run;
  run.threads = 2;
  cli::LoadedModel model = cli::load_model(test::demo_model(), "", {}, run);
  ASSERT_NE(model.session, nullptr);
  MeasureOptions options;
  options.prompt = 20;
  options.tokens = 4;
  options.contexts = {8, 40, 100000};  // the last does not fit
  options.rows = {1, 3};
  options.rounds = 2;
  ReportData data;
  measure_report(*model.session, *model.pool, options, data);
  EXPECT_GT(data.roofs.read_gbs, 0);
  ASSERT_EQ(data.contexts.size(), 2U);
  EXPECT_EQ(data.contexts[1].context, 42);
  EXPECT_GT(data.contexts[1].tok_s, 0);
  EXPECT_LT(data.contexts[1].roof_tok_s, data.contexts[0].roof_tok_s);  // more cache to read
  ASSERT_EQ(data.rows.size(), 2U);
  EXPECT_EQ(data.rows[0].ratio, 1);
  const auto decode = std::count_if(data.ops.begin(), data.ops.end(),
                                    [](const ReportOp& op) { return op.phase == "decode"; });
  EXPECT_EQ(2 * static_cast<size_t>(decode), data.ops.size());
  EXPECT_EQ(fault_of(render_report(data)), "");
}

}  // namespace
}  // namespace nibble::report
