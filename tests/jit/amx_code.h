// Small pieces of code with tile instructions for the tests of the AMX emulator: assembled, run
// under it, and the signal that they end with, if any.
#pragma once

#include <setjmp.h>

#include <csignal>
#include <cstdint>
#include <initializer_list>
#include <string>

#include "jit/emitter_assembler.h"
#include "jit/isa.h"
#include "tests/support/amx_emulator.h"
#include "tests/support/amx_tiles.h"
#include "tests/support/generated_code.h"

namespace nibble::test {

// What this machine lacks to run amx_int8 kernels, emulated or not: they are AVX-512 around tiles.
inline std::string amx_obstacle() {
  const std::string missing = jit::missing_features(jit::cpu(), jit::Isa::avx512_vnni);
  return missing.empty() && !jit::cpu().avx512_vbmi ? "AVX512_VBMI" : missing;
}

struct TileShape {
  int rows = 0, colsb = 0;
};

// Palette 1 with the given shapes for tiles 0, 1, ...
inline AmxTiles::Config tile_config(std::initializer_list<TileShape> shapes, int start_row = 0) {
  AmxTiles::Config out{};
  out[0] = 1;
  out[1] = static_cast<uint8_t>(start_row);
  int t = 0;
  for (const TileShape& shape : shapes) {
    out[16 + 2 * t] = static_cast<uint8_t>(shape.colsb & 0xff);
    out[17 + 2 * t] = static_cast<uint8_t>(shape.colsb >> 8);
    out[48 + t] = static_cast<uint8_t>(shape.rows);
    ++t;
  }
  return out;
}

// A function of no arguments.
class Code : public jit::Assembler {
 public:
  void load_address(const Xbyak::Reg64& reg, const void* address) {
    mov(reg, reinterpret_cast<uint64_t>(address));
  }
  void configure(const AmxTiles::Config& config) {
    load_address(rax, config.data());
    ldtilecfg(ptr[rax]);
  }
  void load(int tile, const void* from, int64_t stride) {
    load_address(rax, from);
    mov(rdx, stride);
    tileloadd(Xbyak::Tmm(tile), ptr[rax + rdx]);
  }
  void store(void* to, int64_t stride, int tile) {
    load_address(rax, to);
    mov(rdx, stride);
    tilestored(ptr[rax + rdx], Xbyak::Tmm(tile));
  }
  void bytes(std::initializer_list<int> values) {
    for (const int value : values) db(value);
  }
};

struct Nothing {};

// Assembles what `emit` writes and runs it once.
template <typename Emit>
void run_code(Emit emit) {
  Code code;
  emit(code);
  code.ret();
  const GeneratedCode<void (*)(const Nothing*)> run(code.finish());
  run(Nothing{});
}

inline AmxTiles::Config current_config() {
  AmxTiles::Config out;
  out.fill(0xee);
  run_code([&](Code& code) {
    code.load_address(code.rax, out.data());
    code.sttilecfg(code.ptr[code.rax]);
  });
  return out;
}

struct Fault {
  int signal = 0;  // 0: none
  int code = 0;
  const void* address = nullptr;
};

// While one lives, fault_of() catches SIGILL and SIGSEGV. Make it before the emulator, which passes
// on what it does not execute.
class FaultCatcher {
 public:
  FaultCatcher() {
    struct sigaction action {};
    action.sa_sigaction = [](int number, siginfo_t* info, void*) {
      fault() = {number, info->si_code, info->si_addr};
      siglongjmp(*jump(), 1);
    };
    action.sa_flags = SA_SIGINFO;
    sigaction(SIGILL, &action, &illegal_);
    sigaction(SIGSEGV, &action, &segment_);
  }
  ~FaultCatcher() {
    sigaction(SIGILL, &illegal_, nullptr);
    sigaction(SIGSEGV, &segment_, nullptr);
  }
  FaultCatcher(const FaultCatcher&) = delete;
  FaultCatcher& operator=(const FaultCatcher&) = delete;

  static Fault& fault() {
    static Fault last;
    return last;
  }
  static sigjmp_buf* jump() {
    static sigjmp_buf buffer;
    return &buffer;
  }

 private:
  struct sigaction illegal_ {
  }, segment_{};
};

template <typename Emit>
Fault fault_of(Emit emit) {
  Code code;
  emit(code);
  code.ret();
  const GeneratedCode<void (*)(const Nothing*)> run(code.finish());
  FaultCatcher::fault() = {};
  if (sigsetjmp(*FaultCatcher::jump(), 1) == 0) run(Nothing{});
  return FaultCatcher::fault();
}

}  // namespace nibble::test
