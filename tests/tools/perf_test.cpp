// The programs of perf/: compare.sh on small cases, and whether every kernel has its benchmark.
#include <gtest/gtest.h>
#include <sys/wait.h>
#include <unistd.h>

#include <array>
#include <cstdio>
#include <filesystem>
#include <fstream>
#include <nlohmann/json.hpp>
#include <set>
#include <sstream>

#include "jit/kernel_catalog.h"

namespace nibble::test {
namespace {

namespace fs = std::filesystem;

struct Result {
  int code = -1;
  std::string output;
};

// Standard output of a shell command; its messages go where the test's go.
Result shell(const std::string& command) {
  Result result;
  FILE* pipe = popen(command.c_str(), "r");
  if (pipe == nullptr) return result;
  std::array<char, 4096> buffer;
  while (const size_t count = fread(buffer.data(), 1, buffer.size(), pipe)) {
    result.output.append(buffer.data(), count);
  }
  const int status = pclose(pipe);
  if (WIFEXITED(status)) result.code = WEXITSTATUS(status);
  return result;
}

const std::string kPerf = std::string(NIBBLE_BINARY_DIR) + "/perf";
const std::string kCompare = std::string(NIBBLE_SOURCE_DIR) + "/perf/compare.sh";

#define SKIP_WITHOUT(program)                                                          \
  if (!fs::exists(kPerf + "/" program)) {                                              \
    GTEST_SKIP() << "This build has no " program ": it was configured without perf/."; \
  }

class Compare : public testing::Test {
 protected:
  void SetUp() override {
    folder_ = fs::temp_directory_path() / ("nibble_compare_" + std::to_string(getpid()));
  }
  void TearDown() override { fs::remove_all(folder_); }
  Result compare(const std::string& options, const std::string& build = NIBBLE_BINARY_DIR) const {
    return shell("env -u PEERS_ROOT '" + kCompare + "' --build '" + build + "' -o '" +
                 folder_.string() + "' --threads 2 " + options + " 2>&1");
  }
  std::string read(const char* name) const {
    std::ostringstream text;
    text << std::ifstream(folder_ / name).rdbuf();
    return text.str();
  }
  fs::path folder_;
};

TEST_F(Compare, MeasuresNibbleAloneWithoutPeers) {
  SKIP_WITHOUT("nibble_matmul");
  const Result result = compare("--quick");
  ASSERT_EQ(result.code, 0) << result.output << read("compare.log");
  EXPECT_NE(result.output.find("PEERS_ROOT is not set"), std::string::npos) << result.output;

  const auto json = nlohmann::json::parse(read("compare.json"));
  EXPECT_FALSE(json.at("cpu").get<std::string>().empty());
  EXPECT_EQ(json.at("threads"), 2);
  EXPECT_EQ(json.at("skipped").size(), 1U);
  std::set<std::string> measured;
  for (const auto& row : json.at("results")) {
    measured.insert(row.at("case").get<std::string>() + ": " +
                    row.at("measure").get<std::string>());
    EXPECT_GT(row.at("nibble").at("median").get<double>(), 0) << row;
    EXPECT_EQ(row.at("peers").size(), 0U) << row;
  }
  for (const char* expected : {"matmul 512x512 g128: m = 1", "matmul 512x512 g128: m = 8",
                               "matmul 512x512 g128: read roof", "demo g128: decode",
                               "demo g128: prefill of 32", "demo g128: decode, of the read roof"}) {
    EXPECT_TRUE(measured.contains(expected)) << expected << " is missing of " << json;
  }
  EXPECT_NE(read("compare.md").find("| demo g128 | decode, tok/s | "), std::string::npos)
      << read("compare.md");
}

// One case is enough to see that what failed is not taken for measured.
TEST_F(Compare, FailsWhereNibbleFails) {
  SKIP_WITHOUT("nibble_matmul");
  fs::create_directories(folder_ / "build" / "perf");
  fs::create_symlink(std::string(NIBBLE_BINARY_DIR) + "/nibble", folder_ / "build" / "nibble");
  fs::create_symlink("/bin/false", folder_ / "build" / "perf" / "nibble_matmul");
  const Result result = compare("--quick --only matmul", (folder_ / "build").string());
  EXPECT_EQ(result.code, 1) << result.output;
  EXPECT_FALSE(fs::exists(folder_ / "compare.json"));
}

TEST_F(Compare, RefusesWhatItDoesNotKnow) {
  for (const char* options : {"--fast", "--only llama9", "--rounds none", "--rounds"}) {
    EXPECT_EQ(compare(options).code, 2) << options;
  }
}

// The tables on records made up here: medians, extremes, and ratios that say how much faster
// Nibble is whichever way the unit goes.
TEST_F(Compare, TablesHoldMediansAndRatios) {
  fs::create_directories(folder_);
  std::ofstream(folder_ / "about.tsv") << "cpu\tA \"quoted\" \\ name\nthreads\t2\npeer\tpeer 1.0\n";
  std::ofstream records(folder_ / "records.tsv");
  for (const char* value : {"3", "1", "2"}) records << "a\tm = 1\tms\tnibble\t" << value << "\n";
  for (const char* value : {"8", "4"}) records << "a\tm = 1\tms\tpeer\t" << value << "\n";
  records << "b\tdecode\ttok/s\tnibble\t10\nb\tdecode\ttok/s\tpeer\t4\nb\tpass\tx\tpeer\t2\n";
  records.close();
  const Result result = shell("awk -v format=json -f '" + std::string(NIBBLE_SOURCE_DIR) +
                              "/perf/compare_table.awk' '" + (folder_ / "about.tsv").string() +
                              "' '" + (folder_ / "records.tsv").string() + "'");
  ASSERT_EQ(result.code, 0);
  const auto json = nlohmann::json::parse(result.output);
  EXPECT_EQ(json.at("cpu"), "A \"quoted\" \\ name");
  const auto& rows = json.at("results");
  ASSERT_EQ(rows.size(), 3U);
  EXPECT_EQ(rows[0].at("nibble"),
            nlohmann::json({{"median", 2}, {"min", 1}, {"max", 3}, {"rounds", 3}}));
  EXPECT_EQ(rows[0].at("peers")[0].at("median"), 6);
  EXPECT_EQ(rows[0].at("peers")[0].at("ratio"), 3);
  EXPECT_EQ(rows[1].at("peers")[0].at("ratio"), 2.5);
  EXPECT_TRUE(rows[2].at("nibble").is_null());
  EXPECT_TRUE(rows[2].at("peers")[0].at("ratio").is_null());
}

TEST(Benchmarks, EveryKernelOfTheCatalogHasOne) {
  SKIP_WITHOUT("nibble_perf");
  const Result result = shell(kPerf + "/nibble_perf --benchmark_list_tests");
  ASSERT_EQ(result.code, 0);
  std::set<std::string> measured;
  std::istringstream lines(result.output);
  for (std::string line; std::getline(lines, line);)
    measured.insert(line.substr(0, line.find('/')));
  for (const jit::Isa isa : jit::supported_isas()) {
    for (const jit::KernelKey& key : jit::kernel_catalog(isa)) {
      EXPECT_TRUE(measured.contains(jit::name(key))) << jit::name(key) << " has no benchmark";
    }
  }
}

}  // namespace
}  // namespace nibble::test
