// Shows generated kernels to other tools, as NIBBLE_JIT_DUMP asks (words separated by commas):
//   perf      appends "address size name" lines to /tmp/perf-<pid>.map, where `perf report` looks
//   jitdump   appends them, with their code, to $NIBBLE_JIT_DUMP_DIR/jit-<pid>.dump (jitdump.h)
//   bin       writes each kernel's bytes to $NIBBLE_JIT_DUMP_DIR/NAME.bin
// A folder that is not named is the current one.
// Called by the code cache, once a kernel, from any thread.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>

#include "jit/jitdump.h"

namespace nibble::jit {

class CodeDump {
 public:
  // `modes` is the text of NIBBLE_JIT_DUMP; throws Error on a word that is none of them, and when
  // the jitdump cannot be made.
  CodeDump(std::string_view modes, std::string folder);
  static CodeDump from_environment();

  // Throws Error when a file cannot be written.
  void record(const std::string& name, const void* address, std::span<const uint8_t> code) const;

 private:
  bool perf_ = false, bin_ = false;
  std::string folder_;
  std::unique_ptr<JitDump> jitdump_;
};

}  // namespace nibble::jit
