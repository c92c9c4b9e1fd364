#include "runtime/mapped_file.h"

#include <gtest/gtest.h>
#include <sys/stat.h>

#include <string>
#include <string_view>

#include "jit/error.h"
#include "tests/runtime/temporary_folder.h"

namespace nibble::runtime {
namespace {

std::string failure(const std::string& path) {
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

TEST(MappedFile, RefusesWhatIsNoFile) {
  const TemporaryFolder folder;
  const std::string missing = folder.path("missing");
  EXPECT_EQ(failure(missing), missing + ": the file cannot be opened: No such file or directory.");
  EXPECT_EQ(failure(folder.folder()),
            folder.folder() + ": expected a regular file, found a folder.");
  EXPECT_NE(failure(folder.write("file", "x") + "/below").find("Not a directory"),
            std::string::npos);
  EXPECT_NE(failure("/dev/null").find("expected a regular file"), std::string::npos);
}

TEST(MappedFile, ANamedPipeDoesNotHang) {
  const TemporaryFolder folder;
  ASSERT_EQ(mkfifo(folder.path("pipe").c_str(), 0600), 0);
  EXPECT_NE(failure(folder.path("pipe")).find("expected a regular file"), std::string::npos);
}

}  // namespace
}  // namespace nibble::runtime
