// Generated kernels, code and all, in a file that `perf inject --jit` turns into symbols and
// disassembly (linux: tools/perf/Documentation/jitdump-specification.txt). Unlike the perf map it
// lets `perf annotate` show the instructions:
//
//     NIBBLE_JIT_DUMP=jitdump perf record -k mono nibble bench MODEL
//     perf inject --jit -i perf.data -o perf.jit.data
//     perf annotate -i perf.jit.data
//
//     header   "DTiJ"  version 1  size 40  machine 62  0  pid  time  flags 0
//     a record a kernel: 0  size  time  pid  tid  address  address  code size  index  name\0  code
//
// All little endian; times are nanoseconds of CLOCK_MONOTONIC. The file is left behind.
#pragma once

#include <cstdint>
#include <mutex>
#include <span>
#include <string>

#include "jit/dump_file.h"

namespace nibble::jit {

class JitDump {
 public:
  // Makes FOLDER/jit-<pid>.dump and maps a page of it as code, which is how `perf record` learns
  // of it. Throws Error when either is refused.
  explicit JitDump(const std::string& folder);
  ~JitDump();
  JitDump(const JitDump&) = delete;
  JitDump& operator=(const JitDump&) = delete;

  // Appends a kernel. Thread-safe. Throws Error when the file cannot be written.
  void add(const std::string& name, const void* address, std::span<const uint8_t> code);

 private:
  std::mutex mutex_;  // guards both
  DumpFile file_;
  uint64_t index_ = 0;
  void* marker_ = nullptr;
};

}  // namespace nibble::jit
