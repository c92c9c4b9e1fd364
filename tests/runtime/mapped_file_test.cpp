#include "runtime/mapped_file.h"

#include <fmt/format.h>
#include <gtest/gtest.h>
#include <sys/stat.h>

#include <algorithm>
#include <cstring>
#include <fstream>
#include <string>
#include <string_view>
#include <vector>

#include "jit/error.h"
#include "tests/runtime/temporary_folder.h"

namespace nibble::runtime {
namespace {

std::string mapping_failure(const std::string& path) {
  try {
    MappedFile::open(path);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(MappedFile, MapsBytes) {
  const TemporaryFolder folder;
  const std::string text(10'000, 'x');
  const auto file = MappedFile::open(folder.write("a.bin", text + "end"));
  const auto bytes = file->bytes();
  EXPECT_EQ(std::string_view(reinterpret_cast<const char*>(bytes.data()), bytes.size()),
            text + "end");
  EXPECT_EQ(file->path(), folder.path("a.bin"));
}

TEST(MappedFile, OutlivesTheName) {
  const TemporaryFolder folder;
  const auto file = MappedFile::open(folder.write("a.bin", "still here"));
  std::filesystem::remove(folder.path("a.bin"));
  EXPECT_EQ(std::to_integer<char>(file->bytes()[0]), 's');
}

TEST(MappedFile, AnEmptyFileHasNoBytes) {
  const TemporaryFolder folder;
  EXPECT_TRUE(MappedFile::open(folder.write("empty", ""))->bytes().empty());
}

// The pages of `bytes` that this process holds.
int64_t resident_kb(std::span<const std::byte> bytes) {
  std::ifstream file("/proc/self/smaps");
  const auto wanted = fmt::format("{:x}-", reinterpret_cast<uintptr_t>(bytes.data()));
  bool inside = false;
  for (std::string line; std::getline(file, line);) {
    if (line.starts_with(wanted)) inside = true;
    if (inside && line.starts_with("Rss:")) return std::stoll(line.substr(4));
  }
  return -1;
}

TEST(MappedFile, ReleasedPagesLeaveMemoryAndAreReadAgain) {
  const TemporaryFolder folder;
  std::string text(1 << 20, 'x');
  for (size_t i = 0; i < text.size(); i += 7) text[i] = static_cast<char>('a' + i % 23);
  const auto file = MappedFile::open(folder.write("a.bin", text));
  const std::span<const std::byte> bytes = file->bytes();
  const auto whole = [&] { return std::memcmp(bytes.data(), text.data(), text.size()) == 0; };
  ASSERT_TRUE(whole());
  ASSERT_EQ(resident_kb(bytes), 1024);
  release_pages(bytes.subspan(100, bytes.size() - 200));
  EXPECT_EQ(resident_kb(bytes), 0);
  EXPECT_TRUE(whole());
  EXPECT_EQ(resident_kb(bytes), 1024);
}

TEST(MappedFile, WhatIsNotMappedIsNotReleased) {
  const TemporaryFolder folder;
  const auto file = MappedFile::open(folder.write("a.bin", std::string(10'000, 'x')));
  const std::vector<std::byte> own(1 << 20, std::byte{7});
  release_pages(own);
  EXPECT_EQ(std::count(own.begin(), own.end(), std::byte{7}), 1 << 20);
  release_pages({});
  // Half in the file, half behind it.
  release_pages({file->bytes().data() + 5'000, 10'000});
  EXPECT_EQ(std::to_integer<char>(file->bytes()[9'999]), 'x');
}

TEST(MappedFile, RefusesWhatIsNoFile) {
  const TemporaryFolder folder;
  const std::string missing = folder.path("missing");
  EXPECT_EQ(mapping_failure(missing),
            missing + ": the file cannot be opened: No such file or directory.");
  EXPECT_EQ(mapping_failure(folder.folder()),
            folder.folder() + ": expected a regular file, found a folder.");
  EXPECT_NE(mapping_failure(folder.write("file", "x") + "/below").find("Not a directory"),
            std::string::npos);
  EXPECT_NE(mapping_failure("/dev/null").find("expected a regular file"), std::string::npos);
}

TEST(MappedFile, ANamedPipeDoesNotHang) {
  const TemporaryFolder folder;
  ASSERT_EQ(mkfifo(folder.path("pipe").c_str(), 0600), 0);
  EXPECT_NE(mapping_failure(folder.path("pipe")).find("expected a regular file"),
            std::string::npos);
}

}  // namespace
}  // namespace nibble::runtime
