// The program on the bundled model: the same answers whichever way it is asked.
#include <gtest/gtest.h>

#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>

#include "tests/runtime/temporary_folder.h"
#include "tests/support/npy.h"
#include "tests/support/sanitized.h"
#include "tests/tools/program.h"

namespace nibble::test {
namespace {

using runtime::TemporaryFolder;

const Arguments greedy = {"-p", "Once upon a time", "-n", "24", "--greedy", "--json"};

TEST(Run, GreedyIdsAreTheSameFromOnnxAndNibForEveryThreadCountIsaAndChunk) {
  const TemporaryFolder folder;
  const std::string nib = folder.path("tale.nib");
  const auto compiled = json_of({"compile", demo_model(), "-o", nib, "--json"});
  EXPECT_TRUE(compiled["fused"].get<bool>());
  EXPECT_GT(compiled["bytes"].get<int64_t>(), 1000000);
  const auto ids = json_of(Arguments{"run", demo_model()} + greedy)["ids"];
  EXPECT_EQ(ids.size(), 24U);
  EXPECT_EQ(json_of(Arguments{"run", nib} + greedy)["ids"], ids);
  EXPECT_EQ(json_of(Arguments{"run", folder.folder()} + greedy)["ids"], ids);
  for (const char* threads : {"1", "2", "3"}) {
    EXPECT_EQ(json_of(Arguments{"run", nib, "--threads", threads} + greedy)["ids"], ids);
  }
  EXPECT_EQ(json_of(Arguments{"run", nib, "--chunk", "1"} + greedy)["ids"], ids);
  const auto machine = json_of({"doctor", "--json"});
  for (const std::string isa : machine["supported_isas"]) {
    Surroundings around;
    around.environment = {{"NIBBLE_ISA", isa}};
    const auto run = json_of(Arguments{"run", nib} + greedy, around);
    EXPECT_EQ(run["isa"], isa);
    EXPECT_EQ(run["ids"], ids) << isa;
  }
}

class RunCompute : public testing::TestWithParam<const char*> {};

TEST_P(RunCompute, LogitsHaveTheSameBitsForEveryThreadCountIsaAndChunk) {
  const TemporaryFolder folder;
  const std::string nib = folder.path("tale.nib"), ids = folder.path("ids.npy");
  Npy<int64_t> input{{2, 20}, {}};
  for (int64_t i = 0; i < 40; ++i) input.values.push_back(i * 97 % 4096);
  write_npy(ids, input);
  json_of({"compile", demo_model(), "-o", nib, "--compute", GetParam(), "--json"});
  EXPECT_EQ(json_of({"run", nib, "--ids", "0,5", "-n", "1", "--json"})["compute"], GetParam());
  const auto logits = [&](const Arguments& more, const Surroundings& around = {}) {
    const std::string out = folder.path("logits.npy");
    const Outcome outcome =
        nibble(Arguments{"logits", nib, "--ids", ids, "-o", out} + more, around);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    return runtime::read_file(out);
  };
  const std::string first = logits({"--threads", "1"});
  EXPECT_EQ(first.size(), 128 + size_t{2} * 20 * 4096 * sizeof(float));
  for (const Arguments& more : {Arguments{"--threads", "2"}, Arguments{"--chunk", "1"},
                                Arguments{"--chunk", "7"}, Arguments{"--threads", "3"}}) {
    EXPECT_TRUE(logits(more) == first) << testing::PrintToString(more);
  }
  const auto machine = json_of({"doctor", "--json"});
  for (const std::string isa : machine["supported_isas"]) {
    Surroundings around;
    around.environment = {{"NIBBLE_ISA", isa}};
    EXPECT_TRUE(logits({}, around) == first) << isa;
  }
}

INSTANTIATE_TEST_SUITE_P(All, RunCompute, testing::Values("int8", "bf16"),
                         [](const auto& info) { return std::string(info.param); });

TEST(Run, SamplingRepeatsWithItsSeed) {
  const Arguments base = {"run", demo_model(), "-p", "The king", "-n", "16", "--json"};
  const auto first = json_of(base + Arguments{"--seed", "7"});
  EXPECT_EQ(first["seed"], 7);
  EXPECT_EQ(json_of(base + Arguments{"--seed", "7"})["ids"], first["ids"]);
  EXPECT_NE(json_of(base + Arguments{"--seed", "8", "--temp", "2"})["ids"], first["ids"]);
}

TEST(Run, TextStreamsAndTimingsGoToStandardError) {
  const Outcome text =
      nibble({"run", demo_model(), "-p", "Once upon a time", "-n", "24", "--greedy", "--echo"});
  ASSERT_EQ(text.code, 0) << text.err;
  const auto json = json_of(Arguments{"run", demo_model()} + greedy);
  EXPECT_EQ(text.out, "Once upon a time" + json["text"].get<std::string>() + "\n");
  EXPECT_NE(text.err.find("tok/s"), std::string::npos);
  // The token that begins a text is added where tokenizer_config.json asks for it, once.
  EXPECT_EQ(json["prompt_ids"][0], 0);
  EXPECT_NE(json["prompt_ids"][1], 0);
}

TEST(Run, IdsInIdsOut) {
  const auto json =
      json_of({"run", demo_model(), "--ids", "0,5,7", "-n", "4", "--greedy", "--json"});
  EXPECT_EQ(json["ids"].size(), 4U);
  EXPECT_EQ(json["prompt_ids"], nlohmann::json({0, 5, 7}));
  EXPECT_EQ(json["stop"], "length");
  for (const char* key : {"prefill_tok_s", "decode_tok_s", "load_s", "jit_ms", "threads", "isa"}) {
    EXPECT_TRUE(json.contains(key)) << key;
  }
}

TEST(Run, CtrlCEndsCleanlyWithTheTimings) {
  Surroundings around;
  around.interrupt_after_output = true;
  const Outcome outcome = nibble({"run", demo_model(), "-p", "Once", "-n", "1000", "--ignore-eos",
                                  "--weights", "f32", "--no-fuse"},
                                 around);
  EXPECT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("tok/s"), std::string::npos) << outcome.err;
  EXPECT_NE(outcome.err.find("ended by interrupted"), std::string::npos) << outcome.err;
}

TEST(Run, WithoutExecutableMemoryTheAnswerIsTheSameAndAWarningSaysSo) {
  Surroundings around;
  around.environment = {{"NIBBLE_NO_JIT", "1"}};
  const Arguments arguments = {"run", demo_model(), "--ids",    "0,5",
                               "-n",  "3",          "--greedy", "--json"};
  const Outcome outcome = nibble(arguments, around);
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.err.find("nibble: warning: "), std::string::npos);
  EXPECT_EQ(nlohmann::json::parse(outcome.out)["ids"], json_of(arguments)["ids"]);
}

TEST(Run, EveryKindOfWeightsRuns) {
  for (const Arguments& weights :
       {Arguments{"--weights", "int8"}, Arguments{"--weights", "f32"}, Arguments{"--asym"},
        Arguments{"--group", "0"}, Arguments{"--group", "128", "--scale", "f32"},
        Arguments{"--compute", "f32"}, Arguments{"--compute", "bf16"}, Arguments{"--no-fuse"},
        Arguments{"--kv", "f32"}}) {
    SCOPED_TRACE(testing::PrintToString(weights));
    const auto json = json_of(
        Arguments{"run", demo_model(), "-p", "Once upon a", "-n", "2", "--greedy", "--json"} +
        weights);
    EXPECT_EQ(json["ids"].size(), 2U);
  }
}

TEST(Inspect, GraphFusionAndMemory) {
  const auto fusion = json_of({"inspect", demo_model(), "--fusion", "--json"});
  EXPECT_EQ(fusion["coverage"], 1.0);
  EXPECT_TRUE(fusion["complete"].get<bool>());
  EXPECT_GT(fusion["nodes_before"].get<int>(), fusion["nodes_after"].get<int>());
  const Outcome after = nibble({"inspect", demo_model(), "--graph", "--after", "form-norms"});
  EXPECT_EQ(after.code, 0) << after.err;
  EXPECT_NE(after.out.find("RMSNorm"), std::string::npos);
  EXPECT_NE(after.out.find("Softmax"), std::string::npos);
  const Outcome fused = nibble({"inspect", demo_model(), "--graph"});
  EXPECT_EQ(fused.out.find("Softmax"), std::string::npos);
  const auto memory = json_of({"inspect", demo_model(), "--memory", "--json"});
  EXPECT_GT(memory["weight_bytes"].get<int64_t>(), 0);
  EXPECT_GT(memory["kv_bytes"].get<int64_t>(), 0);
}

TEST(Bench, PrintsEveryFigure) {
  if (sanitized()) GTEST_SKIP() << "figures under sanitizers mean nothing";
  const auto json =
      json_of({"bench", demo_model(), "--prompt", "32", "--gen", "4", "--threads", "1", "--json"});
  for (const char* key :
       {"roof_read_gbs", "roof_int8_gops", "decode_tok_s", "decode_share", "prefill_tok_s",
        "prefill_share", "load_s", "jit_ms", "peak_rss_mb", "threads", "isa"}) {
    ASSERT_TRUE(json.contains(key)) << key;
    EXPECT_FALSE(json[key].is_null()) << key;
  }
  EXPECT_GT(json["decode_tok_s"].get<double>(), 0);
}

TEST(Bench, RowsContextStepsAndTrace) {
  if (sanitized()) GTEST_SKIP() << "figures under sanitizers mean nothing";
  const std::string trace = testing::TempDir() + "bench_trace.json";
  const auto json =
      json_of({"bench", demo_model(), "--prompt", "40", "--gen", "8", "--threads", "2", "--context",
               "300", "--rows=1,3", "--per-op", "--trace", trace, "--json"});
  EXPECT_EQ(json["context"], 304);
  EXPECT_GT(json["kv_bytes_per_token"].get<int64_t>(), 0);
  EXPECT_GE(json["roof_read_gbs"].get<double>(), json["roof_read_gbs_median"].get<double>());
  ASSERT_EQ(json["rows"].size(), 2U);
  EXPECT_EQ(json["rows"][0]["m"], 1);
  EXPECT_EQ(json["rows"][0]["ratio"], 1);
  EXPECT_EQ(json["rows"][1]["m"], 3);
  EXPECT_GT(json["rows"][1]["ms"].get<double>(), 0);
  for (const char* phase : {"decode", "prefill"}) {
    const auto& profile = json["per_op"][phase];
    double ms = profile["between_steps_ms"];
    for (const auto& op : profile["ops"]) ms += op["ms"].get<double>();
    EXPECT_GT(profile["ms"].get<double>(), 0) << phase;
    EXPECT_NEAR(ms, profile["ms"].get<double>(), 1e-3 * ms) << phase;
    EXPECT_TRUE(profile.contains("barrier_wait_ms")) << phase;
  }
  EXPECT_EQ(json["per_op"]["decode"]["units"], 4);
  EXPECT_EQ(json["per_op"]["prefill"]["rows"], 40);
  std::ifstream file(trace);
  const auto events = nlohmann::json::parse(file);
  std::set<int64_t> positions;  // of the prompt's pass and of the last four tokens
  for (const auto& event : events) {
    if (event["ph"] == "X" && event.contains("args") && event["args"]["step"] == 0) {
      positions.insert(event["args"]["position"].get<int64_t>());
    }
  }
  EXPECT_EQ(positions, (std::set<int64_t>{0, 304, 305, 306, 307}));
  std::filesystem::remove(trace);
}

TEST(Bench, RefusesWhatDoesNotFit) {
  const Outcome rows = nibble({"bench", demo_model(), "--rows=1,2,x"});
  EXPECT_EQ(rows.code, 2);
  EXPECT_NE(rows.err.find("'x'"), std::string::npos) << rows.err;
  const Outcome many = nibble({"bench", demo_model(), "--rows=500"});
  EXPECT_EQ(many.code, 1);
  EXPECT_NE(many.err.find("--rows needs 4000 positions"), std::string::npos) << many.err;
  const Outcome context = nibble({"bench", demo_model(), "--context", "4000"});
  EXPECT_EQ(context.code, 1);
  EXPECT_NE(context.err.find("1024"), std::string::npos) << context.err;
  const Outcome interpreted = nibble({"bench", demo_model(), "--no-fuse", "--per-op"});
  EXPECT_EQ(interpreted.code, 1);
  EXPECT_NE(interpreted.err.find("interpreted"), std::string::npos) << interpreted.err;
}

}  // namespace
}  // namespace nibble::test
