// A file that generated code is shown in: opened, written in full, closed; every refusal is an
// Error that names the path. Used by perf_map and jitdump.
#pragma once

#include <cstddef>
#include <string>

namespace nibble::jit {

class DumpFile {
 public:
  // `flags` are added to O_RDWR | O_CREAT | O_CLOEXEC.
  DumpFile(std::string path, int flags);
  ~DumpFile();
  DumpFile(const DumpFile&) = delete;
  DumpFile& operator=(const DumpFile&) = delete;

  void write(const void* bytes, size_t size);
  int descriptor() const { return file_; }
  const std::string& path() const { return path_; }

 private:
  std::string path_;
  int file_ = -1;
};

}  // namespace nibble::jit
