#include "runtime/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>

#include "jit/error.h"

namespace nibble::runtime {

std::shared_ptr<const MappedFile> MappedFile::open(const std::string& path) {
  // Not blocking: opening a named pipe must end in an error and not wait for its writer.
  const int fd = ::open(path.c_str(), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
  if (fd < 0) fail("{}: the file cannot be opened: {}.", path, std::strerror(errno));
  struct Closer {
    int fd;
    ~Closer() { ::close(fd); }
  } closer{fd};

  struct stat info = {};
  if (fstat(fd, &info) != 0) {
    fail("{}: the file cannot be examined: {}.", path, std::strerror(errno));
  }
  if (!S_ISREG(info.st_mode)) {
    fail("{}: expected a regular file, found {}.", path,
         S_ISDIR(info.st_mode) ? "a folder" : "something else");
  }
  std::shared_ptr<MappedFile> file(new MappedFile);
  file->path_ = path;
  file->size_ = static_cast<size_t>(info.st_size);
  if (file->size_ == 0) return file;  // nothing to map
  void* memory = mmap(nullptr, file->size_, PROT_READ, MAP_SHARED, fd, 0);
  if (memory == MAP_FAILED) {
    fail("{}: its {} bytes cannot be mapped: {}.", path, file->size_, std::strerror(errno));
  }
  // Where the file system can, what is not in memory yet is read in huge pages: fewer faults now
  // and fewer page walks later. Elsewhere the hint is refused, which is no loss.
  madvise(memory, file->size_, MADV_HUGEPAGE);
  file->data_ = static_cast<const std::byte*>(memory);
  return file;
}

MappedFile::~MappedFile() {
  if (data_ != nullptr) munmap(const_cast<std::byte*>(data_), size_);
}

}  // namespace nibble::runtime
