// Writes a file all or nothing: a temporary file in the same folder, fsync, rename, fsync of the
// folder. Destroyed before commit(), it leaves nothing behind and the old file as it was.
#pragma once

#include <cstddef>
#include <cstdint>
#include <span>
#include <string>
#include <string_view>

namespace nibble::runtime {

class AtomicFile {
 public:
  // Throws Error naming the path and the reason (folder missing, not writable, target is a folder).
  explicit AtomicFile(std::string path);
  ~AtomicFile();
  AtomicFile(const AtomicFile&) = delete;
  AtomicFile& operator=(const AtomicFile&) = delete;

  void append(std::span<const std::byte> bytes);  // throws Error (disk full, ...)
  void write_at(uint64_t offset, std::span<const std::byte> bytes);  // within what was appended
  uint64_t size() const { return size_; }
  void commit();

 private:
  void write_fully(uint64_t offset, std::span<const std::byte> bytes);
  std::string path_, temporary_;
  int fd_ = -1;
  uint64_t size_ = 0;
};

// A file of this text, all or nothing. Throws Error as AtomicFile does.
void write_file(const std::string& path, std::string_view text);

}  // namespace nibble::runtime
