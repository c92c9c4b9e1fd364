// Reads back what JitDump wrote, as `perf inject` would.
#include "jit/jitdump.h"

#include <gtest/gtest.h>
#include <unistd.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <map>
#include <thread>
#include <vector>

#include "jit/error.h"
#include "jit/perf_map.h"

namespace nibble::jit {
namespace {

struct Loaded {
  uint32_t pid = 0, tid = 0;
  uint64_t time = 0, vma = 0, address = 0, index = 0;
  std::string name;
  std::vector<uint8_t> code;
};

// The specification, field by field; anything left over or missing fails the test.
class Reader {
 public:
  explicit Reader(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    bytes_.assign(std::istreambuf_iterator<char>(file), {});
  }

  template <typename T>
  T take() {
    T value{};
    if (at_ + sizeof(T) > bytes_.size()) {
      ADD_FAILURE() << "the file ends at " << bytes_.size();
      at_ = bytes_.size();
      return value;
    }
    std::memcpy(&value, bytes_.data() + at_, sizeof(T));
    at_ += sizeof(T);
    return value;
  }

  void expect_header() {
    EXPECT_EQ(take<uint32_t>(), 0x4A695444U);
    EXPECT_EQ(take<uint32_t>(), 1U);
    EXPECT_EQ(take<uint32_t>(), 40U);
    EXPECT_EQ(take<uint32_t>(), 62U);  // x86-64
    take<uint32_t>();
    EXPECT_EQ(take<uint32_t>(), static_cast<uint32_t>(getpid()));
    EXPECT_GT(take<uint64_t>(), 0U);
    EXPECT_EQ(take<uint64_t>(), 0U);
    EXPECT_EQ(at_, 40U);
  }

  Loaded record() {
    const size_t start = at_;
    Loaded loaded;
    EXPECT_EQ(take<uint32_t>(), 0U);  // code load
    const auto size = take<uint32_t>();
    loaded.time = take<uint64_t>();
    loaded.pid = take<uint32_t>();
    loaded.tid = take<uint32_t>();
    loaded.vma = take<uint64_t>();
    loaded.address = take<uint64_t>();
    const auto code_size = take<uint64_t>();
    loaded.index = take<uint64_t>();
    for (char c = take<char>(); c != 0; c = take<char>()) loaded.name += c;
    for (uint64_t i = 0; i < code_size && !at_end(); ++i) loaded.code.push_back(take<uint8_t>());
    EXPECT_EQ(at_ - start, size);
    return loaded;
  }

  bool at_end() const { return at_ == bytes_.size(); }

 private:
  std::vector<char> bytes_;
  size_t at_ = 0;
};

class JitDumpTest : public testing::Test {
 protected:
  JitDumpTest() { std::filesystem::create_directories(folder_); }
  ~JitDumpTest() override { std::filesystem::remove_all(folder_); }

  const std::filesystem::path folder_ =
      std::filesystem::temp_directory_path() / fmt::format("nibble-jitdump-{}", getpid());
  const std::filesystem::path path_ = folder_ / fmt::format("jit-{}.dump", getpid());
};

TEST_F(JitDumpTest, HoldsEveryKernelWithItsCode) {
  const std::vector<uint8_t> first = {0xc3}, second = {0x90, 0, 0x90, 0xc3};
  JitDump dump(folder_.string());
  dump.add("row_add_n1_avx2", reinterpret_cast<const void*>(0x1000), first);
  dump.add("row_add_n2_avx2", reinterpret_cast<const void*>(0x7fff00001040), second);
  Reader reader(path_);
  reader.expect_header();
  const Loaded a = reader.record(), b = reader.record();
  EXPECT_TRUE(reader.at_end());
  EXPECT_EQ(a.name, "row_add_n1_avx2");
  EXPECT_EQ(a.code, first);
  EXPECT_EQ(a.vma, 0x1000U);
  EXPECT_EQ(a.address, 0x1000U);
  EXPECT_EQ(a.index, 0U);
  EXPECT_EQ(a.pid, static_cast<uint32_t>(getpid()));
  EXPECT_EQ(a.tid, static_cast<uint32_t>(gettid()));
  EXPECT_EQ(b.name, "row_add_n2_avx2");
  EXPECT_EQ(b.code, second);
  EXPECT_EQ(b.address, 0x7fff00001040U);
  EXPECT_EQ(b.index, 1U);
  EXPECT_LE(a.time, b.time);
}

// What `perf record` sees: this process maps the file as code.
TEST_F(JitDumpTest, IsMappedAsCodeWhileItLives) {
  const auto mapped = [this] {
    std::ifstream maps("/proc/self/maps");
    for (std::string line; std::getline(maps, line);) {
      if (line.ends_with(path_.filename().string())) return line.substr(line.find(' ') + 1, 4);
    }
    return std::string("none");
  };
  {
    const JitDump dump(folder_.string());
    EXPECT_EQ(mapped(), "r-xp");
  }
  EXPECT_EQ(mapped(), "none");
  EXPECT_TRUE(std::filesystem::exists(path_));  // for perf inject, later
}

TEST_F(JitDumpTest, ThreadsDoNotMixTheirRecords) {
  constexpr int kThreads = 4, kEach = 50;
  {
    JitDump dump(folder_.string());
    std::vector<std::thread> threads;
    for (int t = 0; t < kThreads; ++t) {
      threads.emplace_back([&dump, t] {
        const std::vector<uint8_t> code(static_cast<size_t>(100 + t), static_cast<uint8_t>(t));
        for (int i = 0; i < kEach; ++i) dump.add(fmt::format("kernel{}", t), &code, code);
      });
    }
    for (std::thread& thread : threads) thread.join();
  }
  Reader reader(path_);
  reader.expect_header();
  std::map<std::string, int> counts;
  uint64_t time = 0;
  for (uint64_t i = 0; !reader.at_end() && !HasFailure(); ++i) {
    const Loaded loaded = reader.record();
    ++counts[loaded.name];
    EXPECT_EQ(loaded.index, i);
    EXPECT_LE(time, loaded.time);
    time = loaded.time;
    ASSERT_FALSE(loaded.code.empty());
    EXPECT_EQ(loaded.name, fmt::format("kernel{}", loaded.code.front()));
  }
  for (int t = 0; t < kThreads; ++t) EXPECT_EQ(counts[fmt::format("kernel{}", t)], kEach);
}

TEST_F(JitDumpTest, IsOneOfTheModesOfCodeDump) {
  const std::vector<uint8_t> code = {0xc3};
  {
    const CodeDump dump("bin,jitdump", folder_.string());
    dump.record("row_add_n1_avx2", code.data(), code);
  }
  Reader reader(path_);
  reader.expect_header();
  EXPECT_EQ(reader.record().name, "row_add_n1_avx2");
  EXPECT_TRUE(std::filesystem::exists(folder_ / "row_add_n1_avx2.bin"));
}

TEST_F(JitDumpTest, AFolderThatIsMissingIsNamed) {
  try {
    const JitDump dump("/nonexistent-folder");
    FAIL() << "made a file in a folder that is not there";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("/nonexistent-folder"), std::string::npos);
  }
}

}  // namespace
}  // namespace nibble::jit
