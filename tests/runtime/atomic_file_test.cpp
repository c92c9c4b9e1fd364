#include "runtime/atomic_file.h"

#include <gtest/gtest.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <filesystem>
#include <string>
#include <string_view>

#include "jit/error.h"
#include "tests/runtime/temporary_folder.h"

namespace nibble::runtime {
namespace {

std::string writing_failure(const std::string& path) {
  try {
    AtomicFile file(path);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(AtomicFile, WritesAndPatches) {
  const TemporaryFolder folder;
  AtomicFile file(folder.path("a.nib"));
  file.append(bytes_of("hello "));
  file.append(bytes_of("world"));
  file.write_at(0, bytes_of("J"));
  EXPECT_EQ(file.size(), 11u);
  EXPECT_FALSE(std::filesystem::exists(folder.path("a.nib")));
  file.commit();
  EXPECT_EQ(read_file(folder.path("a.nib")), "Jello world");
  EXPECT_EQ(folder.entries(), 1);
}

TEST(AtomicFile, WithoutCommitNothingChanges) {
  const TemporaryFolder folder;
  folder.write("a.nib", "old");
  {
    AtomicFile file(folder.path("a.nib"));
    file.append(bytes_of("new"));
  }
  EXPECT_EQ(read_file(folder.path("a.nib")), "old");
  EXPECT_EQ(folder.entries(), 1);
  { AtomicFile file(folder.path("b.nib")); }
  EXPECT_EQ(folder.entries(), 1);
}

TEST(AtomicFile, ReplacesAndKeepsPermissions) {
  const TemporaryFolder folder;
  folder.write("a", "old and longer");
  ASSERT_EQ(chmod(folder.path("a").c_str(), 0640), 0);
  AtomicFile file(folder.path("a"));
  file.append(bytes_of("new"));
  file.commit();
  EXPECT_EQ(read_file(folder.path("a")), "new");
  struct stat info = {};
  ASSERT_EQ(stat(folder.path("a").c_str(), &info), 0);
  EXPECT_EQ(info.st_mode & 0777, 0640u);
}

TEST(AtomicFile, FollowsALink) {
  const TemporaryFolder folder;
  folder.write("real", "old");
  std::filesystem::create_symlink("real", folder.path("link"));
  AtomicFile file(folder.path("link"));
  file.append(bytes_of("new"));
  file.commit();
  EXPECT_EQ(read_file(folder.path("real")), "new");
  EXPECT_TRUE(std::filesystem::is_symlink(folder.path("link")));
}

TEST(AtomicFile, TheTemporaryNameSaysWhatItIs) {
  const TemporaryFolder folder;
  AtomicFile nib(folder.path("a.nib")), second(folder.path("a.nib")), other(folder.path("b.npy"));
  const std::string pid = std::to_string(getpid());
  EXPECT_TRUE(std::filesystem::exists(folder.path("a.nib.tmp-" + pid)));
  EXPECT_TRUE(std::filesystem::exists(folder.path("a.nib.tmp-" + pid + "-1")));
  EXPECT_TRUE(std::filesystem::exists(folder.path("b.npy.nib.tmp-" + pid)));
}

TEST(AtomicFile, RefusesBadTargets) {
  const TemporaryFolder folder;
  EXPECT_EQ(writing_failure(folder.folder()),
            folder.folder() + ": cannot be written: there is a folder of that name.");
  EXPECT_NE(writing_failure(folder.path("no/such/folder.nib")).find("No such file or directory"),
            std::string::npos);
  EXPECT_NE(writing_failure(folder.write("file", "x") + "/below").find("Not a directory"),
            std::string::npos);
  EXPECT_NE(writing_failure("/dev/null").find("no regular file"), std::string::npos);
  EXPECT_NE(writing_failure("").find("path is empty"), std::string::npos);
  EXPECT_NE(writing_failure(folder.path(std::string(300, 'n'))).find("too long"),
            std::string::npos);
  EXPECT_EQ(folder.entries(), 1);
}

TEST(AtomicFile, RefusesAFileSystemWithoutNewFiles) {
  // /proc refuses them even to root.
  EXPECT_NE(writing_failure("/proc/out.nib").find("/proc/out.nib: cannot be written"),
            std::string::npos);
}

TEST(AtomicFile, RefusesAnUnwritableFolder) {
  if (geteuid() == 0) GTEST_SKIP() << "root may write into a read-only folder";
  const TemporaryFolder folder;
  ASSERT_EQ(chmod(folder.folder().c_str(), 0500), 0);
  EXPECT_NE(writing_failure(folder.path("a.nib")).find("Permission denied"), std::string::npos);
  chmod(folder.folder().c_str(), 0700);
}

TEST(AtomicFile, PatchesOnlyWhatWasWritten) {
  const TemporaryFolder folder;
  AtomicFile file(folder.path("a"));
  file.append(bytes_of("12345678"));
  EXPECT_NO_THROW(file.write_at(6, bytes_of("ab")));
  EXPECT_THROW(file.write_at(7, bytes_of("ab")), Error);
  EXPECT_THROW(file.write_at(UINT64_MAX, bytes_of("ab")), Error);
}

TEST(AtomicFile, CommitsOnce) {
  const TemporaryFolder folder;
  AtomicFile file(folder.path("a"));
  file.commit();
  EXPECT_THROW(file.commit(), Error);
  EXPECT_THROW(file.append(bytes_of("late")), Error);
  EXPECT_EQ(read_file(folder.path("a")), "");
}

TEST(AtomicFile, AFailedCommitLeavesNothing) {
  const TemporaryFolder folder;
  {
    AtomicFile file(folder.path("a"));
    std::filesystem::create_directory(folder.path("a"));  // appears meanwhile
    EXPECT_THROW(file.commit(), Error);
  }
  EXPECT_EQ(folder.entries(), 1);
}

// A file size limit stands in for a full disk. In a child, which it would otherwise outlast.
int write_past_the_limit(const std::string& path) {
  signal(SIGXFSZ, SIG_IGN);
  const rlimit limit{1000, 1000};
  if (setrlimit(RLIMIT_FSIZE, &limit) != 0) return 2;
  try {
    AtomicFile file(path);
    file.append(bytes_of(std::string(5000, 'x')));
    file.commit();
  } catch (const Error& error) {
    return std::string_view(error.what()).find("File too large") != std::string_view::npos ? 0 : 3;
  }
  return 4;
}

TEST(AtomicFile, AFullDiskLeavesTheOldFile) {
  const TemporaryFolder folder;
  folder.write("a.nib", "old");
  const pid_t child = fork();
  ASSERT_GE(child, 0);
  if (child == 0) _exit(write_past_the_limit(folder.path("a.nib")));
  int status = 0;
  ASSERT_EQ(waitpid(child, &status, 0), child);
  ASSERT_TRUE(WIFEXITED(status));
  EXPECT_EQ(WEXITSTATUS(status), 0);
  EXPECT_EQ(read_file(folder.path("a.nib")), "old");
  EXPECT_EQ(folder.entries(), 1);
}

}  // namespace
}  // namespace nibble::runtime
