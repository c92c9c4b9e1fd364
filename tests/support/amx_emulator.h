// Runs AMX instructions on machines that have none: a SIGILL handler that decodes the instruction
// at which the processor stopped, executes it on a tile state of the thread's own (amx_tiles.h) and
// goes on behind it. For tests of generated code. Where the machine has AMX it never triggers, and
// the same tests run natively.
//
// Faults are those of the processor under Linux. #UD is the SIGILL at hand, passed to the handler
// that was there before. #GP is a SIGSEGV without an address; a memory operand that cannot be
// accessed is a SIGSEGV at its address, and a handler that repairs the mapping may return: the
// instruction goes on at the row where it stopped. (Both interrupt the emulator, so the context
// that such a handler is given is not that of the AMX instruction.) FS and GS overrides, which no
// generator writes, are taken for #UD.
#pragma once

#include <cstdint>

namespace nibble::test {

class AmxEmulator {
 public:
  // Installs the handler for the whole process while an object lives; objects may nest.
  AmxEmulator();
  ~AmxEmulator();
  AmxEmulator(const AmxEmulator&) = delete;
  AmxEmulator& operator=(const AmxEmulator&) = delete;

  // Instructions executed for the calling thread so far; 0 for ever where AMX is real.
  static uint64_t executed();
};

}  // namespace nibble::test
