// A read-only memory map of a regular file.
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>

namespace nibble::runtime {

class MappedFile {
 public:
  // Throws Error naming the path and the reason: missing, not a regular file, unreadable, map
  // refused.
  static std::shared_ptr<const MappedFile> open(const std::string& path);
  ~MappedFile();
  MappedFile(const MappedFile&) = delete;
  MappedFile& operator=(const MappedFile&) = delete;

  const std::string& path() const { return path_; }
  std::span<const std::byte> bytes() const { return {data_, size_}; }

 private:
  MappedFile() = default;
  std::string path_;
  const std::byte* data_ = nullptr;
  size_t size_ = 0;
};

// Lets go of the memory under `bytes`, a part of a mapped file, and of the huge pages around its
// ends, which the kernel maps whole when any of it is touched. All is read again when it is
// touched. Does nothing where `bytes` is no part of a MappedFile. For what is read once: a process
// that streams through a file larger than memory stays small.
void release_pages(std::span<const std::byte> bytes) noexcept;

}  // namespace nibble::runtime
