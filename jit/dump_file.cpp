#include "jit/dump_file.h"

#include <fcntl.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <utility>

#include "jit/error.h"

namespace nibble::jit {

DumpFile::DumpFile(std::string path, int flags)
    : path_(std::move(path)),
      file_(open(path_.c_str(), O_RDWR | O_CREAT | O_CLOEXEC | flags, 0644)) {
  if (file_ < 0) fail("The JIT dump {} cannot be opened: {}.", path_, std::strerror(errno));
}

DumpFile::~DumpFile() { close(file_); }

void DumpFile::write(const void* bytes, size_t size) {
  const auto* next = static_cast<const char*>(bytes);
  while (size > 0) {
    const ssize_t written = ::write(file_, next, size);
    if (written < 0 && errno == EINTR) continue;
    if (written <= 0) {
      fail("The JIT dump {} cannot be written: {}.", path_, std::strerror(errno));
    }
    next += written;
    size -= static_cast<size_t>(written);
  }
}

}  // namespace nibble::jit
