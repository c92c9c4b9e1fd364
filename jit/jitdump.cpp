#include "jit/jitdump.h"

#include <elf.h>
#include <fcntl.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstring>
#include <ctime>
#include <vector>

#include "jit/error.h"

namespace nibble::jit {
namespace {

constexpr uint32_t kMagic = 0x4A695444;  // read in the other byte order it names that order
constexpr uint32_t kVersion = 1;
constexpr uint32_t kCodeLoad = 0;

struct Header {
  uint32_t magic, version, total_size, machine, padding, pid;
  uint64_t timestamp, flags;
};
static_assert(sizeof(Header) == 40);

struct CodeLoad {
  uint32_t id, total_size;
  uint64_t timestamp;
  uint32_t pid, tid;
  uint64_t vma, address, code_size, index;
};
static_assert(sizeof(CodeLoad) == 56);

uint64_t nanoseconds() {
  timespec time{};
  clock_gettime(CLOCK_MONOTONIC, &time);
  return static_cast<uint64_t>(time.tv_sec) * 1'000'000'000 + static_cast<uint64_t>(time.tv_nsec);
}

size_t page_bytes() { return static_cast<size_t>(sysconf(_SC_PAGESIZE)); }

}  // namespace

JitDump::JitDump(const std::string& folder)
    : file_(fmt::format("{}/jit-{}.dump", folder, getpid()), O_TRUNC | O_NOFOLLOW) {
  const Header header{.magic = kMagic,
                      .version = kVersion,
                      .total_size = sizeof(Header),
                      .machine = EM_X86_64,
                      .padding = 0,
                      .pid = static_cast<uint32_t>(getpid()),
                      .timestamp = nanoseconds(),
                      .flags = 0};
  file_.write(&header, sizeof(header));
  marker_ = mmap(nullptr, page_bytes(), PROT_READ | PROT_EXEC, MAP_PRIVATE, file_.descriptor(), 0);
  if (marker_ == MAP_FAILED) {
    fail("The JIT dump {} cannot be mapped as code, which perf needs to find it: {}.", file_.path(),
         std::strerror(errno));
  }
}

JitDump::~JitDump() { munmap(marker_, page_bytes()); }

void JitDump::add(const std::string& name, const void* address, std::span<const uint8_t> code) {
  const size_t name_bytes = name.size() + 1;
  CodeLoad record{.id = kCodeLoad,
                  .total_size = static_cast<uint32_t>(sizeof(CodeLoad) + name_bytes + code.size()),
                  .timestamp = 0,
                  .pid = static_cast<uint32_t>(getpid()),
                  .tid = static_cast<uint32_t>(syscall(SYS_gettid)),
                  .vma = reinterpret_cast<uint64_t>(address),
                  .address = reinterpret_cast<uint64_t>(address),
                  .code_size = code.size(),
                  .index = 0};
  std::vector<char> bytes(record.total_size);
  std::memcpy(bytes.data() + sizeof(record), name.c_str(), name_bytes);
  if (!code.empty()) {
    std::memcpy(bytes.data() + sizeof(record) + name_bytes, code.data(), code.size());
  }
  const std::lock_guard lock(mutex_);
  record.timestamp = nanoseconds();  // times and indices ascend through the file
  record.index = index_++;
  std::memcpy(bytes.data(), &record, sizeof(record));
  file_.write(bytes.data(), bytes.size());
}

}  // namespace nibble::jit
