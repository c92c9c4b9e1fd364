// `nibble quantize` as its users meet it, on the bundled model with little text.
#include <fcntl.h>
#include <gtest/gtest.h>
#include <signal.h>
#include <spawn.h>
#include <sys/wait.h>
#include <unistd.h>

#include <chrono>
#include <filesystem>
#include <nlohmann/json.hpp>
#include <thread>

#include "tests/runtime/temporary_folder.h"
#include "tests/tools/program.h"

namespace nibble::test {
namespace {

using nlohmann::json;
using runtime::read_file;
using runtime::TemporaryFolder;

std::vector<std::string> quantize(const std::string& output,
                                  const std::vector<std::string>& more = {}) {
  std::vector<std::string> arguments = {"quantize",          demo_model(), "-o",       output,
                                        "--calib-tokens",    "256",        "--length", "32",
                                        "--held-out-tokens", "256"};
  arguments.insert(arguments.end(), more.begin(), more.end());
  return arguments;
}

TEST(QuantizeTest, TheResultRunsAndCarriesItsRecipe) {
  const TemporaryFolder folder;
  const std::string output = folder.path("tale.nib"), page = folder.path("report.html");
  const Outcome made = nibble(
      quantize(output, {"--method", "gptq", "--json", "--report", page, "--max-loss", "50%"}));
  ASSERT_EQ(made.code, 0) << made.err;
  const json result = json::parse(made.out);
  EXPECT_EQ(result["method"], "gptq");
  EXPECT_TRUE(result["met"].get<bool>());
  ASSERT_EQ(result["trials"].size(), 1U);
  const json& trial = result["trials"][0];
  EXPECT_GT(trial["kl"].get<double>(), 0);
  EXPECT_LT(trial["kl"].get<double>(), 0.1);
  EXPECT_GT(trial["top1"].get<double>(), 0.8);
  EXPECT_EQ(trial["weights"].size(), 24U);
  EXPECT_LT(trial["loss_interval"][0], trial["loss"]);
  EXPECT_NE(read_file(page).find("<svg"), std::string::npos);
  EXPECT_EQ(folder.entries(), 2) << "unfinished work was left";

  const Outcome run = nibble({"run", output, "-p", "Once", "-n", "4", "--greedy", "--json"});
  ASSERT_EQ(run.code, 0) << run.err;
  EXPECT_EQ(json::parse(run.out)["ids"].size(), 4U);

  // The recipe that it carries makes the same file.
  const std::string recipe = folder.write("recipe.json", trial["recipe"].dump());
  const std::string twin = folder.path("twin.nib");
  const Outcome again = nibble(quantize(twin, {"--recipe", recipe, "--threads", "1"}));
  EXPECT_NE(again.code, 1) << again.err;
  EXPECT_TRUE(read_file(twin) == read_file(output));
}

TEST(QuantizeTest, TheSearchStopsAtTheFirstThatIsGoodEnough) {
  const TemporaryFolder folder;
  const Outcome made = nibble(quantize(folder.path("a.nib"), {"--max-loss", "90%", "--json"}));
  ASSERT_EQ(made.code, 0) << made.err;
  const json result = json::parse(made.out);
  EXPECT_EQ(result["method"], "rtn");
  EXPECT_EQ(result["trials"].size(), 1U);
}

TEST(QuantizeTest, AMissedMarkIsToldAndTheBestIsWritten) {
  const TemporaryFolder folder;
  const std::string output = folder.path("a.nib");
  // Coarse all over: a head and a table of 4 bits, whole columns.
  const std::string coarse = folder.write(
      "coarse.json", R"({"method": "rtn", "group": 0, "lm_head": {"weights": "int4", "group": 0}, )"
                     R"("embedding": {"weights": "int4", "group": 0}})");
  const Outcome made = nibble({"quantize", demo_model(), "-o", output, "--recipe", coarse,
                               "--max-loss", "0", "--held-out-tokens", "4096", "--json"});
  const json result = json::parse(made.out);
  ASSERT_GT(result["trials"][0]["loss"].get<double>(), 0);
  EXPECT_EQ(made.code, 3);
  EXPECT_FALSE(result["met"].get<bool>());
  EXPECT_NE(made.err.find("No recipe tried keeps the loss within 0.00%"), std::string::npos)
      << made.err;
  EXPECT_TRUE(std::filesystem::exists(output));
}

// Starts the program, sends it a signal when `sign` is there, and gives what became of it within a
// minute, in which it is killed otherwise.
int signal_when_there(const std::vector<std::string>& arguments, const std::string& sign,
                      int signal, const std::string& errors = "/dev/null") {
  std::vector<std::string> words = {NIBBLE_BINARY_DIR "/nibble"};
  words.insert(words.end(), arguments.begin(), arguments.end());
  std::vector<char*> argv;
  for (std::string& word : words) argv.push_back(word.data());
  argv.push_back(nullptr);
  posix_spawn_file_actions_t quiet;
  posix_spawn_file_actions_init(&quiet);
  posix_spawn_file_actions_addopen(&quiet, STDOUT_FILENO, "/dev/null", O_WRONLY, 0);
  posix_spawn_file_actions_addopen(&quiet, STDERR_FILENO, errors.c_str(), O_WRONLY | O_CREAT, 0600);
  pid_t child = 0;
  EXPECT_EQ(posix_spawn(&child, argv[0], &quiet, nullptr, argv.data(), environ), 0);
  posix_spawn_file_actions_destroy(&quiet);
  int status = 0;
  const auto moment = std::chrono::milliseconds(2);
  while (!std::filesystem::exists(sign)) {
    if (waitpid(child, &status, WNOHANG) != 0) {
      ADD_FAILURE() << "it ended before " << sign << " was there";
      return status;
    }
    std::this_thread::sleep_for(moment);
  }
  EXPECT_EQ(kill(child, signal), 0);
  const auto end = std::chrono::steady_clock::now() + std::chrono::minutes(1);
  while (waitpid(child, &status, WNOHANG) == 0) {
    if (std::chrono::steady_clock::now() > end) kill(child, SIGKILL);
    std::this_thread::sleep_for(moment);
  }
  return status;
}

void kill_when_there(const std::vector<std::string>& arguments, const std::string& sign) {
  ASSERT_TRUE(WIFSIGNALED(signal_when_there(arguments, sign, SIGKILL)))
      << "it was done before it could be killed";
}

// A layer that would take long is left at once; those before it are kept.
TEST(QuantizeTest, InterruptedWithinALayerItEndsSoonAndSaysHowToGoOn) {
  const TemporaryFolder folder;
  const std::string output = folder.path("a.nib"), errors = folder.path("errors");
  const std::string recipe =
      folder.write("long.json", R"({"method": "signround-blocks", "iterations": 100000})");
  const int status = signal_when_there(quantize(output, {"--recipe", recipe}),
                                       output + ".work/trial-0/block-0.nib", SIGINT, errors);
  ASSERT_TRUE(WIFEXITED(status)) << "it had to be killed";
  EXPECT_EQ(WEXITSTATUS(status), 1);
  EXPECT_NE(read_file(errors).find("Interrupted; the same command goes on where it was"),
            std::string::npos)
      << read_file(errors);
  EXPECT_FALSE(std::filesystem::exists(output));
  EXPECT_TRUE(std::filesystem::exists(output + ".work/trial-0/block-0.nib"));
}

TEST(QuantizeTest, KilledItGoesOnAndEndsWithTheSameBytes) {
  const TemporaryFolder folder;
  const std::string output = folder.path("a.nib"), whole = folder.path("b.nib");
  const std::vector<std::string> method = {"--method", "awq+gptq"};
  kill_when_there(quantize(output, method), output + ".work/trial-0/block-2.nib");
  EXPECT_FALSE(std::filesystem::exists(output));
  EXPECT_TRUE(std::filesystem::exists(output + ".work"));
  ASSERT_NE(nibble(quantize(output, method)).code, 1);
  ASSERT_NE(nibble(quantize(whole, method)).code, 1);
  EXPECT_TRUE(read_file(output) == read_file(whole));
  EXPECT_EQ(folder.entries(), 2);
}

TEST(QuantizeTest, AnotherRecipeTakesNothingFromOneThatWasKilled) {
  const TemporaryFolder folder;
  const std::string output = folder.path("a.nib"), whole = folder.path("b.nib");
  for (const std::vector<std::string>& other : std::vector<std::vector<std::string>>{
           {"--method", "opt-rtn"}, {"--method", "gptq", "--group", "128"}}) {
    kill_when_there(quantize(output, {"--method", "gptq"}), output + ".work/trial-0/block-2.nib");
    ASSERT_NE(nibble(quantize(output, other)).code, 1);
    ASSERT_NE(nibble(quantize(whole, other)).code, 1);
    EXPECT_TRUE(read_file(output) == read_file(whole)) << other[1];
    std::filesystem::remove(output);
  }
}

TEST(QuantizeTest, WhatIsWrongIsSaidAndNothingIsLeft) {
  const TemporaryFolder folder;
  const std::string output = folder.path("a.nib");
  const auto error = [&](const std::vector<std::string>& more, int code) {
    const Outcome outcome = nibble(quantize(output, more));
    EXPECT_EQ(outcome.code, code) << outcome.err;
    EXPECT_FALSE(std::filesystem::exists(output));
    return outcome.err;
  };
  const auto expect = [](const std::string& message, const char* part) {
    EXPECT_NE(message.find(part), std::string::npos) << message;
  };
  expect(error({"--calib", folder.path("none.txt")}, 1), "none.txt");
  const std::string tiny = folder.write("tiny.txt", "Too short.");
  expect(error({"--calib", tiny, "--method", "gptq"}, 1), "tiny.txt");
  const std::string bad = folder.write("bad.json", R"({"method": "gptq", "dampening": 1})");
  expect(error({"--recipe", bad}, 1), "\"dampening\" is no key of a recipe");
  expect(error({"--max-loss", "much"}, 2), "1% or 0.01");
  expect(error({"--method", "magic"}, 2), "magic");
  EXPECT_EQ(folder.entries(), 2) << "something was left beside the two texts";
}

TEST(QuantizeTest, AFullDiskIsAnErrorThatLosesNothing) {
  const TemporaryFolder folder;
  const std::string output = folder.path("a.nib");
  std::string command = "trap '' XFSZ; ulimit -f 256; exec " NIBBLE_BINARY_DIR "/nibble";
  for (const std::string& word : quantize(output, {"--method", "gptq"}))
    command += " '" + word + "'";
  const std::string errors = folder.path("errors");
  const int status = std::system(("bash -c \"" + command + "\" 2> " + errors).c_str());
  EXPECT_EQ(WEXITSTATUS(status), 1);
  EXPECT_NE(read_file(errors).find("block-"), std::string::npos) << read_file(errors);
  EXPECT_FALSE(std::filesystem::exists(output));
  // With room again it goes on.
  ASSERT_NE(nibble(quantize(output, {"--method", "gptq"})).code, 1);
  EXPECT_TRUE(std::filesystem::exists(output));
}

}  // namespace
}  // namespace nibble::test
