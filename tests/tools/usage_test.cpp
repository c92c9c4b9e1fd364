// Wrong command lines: exit code 2, one message, nothing on standard output.
#include <gtest/gtest.h>

#include <algorithm>
#include <nlohmann/json.hpp>

#include "tests/tools/program.h"

namespace nibble::test {
namespace {

void expect_usage_error(const std::vector<std::string>& arguments, const std::string& part) {
  SCOPED_TRACE(testing::PrintToString(arguments));
  const Outcome outcome = nibble(arguments);
  EXPECT_EQ(outcome.code, 2);
  EXPECT_EQ(outcome.out, "");
  EXPECT_EQ(outcome.messages(), 1) << outcome.err;
  EXPECT_NE(outcome.err.find(part), std::string::npos) << outcome.err;
}

TEST(Usage, CommandsThatDoNotExist) {
  expect_usage_error({}, "--help");
  expect_usage_error({"compil"}, "Did you mean 'compile'?");
  expect_usage_error({"tokenise"}, "Did you mean 'tokenize'?");
  expect_usage_error({"xyzzy"}, "no command 'xyzzy'");
  expect_usage_error({"kernels"}, "--help");
  expect_usage_error({"kernels", "burn"}, "--help");
}

TEST(Usage, OptionsThatDoNotExistOrDoNotFit) {
  expect_usage_error({"run", demo_model(), "--gredy", "-p", "x"}, "Did you mean '--greedy'?");
  expect_usage_error({"run", demo_model()}, "-p TEXT or --ids IDS");
  expect_usage_error({"run", "-p", "x"}, "MODEL");
  expect_usage_error({"run", demo_model(), "-p", "x", "--ids", "1"}, "excludes");
  expect_usage_error({"run", demo_model(), "-p", "x", "--greedy", "--top-k", "5"}, "excludes");
  expect_usage_error({"run", demo_model(), "--ids", "1,x"}, "ids");
  expect_usage_error({"run", demo_model(), "-p", "x", "-n", "-5"}, "--tokens");
  expect_usage_error({"run", demo_model(), "-p", "x", "--threads", "0"}, "--threads");
  expect_usage_error({"logits", demo_model()}, "required");
  expect_usage_error({"compile", demo_model()}, "required");
  expect_usage_error({"compile", "-o", "x.nib"}, "MODEL or --shape");
  expect_usage_error({"compile", demo_model(), "-o", "x.nib", "--weights", "int3"}, "--weights");
  expect_usage_error({"compile", demo_model(), "-o", "x.nib", "--group", "17"}, "--group");
  expect_usage_error({"compile", demo_model(), "-o", "x.nib", "--scale", "q8", "--asym"},
                     "--scale q8 goes with symmetric weights");
  expect_usage_error({"compile", demo_model(), "-o", "x.nib", "--scale", "q8", "--group", "0"},
                     "--scale q8 takes groups of 16 to 128");
  expect_usage_error({"compile", demo_model(), "-o", "x.nib", "--compute", "f16"}, "--compute");
  expect_usage_error({"compile", "--shape", "llama9", "-o", "x.nib"}, "--shape");
  expect_usage_error({"bench"}, "MODEL or --shape");
  expect_usage_error({"inspect", demo_model()}, "--graph, --fusion or --memory");
  expect_usage_error({"inspect", demo_model(), "--graph", "--after", "no-pass"}, "--after");
  expect_usage_error({"inspect", demo_model(), "--fusion", "--after", "form-norms"}, "--graph");
  expect_usage_error({"kernels", "dump", "gemm_nonsense"}, "no kernel's name");
}

TEST(Usage, SamplingOptionsOutOfTheirRange) {
  for (const auto& [option, value] : {std::pair{"--temp", "-1"},
                                      {"--top-p", "0"},
                                      {"--min-p", "1.5"},
                                      {"--repeat-penalty", "0"}}) {
    expect_usage_error({"run", demo_model(), "-p", "x", "-n", "1", option, value}, value);
  }
}

TEST(Usage, HelpAndVersionAreNoErrors) {
  for (const char* command : {"compile", "run", "logits", "tokenize", "inspect", "doctor", "bench",
                              "eval", "kernels", "tune"}) {
    const Outcome outcome = nibble({command, "--help"});
    EXPECT_EQ(outcome.code, 0) << command;
    EXPECT_NE(outcome.out.find("Usage: nibble " + std::string(command)), std::string::npos)
        << outcome.out;
    EXPECT_EQ(outcome.err, "");
  }
  EXPECT_NE(nibble({"--version"}).out.find("nibble 0."), std::string::npos);
}

TEST(Usage, AFullDiskIsAnErrorAndNoSilence) {
  Surroundings around;
  around.output = "/dev/full";
  const Outcome outcome = nibble({"tokenize", demo_model(), "text", "--json"}, around);
  EXPECT_EQ(outcome.code, 1);
  EXPECT_NE(outcome.err.find("Standard output could not be written"), std::string::npos);
}

TEST(Doctor, DescribesTheMachine) {
  const Outcome outcome = nibble({"doctor", "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto json = nlohmann::json::parse(outcome.out);
  EXPECT_GE(json["threads"].get<int>(), 1);
  EXPECT_TRUE(json["jit_allowed"].is_boolean());
  EXPECT_FALSE(json["supported_isas"].empty());
  EXPECT_EQ(nibble({"doctor"}).code, 0);
}

TEST(Doctor, SaysWhatStandsInTheWay) {
  Surroundings around;
  around.environment = {{"NIBBLE_NO_JIT", "1"}};
  const auto refused = nlohmann::json::parse(nibble({"doctor", "--json"}, around).out);
  EXPECT_FALSE(refused["jit_allowed"].get<bool>());
  EXPECT_EQ(refused["problems"].size(), 1U);
  around.environment = {{"NIBBLE_ISA", "mmx"}};
  const Outcome outcome = nibble({"doctor"}, around);
  EXPECT_EQ(outcome.code, 1);
  EXPECT_NE(outcome.err.find("mmx"), std::string::npos);
}

TEST(Kernels, ListDumpAndCheckGoByTheSameNames) {
  const Outcome list = nibble({"kernels", "list", "--json", "--isa", "avx2"});
  ASSERT_EQ(list.code, 0) << list.err;
  const auto names = nlohmann::json::parse(list.out)["kernels"];
  ASSERT_GT(names.size(), 10U);
  for (const size_t i : {size_t{0}, names.size() / 2, names.size() - 1}) {
    const std::string name = names[i];
    const Outcome dump = nibble({"kernels", "dump", name});
    ASSERT_EQ(dump.code, 0) << dump.err;
    EXPECT_NE(dump.out.find("ret"), std::string::npos) << name;
    const Outcome check = nibble({"kernels", "check", name});
    EXPECT_EQ(check.code, 0) << check.err;
    EXPECT_NE(check.out.find("same"), std::string::npos) << check.out;
  }
}

TEST(Tokenize, ShowsIdsTokensAndTheTextAgain) {
  const std::string text = "<|endoftext|>Once upon a time\n";
  const Outcome outcome = nibble({"tokenize", demo_model(), text, "--json"});
  ASSERT_EQ(outcome.code, 0) << outcome.err;
  const auto json = nlohmann::json::parse(outcome.out);
  EXPECT_EQ(json["text"], text);
  EXPECT_EQ(json["ids"][0], 0);
  EXPECT_EQ(json["ids"].size(), json["tokens"].size());
  const Outcome lines = nibble({"tokenize", demo_model() + "/model.onnx", text});
  ASSERT_EQ(lines.code, 0) << lines.err;
  EXPECT_EQ(static_cast<size_t>(std::count(lines.out.begin(), lines.out.end(), '\n')),
            json["ids"].size());
}

}  // namespace
}  // namespace nibble::test
