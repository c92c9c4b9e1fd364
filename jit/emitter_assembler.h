// Xbyak as this project uses it: code grows in plain heap memory that is never executable (the
// CodeCache copies the finished bytes into executable memory), and vector constants lie behind the
// code, read RIP-relative. Every forward jump must say T_NEAR, since a growing buffer cannot widen.
#pragma once

#include <xbyak/xbyak.h>

#include <array>
#include <bit>
#include <cstdint>
#include <map>
#include <vector>

#include "jit/packed_layout.h"

namespace nibble::jit {

class Assembler : public Xbyak::CodeGenerator {
 public:
  Assembler();

  // 64 bytes of one repeated 32-bit value: an operand for a register of any width.
  Xbyak::Address constant(uint32_t bits);
  Xbyak::Address constant(float value) { return constant(std::bit_cast<uint32_t>(value)); }
  // 64 bytes of any 16 dwords.
  using Line = std::array<uint32_t, 16>;
  Xbyak::Address constant(const Line& line) { return ptr[rip + lines_[line]]; }
  // Loads the address of 16 dwords of ones followed by 16 of zeros: the mask of the first v lanes
  // starts (16 - v) * 4 bytes into it.
  void load_mask_table(const Xbyak::Reg64& reg);

  // Appends the constants and returns all bytes. Call once, last.
  std::vector<uint8_t> finish();

 private:
  std::map<uint32_t, Xbyak::Label> constants_;
  std::map<Line, Xbyak::Label> lines_;
  Xbyak::Label mask_table_;
  bool uses_mask_table_ = false;
};

// dst = scales or minimums as floats: 16 or 8, as wide as dst is. Of q8: the bytes alone.
void load_scales(Assembler& out, ScaleType type, const Xbyak::Xmm& dst,
                 const Xbyak::RegExp& source);

}  // namespace nibble::jit
