#include "runtime/atomic_file.h"

#include <fcntl.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstring>
#include <filesystem>
#include <string_view>
#include <utility>

#include "jit/error.h"

namespace nibble::runtime {
namespace {

constexpr size_t kMostPerWrite = size_t{1} << 30;  // write(2) moves at most about 2 GiB
constexpr int kMostTries = 1000;                   // names tried for the temporary file

// What is written through a symbolic link changes the file, not the link.
std::string follow_links(std::string path) {
  std::error_code error;
  if (!std::filesystem::is_symlink(path, error)) return path;
  std::filesystem::path real = std::filesystem::canonical(path, error);
  return error ? path : real.string();
}

void check_target(const std::string& path) {
  if (path.empty()) fail("An output file needs a name, but the path is empty.");
  struct stat info = {};
  if (stat(path.c_str(), &info) == 0 && !S_ISREG(info.st_mode)) {
    fail("{}: cannot be written: there is {} of that name.", path,
         S_ISDIR(info.st_mode) ? "a folder" : "something that is no regular file");
  }
}

std::string folder_of(const std::string& path) {
  const size_t slash = path.rfind('/');
  if (slash == std::string::npos) return ".";
  return slash == 0 ? "/" : path.substr(0, slash);
}

// Makes the new name itself durable. The file is in place by now, so a file system that cannot
// sync folders is no failure.
void sync_folder(const std::string& path) {
  const int fd = open(folder_of(path).c_str(), O_RDONLY | O_DIRECTORY | O_CLOEXEC);
  if (fd < 0) return;
  const int result = fsync(fd);
  const int reason = errno;
  close(fd);
  if (result != 0 && reason == EIO) {
    fail("{}: was written, but its folder cannot be made durable: {}.", path,
         std::strerror(reason));
  }
}

}  // namespace

AtomicFile::AtomicFile(std::string path) : path_(follow_links(std::move(path))) {
  check_target(path_);
  // A killed process leaves this name behind, so it says what it is and whose.
  const std::string_view suffix = path_.ends_with(".nib") ? ".tmp-" : ".nib.tmp-";
  const std::string stem = fmt::format("{}{}{}", path_, suffix, getpid());
  for (int i = 0; i < kMostTries && fd_ < 0; ++i) {
    temporary_ = i == 0 ? stem : fmt::format("{}-{}", stem, i);
    fd_ = open(temporary_.c_str(), O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd_ < 0 && errno != EEXIST) break;
  }
  if (fd_ < 0) {
    fail("{}: cannot be written: no file can be made in its folder: {}.", path_,
         std::strerror(errno));
  }
  struct stat info = {};
  if (stat(path_.c_str(), &info) == 0) {
    // The replacement keeps the old file's permissions; where that is refused, its own serve.
    [[maybe_unused]] const int ignored = fchmod(fd_, info.st_mode & 07777);
  }
}

AtomicFile::~AtomicFile() {
  if (fd_ < 0) return;
  close(fd_);
  unlink(temporary_.c_str());
}

void AtomicFile::write_fully(uint64_t offset, std::span<const std::byte> bytes) {
  if (fd_ < 0) fail("{}: cannot be written to after it was committed.", path_);
  while (!bytes.empty()) {
    const size_t want = std::min(bytes.size(), kMostPerWrite);
    const ssize_t done = pwrite(fd_, bytes.data(), want, static_cast<off_t>(offset));
    if (done < 0 && errno == EINTR) continue;
    if (done <= 0) {
      fail("{}: writing {} bytes at {} failed: {}.", path_, want, offset,
           std::strerror(done < 0 ? errno : ENOSPC));
    }
    offset += static_cast<uint64_t>(done);
    bytes = bytes.subspan(static_cast<size_t>(done));
  }
}

void AtomicFile::append(std::span<const std::byte> bytes) {
  write_fully(size_, bytes);
  size_ += bytes.size();
}

void AtomicFile::write_at(uint64_t offset, std::span<const std::byte> bytes) {
  if (offset > size_ || bytes.size() > size_ - offset) {
    fail("{}: {} bytes at {} are outside the {} bytes written so far.", path_, bytes.size(), offset,
         size_);
  }
  write_fully(offset, bytes);
}

void AtomicFile::commit() {
  if (fd_ < 0) fail("{}: was already committed.", path_);
  if (fsync(fd_) != 0) fail("{}: cannot be made durable: {}.", path_, std::strerror(errno));
  if (rename(temporary_.c_str(), path_.c_str()) != 0) {
    fail("{}: cannot be put in place: {}.", path_, std::strerror(errno));
  }
  close(fd_);
  fd_ = -1;
  sync_folder(path_);
}

void write_file(const std::string& path, std::string_view text) {
  AtomicFile file(path);
  file.append(std::as_bytes(std::span(text)));
  file.commit();
}

}  // namespace nibble::runtime
