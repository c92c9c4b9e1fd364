#include "tests/support/amx_emulator.h"

#include <ucontext.h>

#include <atomic>
#include <csignal>
#include <cstdlib>
#include <mutex>

#include "tests/support/amx_tiles.h"

namespace nibble::test {
namespace {

constinit thread_local AmxTiles tiles;
constinit thread_local uint64_t executed_here = 0;

// --- decoding ---

// All AMX instructions have a three-byte VEX prefix with 128 bits, W0 and the map 0F38.
struct Instruction {
  uint8_t opcode = 0;
  int prefix = 0;        // VEX.pp: none, 66, F3, F2
  int mod = 0;           // 3: registers
  int reg = 0;           // ModRM.reg with VEX.R
  int rm = 0;            // ModRM.rm with VEX.B
  int vvvv = 0;          // the register that VEX.vvvv names; 0 when it is unused (1111)
  bool sib = false;      // memory operands:
  uint64_t address = 0;  // of the first row
  uint64_t stride = 0;
  uint64_t end = 0;  // address of the next instruction
};

enum Prefix { kNone, k66, kF3, kF2 };

class Decoder {
 public:
  explicit Decoder(const mcontext_t& machine)
      : machine_(machine), at_(static_cast<uint64_t>(machine.gregs[REG_RIP])) {}

  // Reads no byte further than it must: the next one may be on a page that is not there. False for
  // what is no AMX instruction.
  bool decode(Instruction& out) {
    while (is_ignored_prefix(peek())) address_32_ |= next() == 0x67;
    if (next() != 0xc4) return false;
    const uint8_t first = next();
    const uint8_t second = next();
    out.opcode = next();
    if ((first & 0x1f) != 2 || (second & 0x84) != 0) return false;  // 0F38, W0, L0
    if (out.opcode != 0x49 && out.opcode != 0x4b && out.opcode != 0x5c && out.opcode != 0x5e) {
      return false;
    }
    const bool r = (first & 0x80) == 0, x = (first & 0x40) == 0, b = (first & 0x20) == 0;
    out.prefix = second & 3;
    out.vvvv = (~second >> 3) & 15;
    const uint8_t modrm = next();
    out.mod = modrm >> 6;
    out.reg = ((modrm >> 3) & 7) + (r ? 8 : 0);
    out.rm = (modrm & 7) + (b ? 8 : 0);
    if (out.mod != 3) memory_operand(out, modrm & 7, x, b);
    out.end = at_;
    return true;
  }

 private:
  // CS, SS, DS and ES overrides mean nothing; 67 makes addresses 32 bits wide.
  static bool is_ignored_prefix(uint8_t byte) {
    return byte == 0x2e || byte == 0x36 || byte == 0x3e || byte == 0x26 || byte == 0x67;
  }

  uint8_t peek() const { return *reinterpret_cast<const uint8_t*>(at_); }
  uint8_t next() {
    const uint8_t byte = peek();
    ++at_;
    return byte;
  }
  int64_t displacement(int bytes) {
    uint32_t bits = 0;
    for (int i = 0; i < bytes; ++i) bits |= static_cast<uint32_t>(next()) << (8 * i);
    return bytes == 1 ? static_cast<int8_t>(bits) : static_cast<int32_t>(bits);
  }
  uint64_t general(int number) const {
    static constexpr int kOrder[16] = {REG_RAX, REG_RCX, REG_RDX, REG_RBX, REG_RSP, REG_RBP,
                                       REG_RSI, REG_RDI, REG_R8,  REG_R9,  REG_R10, REG_R11,
                                       REG_R12, REG_R13, REG_R14, REG_R15};
    return static_cast<uint64_t>(machine_.gregs[kOrder[number]]);
  }
  uint64_t truncated(uint64_t address) const {
    return address_32_ ? address & 0xffffffffU : address;
  }

  void memory_operand(Instruction& out, int rm, bool x, bool b) {
    uint64_t base = 0;
    bool has_base = true;
    bool rip_relative = false;
    out.sib = rm == 4;
    if (out.sib) {
      const uint8_t sib = next();
      const int index = ((sib >> 3) & 7) + (x ? 8 : 0);
      if (index != 4) out.stride = general(index) << (sib >> 6);
      has_base = out.mod != 0 || (sib & 7) != 5;
      if (has_base) base = general((sib & 7) + (b ? 8 : 0));
    } else if (out.mod == 0 && rm == 5) {
      has_base = false;
      rip_relative = true;
    } else {
      base = general(rm + (b ? 8 : 0));
    }
    if (out.mod == 1) base += static_cast<uint64_t>(displacement(1));
    if (out.mod == 2 || !has_base) base += static_cast<uint64_t>(displacement(4));
    if (rip_relative) base += at_;
    out.stride = truncated(out.stride);
    out.address = truncated(base);
  }

  const mcontext_t& machine_;
  uint64_t at_;
  bool address_32_ = false;
};

// --- executing ---

// rep movsb: see move_bytes in amx_tiles.cpp.
void move_config(void* to, const void* from) {
  size_t count = AmxTiles::kConfigBytes;
  __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(count) : : "memory");
}

// The operand of LDTILECFG and STTILECFG is an ordinary one: an index adds to the address.
AmxFault execute_config(const Instruction& in) {
  const uint64_t address = in.address + in.stride;
  AmxTiles::Config config{};
  switch (in.prefix) {
    case kNone:
      move_config(config.data(), reinterpret_cast<const void*>(address));
      return tiles.load_config(config);
    case k66:
      config = tiles.config();
      move_config(reinterpret_cast<void*>(address), config.data());
      return AmxFault::none;
    default:
      return AmxFault::undefined;
  }
}

AmxFault execute_49(const Instruction& in) {
  if (in.vvvv != 0) return AmxFault::undefined;
  if (in.mod != 3) return in.reg == 0 ? execute_config(in) : AmxFault::undefined;
  if (in.rm != 0) return AmxFault::undefined;
  if (in.prefix == kF2) return tiles.zero(in.reg);
  if (in.prefix != kNone || in.reg != 0) return AmxFault::undefined;
  tiles.release();
  return AmxFault::none;
}

AmxFault execute_4b(const Instruction& in) {
  if (in.vvvv != 0 || in.mod == 3 || !in.sib) return AmxFault::undefined;
  if (in.prefix == kNone) return AmxFault::undefined;
  if (in.prefix == kF3) return tiles.store(in.reg, in.address, in.stride);
  return tiles.load(in.reg, in.address, in.stride);
}

AmxFault execute(const Instruction& in) {
  if (in.opcode == 0x49) return execute_49(in);
  if (in.opcode == 0x4b) return execute_4b(in);
  if (in.mod != 3) return AmxFault::undefined;
  if (in.opcode == 0x5c) {
    return in.prefix == kF3 ? tiles.dot_bf16(in.reg, in.rm, in.vvvv) : AmxFault::undefined;
  }
  const bool a_signed = in.prefix == kF2 || in.prefix == kF3;
  const bool b_signed = in.prefix == kF2 || in.prefix == k66;
  return tiles.dot_bytes(in.reg, in.rm, in.vvvv, a_signed, b_signed);
}

// --- the signal ---

struct sigaction previous;  // NOLINT(readability-identifier-naming): a type of POSIX

void pass_on(int number, siginfo_t* info, void* context) {
  if ((previous.sa_flags & SA_SIGINFO) != 0) return previous.sa_sigaction(number, info, context);
  if (previous.sa_handler != SIG_DFL && previous.sa_handler != SIG_IGN) {
    return previous.sa_handler(number);
  }
  // The instruction runs again and ends the process.
  std::signal(number, SIG_DFL);
}

// What the processor raises at an address of no canonical form: SIGSEGV, SI_KERNEL, no address.
void raise_protection_fault() {
  uint64_t address = uint64_t{1} << 63;
  __asm__ volatile("movb (%0), %b0" : "+r"(address) : : "memory");
}

void on_illegal_instruction(int number, siginfo_t* info, void* context) {
  auto& machine = static_cast<ucontext_t*>(context)->uc_mcontext;
  Instruction in;
  if (!Decoder(machine).decode(in)) return pass_on(number, info, context);
  switch (execute(in)) {
    case AmxFault::none:
      ++executed_here;
      machine.gregs[REG_RIP] = static_cast<greg_t>(in.end);
      return;
    case AmxFault::undefined:
      return pass_on(number, info, context);
    case AmxFault::protection:
      return raise_protection_fault();
  }
}

std::mutex install_mutex;
int installed = 0;

}  // namespace

AmxEmulator::AmxEmulator() {
  const std::lock_guard lock(install_mutex);
  if (installed++ > 0) return;
  struct sigaction action {};
  action.sa_sigaction = on_illegal_instruction;
  // NODEFER: a handler of a fault inside may leave by siglongjmp.
  action.sa_flags = SA_SIGINFO | SA_NODEFER;
  if (sigaction(SIGILL, &action, &previous) != 0) std::abort();
}

AmxEmulator::~AmxEmulator() {
  const std::lock_guard lock(install_mutex);
  if (--installed == 0 && sigaction(SIGILL, &previous, nullptr) != 0) std::abort();
}

uint64_t AmxEmulator::executed() { return executed_here; }

}  // namespace nibble::test
