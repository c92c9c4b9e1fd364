// The page of a quantization: well-formed, complete, safe against odd names, and whole whatever
// the figures are.
#include "tools/report/quantize_report.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <random>
#include <string>
#include <vector>

#include "jit/error.h"
#include "tests/tools/page_fault.h"
#include "tools/report/svg.h"
#include "tools/report/trial_looks.h"

namespace nibble::report {
namespace {

using test::count;
using test::fault_of;
using test::unwanted_in;

constexpr double kInf = std::numeric_limits<double>::infinity();
constexpr double kNan = std::numeric_limits<double>::quiet_NaN();

bool has(const std::string& page, const std::string& what) {
  return page.find(what) != std::string::npos;
}

// Errors that grow with depth, and those of nearest beside them.
std::vector<QuantizeReport::Weight> weights_of(int64_t layers, double share) {
  std::vector<QuantizeReport::Weight> weights;
  const char* kinds[] = {"qkv", "o", "gate_up", "down"};
  for (int64_t layer = 0; layer < layers; ++layer) {
    for (int kind = 0; kind < 4; ++kind) {
      const double depth = static_cast<double>(layer) / static_cast<double>(layers);
      const double wave = 1 + 0.2 * std::sin(static_cast<double>(layer * (kind + 2)));
      const double nearest = 4e-3 * (kind + 1) * std::exp(1.2 * depth) * wave;
      const double better = share * (1 + 0.15 * std::cos(static_cast<double>(layer + kind)));
      weights.push_back({fmt::format("layers.{}.{}", layer, kinds[kind]), layer, nearest * better,
                         nearest, 1.5 + kind});
    }
  }
  return weights;
}

QuantizeReport::Trial trial_of(const std::string& method, const std::string& format, double loss,
                               double seconds, std::vector<QuantizeReport::Weight> weights) {
  QuantizeReport::Trial trial;
  trial.method = method;
  trial.text = method + " " + format;
  trial.base_perplexity = 5.472;
  trial.perplexity = trial.base_perplexity * (1 + loss);
  trial.loss = loss;
  trial.loss_low = loss - 0.0028;
  trial.loss_high = loss + 0.0029;
  trial.kl = 0.008 + loss;
  trial.top1 = 0.96 - loss;
  trial.bits = format.starts_with("int8")               ? 8.13
               : format.find("32") == std::string::npos ? 4.13
                                                        : 4.5;
  trial.seconds = seconds;
  trial.weights = std::move(weights);
  return trial;
}

QuantizeReport example_trials() {
  const std::string format = "int4 in groups of 128, with f16 scales";
  QuantizeReport report;
  report.model = "llama2-7b <fp16> & \"friends\"";
  report.calibration = "the model's own text";
  report.calibration_tokens = 65536;
  report.held_out_tokens = 16384;
  report.max_loss = 0.01;
  report.met = true;
  report.best = 3;
  report.trials = {trial_of("rtn", format, 0.0521, 6.1, {}),
                   trial_of("opt-rtn", format, 0.0312, 41, weights_of(32, 0.8)),
                   trial_of("gptq", format, 0.0172, 372, weights_of(32, 0.55)),
                   trial_of("awq+gptq", format, 0.0087, 811, weights_of(32, 0.42))};
  return report;
}

TEST(QuantizeReport, IsOneWellFormedPageThatFetchesNothing) {
  const std::string page = quantize_page(example_trials());
  EXPECT_EQ(fault_of(page), "");
  EXPECT_EQ(unwanted_in(page), "");
  EXPECT_EQ(count(page, "<svg"), count(page, "role=\"img\" aria-label=\""));
  EXPECT_EQ(count(page, "class=\"none\""), 0U);
  EXPECT_EQ(page, quantize_page(example_trials()));
}

TEST(QuantizeReport, SaysWhatWasChosenAndWhy) {
  const std::string page = quantize_page(example_trials());
  EXPECT_TRUE(has(page,
                  "Chosen: <b>awq+gptq int4 in groups of 128, with f16 scales</b>. Trial 4 "
                  "of 4 is the first that loses no more than the mark of 1%: 0.87%."));
  // Its interval ends at 1.16%.
  EXPECT_TRUE(has(page, "The 95% interval, 0.59% to 1.16%, reaches beyond the mark"));
  EXPECT_TRUE(has(page, "5.472, on the same 16384 tokens of held-out text"));
  EXPECT_TRUE(has(page, "Calibrated on 65536 tokens of the model&#39;s own text."));
}

TEST(QuantizeReport, SaysSoWhenNoTrialMetTheMark) {
  QuantizeReport report = example_trials();
  report.met = false;
  report.max_loss = 0.005;
  EXPECT_TRUE(has(quantize_page(report),
                  "None of 4 trials met the mark of 0.5%. Chosen: <b>awq+gptq "
                  "int4 in groups of 128, with f16 scales</b>, trial 4, "
                  "which loses least: 0.87%."));
  EXPECT_FALSE(has(quantize_page(report), "would tell"));  // 0.59% to 1.16%
  report.max_loss = 0.006;
  EXPECT_TRUE(has(quantize_page(report), "0.59% to 1.16%, holds the mark"));
}

TEST(QuantizeReport, OneTrialIsNotAChoiceOfMany) {
  QuantizeReport report = example_trials();
  report.trials.resize(1);
  report.best = 0;
  report.met = false;
  const std::string missed = quantize_page(report);
  EXPECT_EQ(fault_of(missed), "");
  EXPECT_TRUE(has(missed, "It loses 5.21% and misses the mark of 1%."));
  EXPECT_TRUE(has(missed, "No trial measured the errors of weights."));
  report.met = true;
  report.max_loss = 0.1;
  EXPECT_TRUE(has(quantize_page(report), "loses 5.21%, no more than the mark of 10%."));
}

TEST(QuantizeReport, EveryTrialHasItsLineAndTheChosenOneIsMarked) {
  const std::string html = render_trials(example_trials());
  EXPECT_EQ(count(html, "<tr"), 5U);
  EXPECT_EQ(count(html, "<tr class=\"chosen\">"), 1U);
  EXPECT_TRUE(has(html, "<tr class=\"chosen\"><td>4</td>"));
  EXPECT_TRUE(has(html,
                  "<td>5.520</td><td>0.87%</td><td>0.59% to 1.16%</td><td>0.0167</td>"
                  "<td>95.1</td><td>4.13</td><td>13 min 31 s</td>"));
}

TEST(QuantizeReport, EveryMeasureHasItsColumnAndTheOneThatDecidesIsMarked) {
  QuantizeReport report = example_trials();
  EXPECT_EQ(count(render_trials(report), "<table>"), 1U);
  for (auto& trial : report.trials) {
    trial.decided_by = "KL";
    trial.estimates = {{"perplexity", -0.001, -0.002, 0.0005},
                       {"KL", trial.loss, trial.loss_low, trial.loss_high}};
  }
  report.trials[3].estimates.push_back({"a<b.jsonl", 0.0025, -0.01, 0.015});
  const std::string html = render_trials(report);
  EXPECT_EQ(count(html, "<table>"), 2U);
  EXPECT_TRUE(has(html, "<th>loss by perplexity</th><th>95% interval</th><th>loss by KL</th>"));
  EXPECT_TRUE(has(html, "<th>loss by a&lt;b.jsonl</th>"));
  EXPECT_TRUE(has(html,
                  "<td>-0.10%</td><td>-0.20% to 0.05%</td><td><b>0.87%</b></td>"
                  "<td>0.59% to 1.16%</td><td>0.25%</td><td>-1.00% to 1.50%</td></tr>"));
  EXPECT_EQ(count(html, "<td>–</td><td>–</td></tr>"), 3U);  // no such task there
  const std::string page = quantize_page(report);
  EXPECT_EQ(fault_of(page), "");
  EXPECT_TRUE(has(page, "loss by KL; the mark is 1%"));
}

TEST(QuantizeReport, EveryTrialHasADotWithItsInterval) {
  const std::string html = render_loss(example_trials());
  EXPECT_EQ(count(html, "class=\"dot\""), 4U);
  EXPECT_TRUE(has(html, ">mark 1%</text>"));
  EXPECT_EQ(count(html, ">4.13</text>"), 1U);  // below all four
  EXPECT_TRUE(has(html, "3 gptq: 4.13 bits, loss 1.72% (1.44% to 2.01%)"));
  QuantizeReport bare = example_trials();
  for (auto& trial : bare.trials) trial.loss_low = trial.loss_high = 0;
  EXPECT_EQ(count(html, "<line") - count(render_loss(bare), "<line"), 3U * 4);
}

// Losses within their intervals are noise, and are drawn near one another.
TEST(QuantizeReport, ATinyMarkDoesNotBlowUpNoise) {
  QuantizeReport report = example_trials();
  report.max_loss = 1e-6;
  const std::string html = render_loss(report);
  EXPECT_TRUE(has(html, ">mark 0.0001%</text>"));
  EXPECT_FALSE(has(html, ">0.0001</text>"));
  EXPECT_FALSE(has(html, ">0.01</text>"));
  EXPECT_TRUE(has(html, ">1</text>"));
}

TEST(QuantizeReport, EveryKindHasAPictureAndEveryMethodALine) {
  const std::string html = render_errors(example_trials());
  EXPECT_EQ(count(html, "<svg"), 1U + 4);             // the legend
  EXPECT_EQ(count(html, "<polyline"), 4U * (3 + 1));  // and nearest
  EXPECT_EQ(count(html, "class=\"dot\""), 4U * 3 * 32);
  for (const char* kind : {"qkv", "o", "gate_up", "down"}) {
    EXPECT_TRUE(has(html, fmt::format("aria-label=\"Error of each layer&#39;s {}\"", kind)))
        << kind;
  }
  EXPECT_TRUE(has(html, "4 awq+gptq, layers.31.down: "));
}

// Groups of another size have a reference of their own.
TEST(QuantizeReport, NearestIsDrawnOnceAFormat) {
  QuantizeReport report = example_trials();
  report.trials.push_back(trial_of("awq+gptq", "int4 in groups of 32, with f16 scales", 0.004, 900,
                                   weights_of(32, 0.3)));
  const std::string html = render_errors(report);
  EXPECT_EQ(count(html, "<polyline"), 4U * (4 + 2));
  EXPECT_TRUE(has(html, ">5 awq+gptq int4 in groups of 32</text>"));
  EXPECT_TRUE(has(html, ">3 gptq</text>"));
}

TEST(QuantizeReport, SaysHowWeightsWithoutSpeakingNamesAreCounted) {
  QuantizeReport report = example_trials();
  EXPECT_FALSE(has(render_errors(report), "are counted in the order"));
  for (auto& trial : report.trials) {
    for (auto& weight : trial.weights) {
      weight.name = fmt::format("onnx::MatMul_{}{}", 1000 + weight.layer, weight.name.back());
    }
  }
  EXPECT_TRUE(has(render_errors(report), ">weight 4</text>"));
  EXPECT_TRUE(has(render_errors(report), "are counted in the order"));
}

TEST(QuantizeReport, ErrorsAreComparedWithNearest) {
  QuantizeReport report = example_trials();
  report.trials = {trial_of(
      "gptq", "int4", 0.001, 1,
      {{"layers.0.o", 0, 0.02, 0.04}, {"layers.1.o", 1, 0.01, 0.08}, {"layers.0.q", 0, 0.05, 0}})};
  report.best = 0;
  const std::string html = render_errors(report);
  // The geometric mean of a half and an eighth; q has nothing to compare with.
  EXPECT_TRUE(has(html, "<td>25.0%</td><td>25.0%</td><td>–</td>"));
}

TEST(QuantizeReport, ErrorsOfZeroBreakTheLineAndAreCounted) {
  QuantizeReport report = example_trials();
  report.trials.resize(3);
  report.trials.erase(report.trials.begin(), report.trials.begin() + 2);
  report.best = 0;
  auto& weights = report.trials[0].weights;
  for (auto& weight : weights) {
    if (weight.name == "layers.10.o") weight.error = 0;
  }
  const std::string html = render_errors(report);
  EXPECT_EQ(count(html, "<polyline"), 4U * 2 + 1);
  EXPECT_TRUE(has(html, "An error of 0 has no place"));
  for (auto& weight : weights) weight.error = weight.nearest_error = 0;
  const std::string none = quantize_page(report);
  EXPECT_EQ(fault_of(none), "");
  EXPECT_EQ(unwanted_in(none), "");
  EXPECT_TRUE(has(none, "128 errors of 0 have no place"));
}

TEST(QuantizeReport, ManyLayersHaveLinesWithoutDots) {
  QuantizeReport report = example_trials();
  for (auto& trial : report.trials) {
    if (!trial.weights.empty()) trial.weights = weights_of(200, 0.5);
  }
  const std::string page = quantize_page(report);
  EXPECT_EQ(fault_of(page), "");
  EXPECT_EQ(count(render_errors(report), "class=\"dot\""), 0U);
  EXPECT_LT(page.size(), 200'000U);
}

TEST(QuantizeReport, WeightsOutsideOfTheLayersStandByTrial) {
  QuantizeReport report = example_trials();
  for (auto& trial : report.trials) {
    if (!trial.weights.empty()) trial.weights = {{"lm_head.weight", -1, 0.01, 0.02, 3}};
  }
  const std::string html = render_errors(report);
  EXPECT_EQ(count(html, "class=\"dot\""), 3U);
  EXPECT_TRUE(has(html, ">lm_head</text>"));
  EXPECT_TRUE(has(html, ">trial</text>"));
}

TEST(QuantizeReport, NamesAreEscapedWhereverTheyStand) {
  QuantizeReport report = example_trials();
  const std::string odd = "<b a=\"1\" c='2'>&";
  report.model = report.calibration = odd;
  for (auto& trial : report.trials) {
    trial.method = trial.text = odd;
    for (auto& weight : trial.weights) weight.name += odd;
  }
  const std::string page = quantize_page(report);
  EXPECT_EQ(fault_of(page), "");
  EXPECT_FALSE(has(page, "<b a="));
  EXPECT_TRUE(has(page, "layers.31.down&lt;b a=&quot;1&quot; c=&#39;2&#39;&gt;&amp;"));
}

TEST(QuantizeReport, WhatIsMissingIsSaid) {
  const std::string page = quantize_page({});
  EXPECT_EQ(fault_of(page), "");
  EXPECT_EQ(count(page, "class=\"none\""), 4U);
  EXPECT_EQ(count(page, "<svg"), 0U);
}

TEST(QuantizeReport, LossesOfAnySizeAndSignStayOnThePage) {
  QuantizeReport report = example_trials();
  for (const double loss : {0.0, -0.004, -0.9, 1e-9, 12.0, 1e9, kInf, kNan}) {
    for (const double mark : {0.01, 0.0, 10.0}) {
      for (auto& trial : report.trials) trial.loss = loss;
      report.trials[0].loss = 0.01;
      report.max_loss = mark;
      const std::string page = quantize_page(report);
      ASSERT_EQ(fault_of(page), "") << loss;
      ASSERT_EQ(unwanted_in(page), "") << loss << " " << mark;
      ASSERT_EQ(count(render_loss(report), "class=\"dot\""), std::isfinite(loss) ? 4U : 1U);
    }
  }
  report.trials.resize(1);
  report.trials[0].loss = report.trials[0].bits = kNan;
  EXPECT_EQ(render_loss(report), "");
}

TEST(QuantizeReport, AnyFiguresMakeAPage) {
  std::mt19937_64 random(1);
  const auto between = [&](double low, double high) {
    return low * std::pow(high / low, std::uniform_real_distribution<double>(0, 1)(random));
  };
  for (int round = 0; round < 20; ++round) {
    QuantizeReport report = example_trials();
    report.max_loss = between(1e-5, 1);
    for (int i = 0; i < 20; ++i) {
      report.trials.push_back(trial_of("gptq", "int4 in groups of 32", between(1e-6, 100),
                                       between(1e-3, 1e6), weights_of(3, between(1e-6, 10))));
      report.trials.back().bits = between(1, 16);
    }
    const std::string page = quantize_page(report);
    ASSERT_EQ(fault_of(page), "") << "round " << round;
    ASSERT_EQ(unwanted_in(page), "") << "round " << round;
  }
}

TEST(TrialLooks, FiguresReadWell) {
  EXPECT_EQ(percent(0.0087, 0.01), "0.87%");
  EXPECT_EQ(percent(0.010004, 0.01), "1.0004%");  // not 1.00%: it misses the mark
  EXPECT_EQ(percent(0.01, 0.01), "1.00%");
  EXPECT_EQ(percent(-1e-9, 0.01), "0.00%");
  EXPECT_EQ(percent(-0.0012, 0.01), "-0.12%");
  EXPECT_EQ(percent(kNan, 0.01), "not finite");
  EXPECT_EQ(duration(0.0123), "12 ms");
  EXPECT_EQ(duration(3.44), "3.4 s");
  EXPECT_EQ(duration(811), "13 min 31 s");
  EXPECT_EQ(duration(3599.7), "1 h 0 min");
  EXPECT_EQ(duration(7265), "2 h 1 min");
}

TEST(TrialLooks, LinesOfTheSameColourDifferInDashes) {
  QuantizeReport report;
  for (int i = 0; i < 16; ++i)
    report.trials.push_back(trial_of("gptq", "int4", 0, 1, weights_of(1, 1)));
  const auto looks = looks_of(report);
  for (size_t a = 0; a < looks.size(); ++a) {
    for (size_t b = 0; b < a; ++b) {
      EXPECT_FALSE(std::string(looks[a].colour) == looks[b].colour &&
                   looks[a].dashed == looks[b].dashed)
          << a << " and " << b;
    }
  }
}

TEST(Axis, OnBothSidesOfZeroTicksAreRoundAndApart) {
  const Axis axis{.low = -1, .high = 1000, .from = 0, .to = 400, .linear_to = 1};
  EXPECT_NEAR(axis.at(-1), 0, 1e-9);
  EXPECT_NEAR(axis.at(1000), 400, 1e-9);
  EXPECT_GT(axis.at(1) - axis.at(0), 0.8 * (axis.at(0) - axis.at(-1)));
  const std::vector<double> ticks = axis.ticks();
  for (const double tick : {-1.0, 0.0, 1.0, 10.0, 100.0, 1000.0}) {
    EXPECT_EQ(std::count_if(ticks.begin(), ticks.end(),
                            [&](double t) { return std::abs(t - tick) < 1e-9; }),
              1)
        << tick;
  }
  for (size_t i = 1; i < ticks.size(); ++i) {
    EXPECT_GE(axis.at(ticks[i]) - axis.at(ticks[i - 1]), 20 - 1e-9);
  }
}

TEST(Spread, MovesOnlyWhatIsTooNear) {
  EXPECT_EQ(spread(std::vector<double>{10, 50, 90}, 20, 0, 100), (std::vector<double>{10, 50, 90}));
  EXPECT_EQ(spread(std::vector<double>{50, 50, 50}, 20, 0, 100), (std::vector<double>{30, 50, 70}));
  EXPECT_EQ(spread(std::vector<double>{95, 10, 95}, 20, 0, 100),
            (std::vector<double>{80, 10, 100}));
  // A run that grows takes its neighbour along.
  EXPECT_EQ(spread(std::vector<double>{40, 40, 55}, 20, 0, 100), (std::vector<double>{25, 45, 65}));
  // Where there is no room they share what there is.
  EXPECT_EQ(spread(std::vector<double>{5, 5, 5}, 20, 0, 10), (std::vector<double>{0, 5, 10}));
  EXPECT_TRUE(spread({}, 20, 0, 10).empty());
}

}  // namespace
}  // namespace nibble::report
