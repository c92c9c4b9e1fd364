#include "jit/amx_panel.h"

#include <array>
#include <cstddef>
#include <cstdint>

#include "jit/emitter.h"
#include "jit/float16.h"

namespace nibble::jit {
namespace {

using Xbyak::CodeGenerator;
using Xbyak::Label;
using Xbyak::Reg64;
using Xbyak::Zmm;

constexpr uint8_t kAndOr = 0xea;  // vpternlogd: a & b | c

// For vpshufb: of each dword's bytes (0 to 3) four others, or zero where there is no such byte.
Assembler::Line byte_picker(const std::array<int, 4>& bytes) {
  Assembler::Line line{};
  for (uint32_t dword = 0; dword < line.size(); ++dword) {
    for (uint32_t i = 0; i < bytes.size(); ++i) {
      const uint32_t from = bytes[i] < 0 ? 0x80 : dword % 4 * 4 + static_cast<uint32_t>(bytes[i]);
      line[dword] |= from << (8 * i);
    }
  }
  return line;
}

// Byte 16 + i is the lower byte of bf16 (i - offset), byte 48 + i the upper one: what kIndexBits
// makes of a nibble i, and of one less a zero point, when the first is below 16 and the second
// above -16.
constexpr uint32_t kIndexBits = 0x30103010U;

Assembler::Line value_table(int offset) {
  Assembler::Line line{};
  for (uint32_t i = 0; i < 32; ++i) {
    const int value = static_cast<int>(i) - 16 - offset;
    const uint32_t word = f32_to_bf16(static_cast<float>(value));
    line[i / 4] |= (word & 0xffU) << (i % 4 * 8);
    line[8 + i / 4] |= (word >> 8) << (i % 4 * 8);
  }
  return line;
}

class PanelWriter {
 public:
  PanelWriter(Assembler& out, const GemmSpec& spec, const Tiling& tiling)
      : out_(out),
        spec_(spec),
        tiling_(tiling),
        shape_(packed_shape(spec.weight, spec.n, spec.k)),
        plan_(plan_amx(spec)),
        nibbles_(spec.weight.type == WeightType::u4),
        bf16_(spec.act == ActType::bf16) {}

  void emit();

 private:
  int64_t packed_k() const { return nibbles_ ? 8 : 4; }  // of a packed line
  int64_t panel_lines() const { return packed_k() / plan_.row_k(); }
  bool subtracts() const { return bf16_ && spec_.weight.asym; }
  Xbyak::Address local(int offset) { return out_.ptr[out_.rbp + offset]; }
  Xbyak::Address arg(size_t offset) { return out_.ptr[out_.rdi + static_cast<int>(offset)]; }
  Xbyak::Address line(int64_t index) {
    return out_.ptr[target_ + static_cast<int>(index * kLineBytes)];
  }

  void load_constants();
  void load_zero_points();
  void unpack_group(int64_t length);
  void unpack_lines(int64_t k);
  void zero_lines(int64_t k);
  void unpack_bytes();
  void unpack_pairs_of_nibbles();
  void unpack_pairs_of_bytes();

  Assembler& out_;
  const GemmSpec& spec_;
  const Tiling& tiling_;
  const PackedShape shape_;
  const AmxPlan plan_;
  const bool nibbles_, bf16_;
  const Reg64 source_ = out_.rsi, target_ = out_.rdx, lines_ = out_.rcx, blocks_ = out_.r8,
              groups_ = out_.r9, w_zero_ = out_.r10;
  const Zmm packed_ = out_.zmm0, mask_ = out_.zmm1, table_ = out_.zmm2, zeros_ = out_.zmm3;
  const Zmm pickers_[2] = {out_.zmm4, out_.zmm5}, index_bits_ = out_.zmm6;
};

void PanelWriter::load_constants() {
  out_.vmovups(mask_, out_.constant(0x0f0f0f0fU));
  if (!bf16_) return;
  for (int half = 0; half < 2; ++half) {
    const int first = 2 * half, second = first + 1;
    const std::array<int, 4> bytes =
        nibbles_ ? std::array{first, first, second, second} : std::array{first, -1, second, -1};
    out_.vmovups(pickers_[half], out_.constant(byte_picker(bytes)));
  }
  if (nibbles_) {
    out_.vmovups(index_bits_, out_.constant(kIndexBits));
    out_.vmovups(table_, out_.constant(value_table(spec_.weight.asym ? 0 : 8)));
  } else if (!spec_.weight.asym) {
    out_.vmovups(zeros_, out_.constant(0x00800080U));
  }
}

// The zero point of each column in all four of its bytes (u4) or in both of its words.
void PanelWriter::load_zero_points() {
  if (!subtracts()) return;
  const std::array<int, 4> bytes = nibbles_ ? std::array{0, 0, 0, 0} : std::array{0, -1, 0, -1};
  out_.vpmovzxbd(zeros_, out_.ptr[w_zero_]);
  out_.vpshufb(zeros_, zeros_, out_.constant(byte_picker(bytes)));
  out_.add(w_zero_, static_cast<int>(kColumnBlock));
}

void PanelWriter::unpack_bytes() {
  if (nibbles_) {
    const Zmm high = out_.zmm7;
    out_.vpsrld(high, packed_, 4);
    out_.vpandd(packed_, packed_, mask_);
    out_.vpandd(high, high, mask_);
    out_.vmovups(line(1), high);
  }
  out_.vmovups(line(0), packed_);
}

void PanelWriter::unpack_pairs_of_nibbles() {
  for (int half = 0; half < 2; ++half) {
    const Zmm low(7 + 2 * half), high(8 + 2 * half);
    out_.vpshufb(low, packed_, pickers_[half]);
    out_.vpsrld(high, low, 4);
    for (const Zmm& pair : {low, high}) {
      out_.vpternlogd(pair, mask_, index_bits_, kAndOr);
      if (subtracts()) out_.vpsubb(pair, pair, zeros_);
      out_.vpermb(pair, pair, table_);
    }
    out_.vmovups(line(half), low);
    out_.vmovups(line(2 + half), high);
  }
}

// By way of int32 and fp32, whose lower halves are zero: these numbers have 8 bits.
void PanelWriter::unpack_pairs_of_bytes() {
  for (int half = 0; half < 2; ++half) {
    const Zmm even(7 + 2 * half), odd(8 + 2 * half);
    out_.vpshufb(even, packed_, pickers_[half]);
    out_.vpsubw(even, even, zeros_);
    out_.vpsrad(odd, even, 16);
    out_.vpslld(even, even, 16);
    out_.vpsrad(even, even, 16);
    out_.vcvtdq2ps(odd, odd);
    out_.vcvtdq2ps(even, even);
    out_.vpsrld(even, even, 16);
    out_.vpord(even, even, odd);
    out_.vmovups(line(half), even);
  }
}

void PanelWriter::unpack_lines(int64_t k) {
  if (k == 0) return;
  Label top;
  out_.mov(lines_, k / packed_k());
  out_.L(top);
  if (tiling_.prefetch_l2 > 0) out_.prefetcht1(out_.ptr[source_ + tiling_.prefetch_l2]);
  out_.vmovups(packed_, out_.ptr[source_]);
  if (!bf16_) {
    unpack_bytes();
  } else if (nibbles_) {
    unpack_pairs_of_nibbles();
  } else {
    unpack_pairs_of_bytes();
  }
  out_.add(source_, kLineBytes);
  out_.add(target_, static_cast<int>(panel_lines() * kLineBytes));
  out_.dec(lines_);
  out_.jnz(top, CodeGenerator::T_NEAR);
}

void PanelWriter::zero_lines(int64_t k) {
  if (k == 0) return;
  out_.vpxord(packed_, packed_, packed_);
  const int64_t count = k / plan_.row_k();
  for (int64_t index = 0; index < count; ++index) out_.vmovups(line(index), packed_);
  out_.add(target_, static_cast<int>(count * kLineBytes));
}

void PanelWriter::unpack_group(int64_t length) {
  load_zero_points();
  const int64_t whole = plan_.shift(length) == 0 ? length : (plan_.steps(length) - 1) * plan_.step;
  unpack_lines(whole);
  zero_lines(plan_.shift(length));
  unpack_lines(length - whole);
}

void PanelWriter::emit() {
  out_.mov(out_.rdi, local(kFrameArgs));
  out_.imul(source_, local(kFrameNb), static_cast<int>(shape_.block_bytes));
  out_.add(source_, arg(offsetof(GemmArgs, w)));
  if (subtracts()) {
    out_.imul(w_zero_, local(kFrameNb), static_cast<int>(shape_.groups * kColumnBlock));
    out_.add(w_zero_, arg(offsetof(GemmArgs, w_zero)));
  }
  out_.mov(target_, arg(offsetof(GemmArgs, scratch)));
  out_.add(target_, static_cast<int>(amx_panel_offset(spec_, tiling_)));
  out_.mov(blocks_, local(kFrameUnitBlocks));
  load_constants();
  Label block, group;
  out_.L(block);
  if (!plan_.has_shifts() && !subtracts()) {
    unpack_lines(shape_.kpad);
  } else {
    if (plan_.groups > 1) {
      out_.mov(groups_, plan_.groups - 1);
      out_.L(group);
      unpack_group(plan_.group);
      out_.dec(groups_);
      out_.jnz(group, CodeGenerator::T_NEAR);
    }
    unpack_group(plan_.last_group);
  }
  out_.dec(blocks_);
  out_.jnz(block, CodeGenerator::T_NEAR);
  out_.ret();
}

}  // namespace

void emit_amx_panel(Assembler& out, const GemmSpec& spec, const Tiling& tiling) {
  PanelWriter(out, spec, tiling).emit();
}

}  // namespace nibble::jit
