#include "runtime/mapped_file.h"

#include <fcntl.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <cerrno>
#include <cstdint>
#include <cstring>
#include <map>
#include <mutex>

#include "jit/error.h"
#include "runtime/pages.h"

namespace nibble::runtime {
namespace {

// Where files are mapped now: what lies elsewhere would be lost, and not read again.
struct Maps {
  std::mutex mutex;
  std::map<uintptr_t, uintptr_t> ends;  // by begin
};
Maps& maps() {
  static Maps all;
  return all;
}

}  // namespace

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
  const auto begin = reinterpret_cast<uintptr_t>(memory);
  const std::scoped_lock lock(maps().mutex);
  maps().ends[begin] = begin + file->size_;
  return file;
}

MappedFile::~MappedFile() {
  if (data_ == nullptr) return;
  const std::scoped_lock lock(maps().mutex);
  maps().ends.erase(reinterpret_cast<uintptr_t>(data_));
  munmap(const_cast<std::byte*>(data_), size_);
}

void release_pages(std::span<const std::byte> bytes) noexcept {
  const auto page = static_cast<uintptr_t>(sysconf(_SC_PAGESIZE));
  const auto begin = reinterpret_cast<uintptr_t>(bytes.data()), end = begin + bytes.size();
  const std::scoped_lock lock(maps().mutex);
  auto map = maps().ends.upper_bound(begin);
  if (bytes.empty() || map == maps().ends.begin()) return;
  --map;
  if (end > map->second) return;
  const uintptr_t first = std::max(map->first, begin / kHugePage * kHugePage);
  const uintptr_t last = std::min((map->second + page - 1) / page * page,
                                  (end + kHugePage - 1) / kHugePage * kHugePage);
  madvise(reinterpret_cast<void*>(first), last - first, MADV_DONTNEED);
}

}  // namespace nibble::runtime
