// Every file of the kept corpus through its target, in every build: seeds, and the smallest form of
// each finding that there was.
#include <gtest/gtest.h>

#include <algorithm>
#include <chrono>
#include <filesystem>
#include <string>
#include <vector>

#include "tests/fuzz/memory_limit.h"
#include "tests/fuzz/targets.h"
#include "tests/runtime/temporary_folder.h"

namespace nibble::fuzz {
namespace {

namespace fs = std::filesystem;

std::vector<fs::path> corpus_of(const std::string& target) {
  std::vector<fs::path> files;
  for (const auto& item :
       fs::directory_iterator(fs::path(NIBBLE_SOURCE_DIR) / "tests/fuzz/corpus" / target)) {
    files.push_back(item.path());
  }
  std::sort(files.begin(), files.end());
  return files;
}

class Replay : public testing::TestWithParam<Target> {};

TEST_P(Replay, EveryKeptInputIsReadOrRefusedSoonAndInLittleMemory) {
  constexpr std::chrono::seconds kMost(10);
  const std::vector<fs::path> files = corpus_of(GetParam().name);
  ASSERT_FALSE(files.empty());
  for (const fs::path& file : files) {
    SCOPED_TRACE("build/fuzz/tests/fuzz_" + std::string(GetParam().name) + " " + file.string());
    const std::string bytes = runtime::read_file(file.string());
    const auto start = std::chrono::steady_clock::now();
    GetParam().run(reinterpret_cast<const uint8_t*>(bytes.data()), bytes.size());
    EXPECT_LT(std::chrono::steady_clock::now() - start, kMost);
    // Else what is made of it would not lead far.
    const bool seed = file.filename().string().starts_with("seed_");
    EXPECT_TRUE(!seed || last_refusal().empty()) << last_refusal();
  }
}

TEST_P(Replay, NothingAtAllIsRefused) { EXPECT_EQ(GetParam().run(nullptr, 0), 0); }

INSTANTIATE_TEST_SUITE_P(All, Replay, testing::ValuesIn(targets().begin(), targets().end()),
                         [](const auto& info) { return std::string(info.param.name); });

// The harness itself: what it must see ends the process.
TEST(FuzzHarness, OtherExceptionsAreFindings) {
  EXPECT_DEATH(hold_to_promises(0, [] { throw std::length_error("too long"); }), "too long");
  EXPECT_DEATH(hold_to_promises(0, [] { std::vector<int>().at(1); }), "finding");
}

TEST(FuzzHarness, MemoryBeyondTheLimitIsAFinding) {
  const auto take = [](size_t bytes) { std::vector<char> memory(bytes); };
  hold_to_promises(0, [&] { take(size_t{60} << 20); });
  hold_to_promises(0, [&] { take(size_t{60} << 20); });  // the first was given back
  hold_to_promises(size_t{4} << 20, [&] { take(size_t{75} << 20); });
  EXPECT_DEATH(hold_to_promises(0, [&] { take(size_t{65} << 20); }), "finding: an allocation");
  EXPECT_DEATH(hold_to_promises(0,
                                [&] {
                                  std::vector<std::vector<char>> all;
                                  for (int i = 0; i < 65; ++i) all.emplace_back(size_t{1} << 20);
                                }),
               "finding: an allocation");
}

}  // namespace
}  // namespace nibble::fuzz
