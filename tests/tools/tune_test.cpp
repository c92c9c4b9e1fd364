// nibble tune and what it does with its database, as a user sees it. No test looks at speeds.
#include <gtest/gtest.h>

#include <filesystem>
#include <nlohmann/json.hpp>

#include "tests/runtime/temporary_folder.h"
#include "tests/tools/program.h"

namespace nibble::test {
namespace {

using Json = nlohmann::json;
using runtime::read_file;

class Tune : public testing::Test {
 protected:
  Tune() { around_.environment = {{"NIBBLE_TUNE_DB", path()}}; }
  std::string path() const { return folder_.path("db/tune.json"); }

  Outcome ask(const std::vector<std::string>& arguments) const {
    return nibble(arguments, around_);
  }
  Json json_of(std::vector<std::string> arguments) const {
    arguments.push_back("--json");
    const Outcome outcome = ask(arguments);
    EXPECT_EQ(outcome.code, 0) << testing::PrintToString(arguments) << outcome.err;
    return Json::parse(outcome.out);
  }
  Json tune_tiny(std::vector<std::string> more = {}) const {
    more.insert(more.begin(),
                {"tune", demo_model(), "--budget", "0.5s", "--rows", "1", "--threads", "2"});
    return json_of(more);
  }
  void expect_error(const std::vector<std::string>& arguments, int code,
                    const std::string& part) const {
    SCOPED_TRACE(testing::PrintToString(arguments));
    const Outcome outcome = ask(arguments);
    EXPECT_EQ(outcome.code, code);
    EXPECT_EQ(outcome.messages(), 1) << outcome.err;
    EXPECT_NE(outcome.err.find(part), std::string::npos) << outcome.err;
  }
  // Every winner becomes what `change` makes of the entry, in the file.
  void change_entries(const std::function<void(Json&)>& change) const {
    Json json = Json::parse(read_file(path()));
    for (Json& entry : json["entries"]) change(entry);
    std::ofstream(path()) << json.dump();
  }

  runtime::TemporaryFolder folder_;
  Surroundings around_;
};

TEST_F(Tune, MeasuresEveryMatmulOnceAndTheModelUsesIt) {
  const std::vector<std::string> run = {"run", demo_model(), "--ids",     "5,7,9", "-n",
                                        "8",   "--greedy",   "--threads", "2",     "--json"};
  const Json before = Json::parse(ask(run).out);
  EXPECT_EQ(json_of({"inspect", demo_model(), "--memory", "--threads", "2"})["tuned"], 0);

  const Json tuned = tune_tiny();
  ASSERT_GT(tuned["entries"].size(), 1U);
  EXPECT_EQ(tuned["database"], path());
  for (const Json& entry : tuned["entries"]) {
    EXPECT_EQ(entry["m"], 1);
    EXPECT_EQ(entry["threads"], 2);
    EXPECT_GT(entry["winner_s"].get<double>(), 0);
    EXPECT_GT(entry["tried"].get<int>(), 0);
    EXPECT_LE(entry["ratio"].get<double>(), 1);
  }
  EXPECT_EQ(json_of({"doctor"})["tuned"], tuned["entries"].size());

  // Wherever the model's matmuls have other tilings now, its words are the same.
  change_entries([](Json& entry) {
    entry["winner"] = "1x64x4";
    entry["candidates"]["1x64x4"] = {1e-6, 1e-6, 1e-6, 9};
  });
  const Json with = json_of({"inspect", demo_model(), "--memory", "--threads", "2"});
  EXPECT_GE(with["tuned"], tuned["entries"].size());  // layers share matmuls
  EXPECT_EQ(json_of({"inspect", demo_model(), "--memory", "--threads", "1"})["tuned"], 0);
  const Json after = Json::parse(ask(run).out);
  EXPECT_EQ(before["ids"], after["ids"]);
  Surroundings off;
  off.environment = {{"NIBBLE_TUNE_DB", "off"}};
  const Outcome without =
      nibble({"inspect", demo_model(), "--memory", "--threads", "2", "--json"}, off);
  EXPECT_EQ(Json::parse(without.out)["tuned"], 0);
}

TEST_F(Tune, ResumingSkipsWhatIsCompleteAndGoesOnWithTheRest) {
  tune_tiny();
  change_entries([](Json& entry) { entry["complete"] = true; });
  const std::string whole = read_file(path());
  const Json again = tune_tiny({"--resume"});
  for (const Json& entry : again["entries"]) EXPECT_TRUE(entry["skipped"]);
  bool first = true;
  change_entries([&](Json& entry) {
    if (!first) entry["complete"] = false;
    first = false;
  });
  const Json resumed = tune_tiny({"--resume"});
  int skipped = 0;
  for (const Json& entry : resumed["entries"]) skipped += entry["skipped"] ? 1 : 0;
  EXPECT_EQ(skipped, 1);
  // What was measured before is still there.
  const Json before = Json::parse(whole), after = Json::parse(read_file(path()));
  for (size_t i = 0; i < before["entries"].size(); ++i) {
    for (const auto& [tiling, timing] : before["entries"][i]["candidates"].items()) {
      EXPECT_TRUE(after["entries"][i]["candidates"].contains(tiling)) << tiling;
    }
  }
}

TEST_F(Tune, TellsAPersonToo) {
  const Outcome outcome = ask({"tune", demo_model(), "--budget", "0.2s", "--rows", "1,3",
                               "--threads", "1", "--isa", "avx2"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  EXPECT_NE(outcome.out.find("avx2 m=3"), std::string::npos) << outcome.out;
  EXPECT_NE(outcome.out.find("faster than the default"), std::string::npos);
  EXPECT_EQ(outcome.err.find('\r'), std::string::npos);  // no progress where there is no terminal
  const Outcome shown = ask({"tune", "show"});
  EXPECT_NE(shown.out.find("avx2"), std::string::npos);
}

TEST_F(Tune, VerifyingPutsTheDefaultBackWhereItIsFaster) {
  tune_tiny();
  // Nothing to put back where the default has won.
  change_entries([](Json& entry) { entry["winner"] = entry["default"]; });
  EXPECT_EQ(json_of({"tune", "verify", "--threads", "2", "--budget", "0.5s"})["replaced"], 0);
  // No registers hold these: a winner that cannot even be made.
  change_entries([](Json& entry) {
    entry["winner"] = "20x128x1";
    entry["candidates"]["20x128x1"] = {1e-9, 1e-9, 1e-9, 9};
  });
  const Json verified = json_of({"tune", "verify", "--threads", "2", "--budget", "0.5s"});
  EXPECT_EQ(verified["replaced"], verified["verified"]);
  EXPECT_GT(verified["verified"], 1);
  const Json shown_now = json_of({"tune", "show"});
  for (const Json& entry : shown_now["entries"]) {
    EXPECT_EQ(entry["winner"], entry["default"]);
  }
  EXPECT_EQ(json_of({"tune", "verify", "--threads", "1", "--budget", "0.5s"})["verified"], 0);
}

TEST_F(Tune, AnothersFileIsSaidOnceAndLeftAlone) {
  tune_tiny();
  Json json = Json::parse(read_file(path()));
  json["machine"]["cores"] = 4096;
  std::ofstream(path()) << json.dump();
  const std::string before = read_file(path());
  const Outcome run = ask({"run", demo_model(), "--ids", "5,7", "-n", "2", "--greedy"});
  EXPECT_EQ(run.code, 0);
  const size_t said = run.err.find("another machine");
  ASSERT_NE(said, std::string::npos) << run.err;
  EXPECT_EQ(run.err.find("another machine", said + 1), std::string::npos) << run.err;
  expect_error({"tune", demo_model(), "--budget", "1s"}, 1, "NIBBLE_TUNE_DB");
  expect_error({"tune", "verify"}, 1, "another machine");
  expect_error({"tune", "reset"}, 1, "another machine");
  expect_error({"tune", "export", "-o", folder_.path("x.json")}, 1, "another machine");
  EXPECT_EQ(json_of({"tune", "show"})["state"], "foreign");
  EXPECT_EQ(json_of({"doctor"})["problems"].size(), 1U);
  EXPECT_EQ(read_file(path()), before);
  EXPECT_FALSE(std::filesystem::exists(folder_.path("x.json")));
}

TEST_F(Tune, ExportDiffMergeAndReset) {
  tune_tiny();
  const size_t count = json_of({"tune", "show"})["entries"].size();
  const std::string copy = folder_.path("copy.json"), merged = folder_.path("merged.json");
  EXPECT_EQ(json_of({"tune", "export", "-o", copy})["entries"], count);
  expect_error({"tune", "export", "-o", copy}, 1, "there already");
  EXPECT_TRUE(json_of({"tune", "diff", path(), copy})["differences"].empty());
  EXPECT_EQ(ask({"tune", "diff", path(), copy}).out, "");
  change_entries([](Json& entry) {
    entry["winner"] = "1x128x2";
    entry["candidates"]["1x128x2"] = {1e-6, 1e-6, 1e-6, 1000};
  });
  const Json diff = json_of({"tune", "diff", path(), copy});
  ASSERT_EQ(diff["differences"].size(), count);
  EXPECT_EQ(diff["differences"][0]["winner_a"], "1x128x2");
  EXPECT_EQ(json_of({"tune", "merge", copy, path(), "-o", merged})["entries"], count);
  const Json merged_json = Json::parse(read_file(merged));
  for (const Json& entry : merged_json["entries"]) {
    EXPECT_EQ(entry["winner"], "1x128x2");
  }
  EXPECT_EQ(json_of({"tune", "reset"})["removed"].size(), count);
  EXPECT_EQ(json_of({"tune", "show"})["entries"].size(), 0U);
  EXPECT_EQ(json_of({"tune", "reset"})["removed"].size(), 0U);
}

TEST_F(Tune, TheReportIsOnePage) {
  tune_tiny();
  const std::string page = folder_.path("report.html");
  const Json alone = json_of({"tune", "report", "-o", page});
  EXPECT_GT(alone["tilings"].get<int>(), 0);
  EXPECT_EQ(alone["ops"], 0);
  const std::string text = read_file(page);
  EXPECT_EQ(text.size(), alone["bytes"]);
  EXPECT_NE(text.find("<svg"), std::string::npos);
  EXPECT_NE(text.find("</html>"), std::string::npos);
  EXPECT_EQ(text.find("<script"), std::string::npos);
  expect_error({"tune", "report", "-o", folder_.path("no/such/folder/page.html")}, 1, "no/such");
  expect_error({"tune", "report"}, 2, "--output");
}

TEST_F(Tune, ErrorsSayWhatIsWrong) {
  expect_error({"tune"}, 2, "MODEL, --shape or a subcommand");
  expect_error({"tune", demo_model(), "--budget", "soon"}, 2, "soon");
  expect_error({"tune", demo_model(), "--budget", "-3s"}, 2, "--budget");
  expect_error({"tune", demo_model(), "--isa", "mmx"}, 2, "--isa");
  expect_error({"tune", demo_model(), "--rows", "0"}, 2, "--rows");
  expect_error({"tune", demo_model(), "--shape", "llama2-7b"}, 2, "excludes");
  expect_error({"tune", demo_model(), "--no-fuse", "--budget", "1s"}, 1, "fused");
  expect_error({"tune", "nowhere.onnx"}, 1, "nowhere.onnx");
  expect_error({"tune", "verify"}, 1, "nothing to verify");
  expect_error({"tune", "export", "-o", folder_.path("x")}, 1, "no such file");
  expect_error({"tune", "diff", "a.json", "b.json"}, 1, "a.json");
  expect_error({"tune", "merge", "a.json"}, 2, "required");
  folder_.write("bad.json", "{");
  expect_error({"tune", "diff", folder_.path("bad.json"), folder_.path("bad.json")}, 1, "damaged");
  EXPECT_EQ(json_of({"tune", "show"})["state"], "absent");
}

TEST_F(Tune, OffIsOff) {
  around_.environment = {{"NIBBLE_TUNE_DB", "off"}};
  expect_error({"tune", demo_model()}, 2, "NIBBLE_TUNE_DB");
  expect_error({"tune", "verify"}, 2, "NIBBLE_TUNE_DB");
  EXPECT_EQ(json_of({"tune", "show"})["state"], "disabled");
}

TEST_F(Tune, WithoutMachineCodeThereIsNothingToMeasure) {
  around_.environment.emplace_back("NIBBLE_NO_JIT", "1");
  expect_error({"tune", demo_model(), "--budget", "1s"}, 1, "NIBBLE_NO_JIT");
}

}  // namespace
}  // namespace nibble::test
