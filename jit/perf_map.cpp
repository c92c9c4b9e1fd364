#include "jit/perf_map.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdlib>
#include <utility>

#include "jit/dump_file.h"
#include "jit/error.h"

namespace nibble::jit {
namespace {

void write_file(const std::string& path, int flags, const void* bytes, size_t size) {
  DumpFile(path, flags).write(bytes, size);
}

}  // namespace

CodeDump::CodeDump(std::string_view modes, std::string folder) : folder_(std::move(folder)) {
  while (!modes.empty()) {
    const std::string_view word = modes.substr(0, modes.find(','));
    modes.remove_prefix(std::min(modes.size(), word.size() + 1));
    if (word == "perf") {
      perf_ = true;
    } else if (word == "bin") {
      bin_ = true;
    } else if (word == "jitdump") {
      if (!jitdump_) jitdump_ = std::make_unique<JitDump>(folder_);
    } else {
      fail("NIBBLE_JIT_DUMP holds '{}'; expected perf, jitdump or bin, with commas between.", word);
    }
  }
}

CodeDump CodeDump::from_environment() {
  const char* modes = std::getenv("NIBBLE_JIT_DUMP");
  const char* folder = std::getenv("NIBBLE_JIT_DUMP_DIR");
  const bool named = folder != nullptr && *folder != '\0';
  return {modes == nullptr ? "" : modes, named ? folder : "."};
}

void CodeDump::record(const std::string& name, const void* address,
                      std::span<const uint8_t> code) const {
  if (bin_) write_file(folder_ + "/" + name + ".bin", O_TRUNC, code.data(), code.size());
  if (jitdump_) jitdump_->add(name, address, code);
  if (!perf_) return;
  // One write of one line to a file opened for appending: lines of several threads do not mix. The
  // name is fixed by perf, in a folder that all users share: a link planted there is not followed.
  const std::string line =
      fmt::format("{:x} {:x} {}\n", reinterpret_cast<uintptr_t>(address), code.size(), name);
  write_file(fmt::format("/tmp/perf-{}.map", getpid()), O_APPEND | O_NOFOLLOW, line.data(),
             line.size());
}

}  // namespace nibble::jit
