// The 16-lane machine that row and attention kernels are written for, over asmjit's Compiler: one
// zmm on AVX-512, a pair of ymm on AVX2. It is a backend of vector_math.h and adds what kernels
// need besides: loads and stores with tail masks, the fixed reduction trees, integers, loops.
//
// Values are virtual registers and immutable, with one exception: an Accumulator is assigned to.
// A constant stays a constant until it is used, and is then read from the pool behind the code.
#pragma once

#include <asmjit/x86.h>

#include <bit>
#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "jit/isa.h"

namespace nibble::jit {

class CompilerMath : private asmjit::ErrorHandler {
 public:
  using Gp = asmjit::x86::Gp;
  using Mem = asmjit::x86::Mem;
  using Vec = asmjit::x86::Vec;
  using Label = asmjit::Label;

  // 16 lanes: part 0 alone on AVX-512, lanes 0..7 and 8..15 on AVX2; or a constant.
  struct Reg {
    Vec part[2];
    bool constant = false;
    uint32_t bits = 0;
  };
  // A predicate a lane: a k register, or all ones and all zeros in a pair of ymm.
  struct Mask {
    asmjit::x86::KReg k;
    Vec part[2];
  };

  // Starts `void f(const Args* args)`. Throws Error when asmjit cannot.
  explicit CompilerMath(Isa isa);
  CompilerMath(const CompilerMath&) = delete;
  CompilerMath& operator=(const CompilerMath&) = delete;

  // Ends the function and returns its bytes. Throws Error when asmjit refuses what was written.
  std::vector<uint8_t> finish();

  asmjit::x86::Compiler& cc() { return cc_; }
  const Gp& args() const { return args_; }
  bool wide() const { return wide_; }
  int parts() const { return wide_ ? 1 : 2; }

  // vector_math.h's operations.
  Reg imm(float value) { return imm_bits(std::bit_cast<uint32_t>(value)); }
  Reg add(const Reg& a, const Reg& b);
  Reg sub(const Reg& a, const Reg& b);
  Reg mul(const Reg& a, const Reg& b);
  Reg div(const Reg& a, const Reg& b);
  Reg fma(const Reg& a, const Reg& b, const Reg& c);
  Reg max(const Reg& a, const Reg& b);
  Reg min(const Reg& a, const Reg& b);
  Reg round(const Reg& a);
  Reg pow2(const Reg& a);
  Reg scale_pow2(const Reg& p, const Reg& n);    // the bits of p + (int(n) << 23)
  Reg add_exponent(const Reg& p, const Reg& t);  // the bits of p + (the bits of t << 23)
  Reg abs(const Reg& a);
  Reg neg(const Reg& a);

  // From here to release() these constants are in registers, for loops that have some to spare:
  // AVX-512 has, AVX2 reads them from the pool as ever.
  void hold(std::span<const float> values);
  void release() { held_.clear(); }

  // More fp32, and the same bits read as int32.
  Reg sqrt(const Reg& a);
  Reg div_uniform(const Reg& a, const Reg& b);  // of values that are the same in every lane
  Reg imm_bits(uint32_t bits);
  Reg to_int(const Reg& a);                    // half to even
  Reg to_int(const Mask& mask, const Reg& a);  // 0 in the other lanes
  Reg to_float(const Reg& a);
  Reg int_add(const Reg& a, const Reg& b);
  Reg int_max(const Reg& a, const Reg& b);  // signed
  Reg shift_left(const Reg& a, int bits);
  Reg shift_right(const Reg& a, int bits);  // logical
  // Of words, two to a lane.
  Reg shift_words_left(const Reg& a, int bits);
  Reg shift_words_right(const Reg& a, int bits);         // logical
  Reg shift_words_right_signed(const Reg& a, int bits);  // arithmetic
  Reg bit_and(const Reg& a, const Reg& b);
  Reg bit_or(const Reg& a, const Reg& b);
  // float16.h's bf16_activation and bf16_factor as int32 lanes.
  Reg to_bf16_activation(const Reg& a);
  Reg to_bf16_factor(const Reg& a);

  // Registers that outlive an expression.
  Reg fresh();                       // undefined contents
  Reg accumulator(const Reg& init);  // a copy that assign() may change
  void assign(const Reg& to, const Reg& from);
  void fma_into(const Reg& acc, const Reg& a, const Reg& b);  // acc = fma(a, b, acc)
  Vec vec(const Reg& a, int part);                            // the register; loads a constant

  // Memory. Lanes outside a mask are neither read (0 instead) nor written.
  Reg load(const Mem& from, const Mask* mask = nullptr);
  void store(const Mem& to, const Reg& a, const Mask* mask = nullptr);
  Reg broadcast(const Mem& from);  // one float or int32 in every lane
  Reg broadcast(const Gp& value);  // its low 32 bits
  void store_lane0(const Mem& to, const Reg& a);
  // int32 lanes as saturated int8; `count` = 8 or 16 of them.
  void store_int8(const Mem& to, const Reg& a, int count);

  // The low words of int32 lanes that hold 0..65535; `count` = 8 or 16 of them.
  void store_words(const Mem& to, const Reg& a, int count);

  // 16 halves as fp32; lanes past `count` are 0 and not read.
  Reg load_half(const Mem& from, int count);
  Reg load_bfloat(const Mem& from, int count);    // the same of bf16
  void store_int16(const Mem& to, const Reg& a);  // int32 lanes, saturated
  // acc += a[0] * b[0] + a[1] * b[1], the int16 pairs of each int32 lane.
  void dot_int16(const Reg& acc, const Reg& a, const Reg& b);
  // acc += a[0] * b[0] + ... + a[3] * b[3], of the bytes of each int32 lane: those of a unsigned,
  // those of b signed. Only where has_byte_dots().
  void dot_int8(const Reg& acc, const Reg& a, const Reg& b);
  bool has_byte_dots() const { return vnni_; }
  // int32 lanes that hold 0..255 as bytes. Of four registers, the four lanes 4 i to 4 i + 3 of each
  // become one dword, and those lie [i][register] (AVX-512 only).
  void store_uint8(const Mem& to, const Reg& a);
  void store_four_uint8(const Mem& to, std::span<const Reg, 4> a);
  // int32 lanes as int16, saturated, of each four in the order 0, 2, 1, 3.
  void store_int16_even_odd(const Mem& to, const Reg& a);
  // Pairs of neighbouring lanes: (2i, 2i + 1).
  Reg load_twice(const Mem& from, int count);  // count <= 8 floats, each in both lanes of a pair
  Reg swap_neighbours(const Reg& a);
  Reg fma_sub_add(const Reg& a, const Reg& b, const Reg& c);  // a * b - c even, a * b + c odd lanes

  // Masks.
  Reg iota();                         // int32 lanes 0..15
  Mask first_lanes(int count);        // lanes below a constant in 1..16
  Mask first_lanes(const Gp& count);  // lanes below a register in 0..16
  Mask int_greater(const Reg& a, const Reg& b);
  Mask not_less(const Reg& a, const Reg& b);  // of floats; true when unordered
  Mask both(const Mask& a, const Mask& b);
  Reg select(const Mask& mask, const Reg& yes, const Reg& no);
  Reg keep(const Mask& mask, const Reg& a);  // 0 in the other lanes

  // Reductions by the tree l + (l+8), l + (l+4), l + (l+2), l + (l+1); the result is in every lane.
  Reg reduce_add(const Reg& a);
  Reg reduce_max(const Reg& a);
  Reg reduce_int_add(const Reg& a);
  Reg reduce_int_max(const Reg& a);

  // The same trees of four rows together, AVX-512 only. First of rows two by two, then of those
  // pairs: the result of row r is in lanes 4 r to 4 r + 3. store_rows() stores one of each.
  Reg reduce_two_add(const Reg& a, const Reg& b);
  Reg reduce_two_max(const Reg& a, const Reg& b);
  Reg reduce_rows_add(const Reg& ab, const Reg& cd);
  Reg reduce_rows_max(const Reg& ab, const Reg& cd);
  void store_rows(const Mem& to, const Reg& rows);

  // Control flow. `body` is run while i < end, i advancing by step from the value it has; the
  // second form runs ceil(count / step) times.
  using Body = std::function<void()>;
  void loop(const Gp& i, const Gp& end, int64_t step, const Body& body);
  void loop(const Gp& i, int64_t count, int64_t step, const Body& body);
  // Blocks of 16 from i's value on: `count` elements, the last block with a mask when it is short.
  // i ends at the short block.
  using BlockBody = std::function<void(const Mask* mask, int lanes)>;
  void blocks(const Gp& i, int64_t count, const BlockBody& body);
  // The same for a length known at run time, from i = 0; `lanes` is 0 in the short block.
  void blocks(const Gp& i, const Gp& count, const BlockBody& body);

  Gp gp(const char* name) { return cc_.newGpq("%s", name); }
  Gp load_gp(const Mem& from, const char* name);
  Gp zero_gp(const char* name);
  // The field at byte `offset` of the arguments.
  Mem field(size_t offset, uint32_t size = 8) const {
    return asmjit::x86::ptr(args_, static_cast<int32_t>(offset), size);
  }

 private:
  void handleError(asmjit::Error error, const char* message, asmjit::BaseEmitter* origin) override;
  Vec new_vec();
  // Bytes of int32 lanes, saturated, by the instruction of AVX-512 or the two of AVX2.
  struct Narrowing {
    uint32_t to_bytes, to_words, words_to_bytes;
  };
  asmjit::x86::Xmm bytes_of(const Reg& a, const Narrowing& by);
  Reg binary(uint32_t instruction, const Reg& a, const Reg& b);
  Reg commutative(uint32_t instruction, const Reg& a, const Reg& b);
  Reg unary(uint32_t instruction, const Reg& a);
  Reg shift(uint32_t instruction, const Reg& a, int bits);
  Reg reduce(uint32_t instruction, const Reg& a);
  Reg reduce_two(uint32_t instruction, const Reg& a, const Reg& b);
  Reg reduce_rows(uint32_t instruction, const Reg& ab, const Reg& cd);
  asmjit::Operand operand(const Reg& a, int part);
  Mem pool(uint32_t bits);
  const Vec* held(uint32_t bits) const;
  Reg to_bf16(const Reg& a, float least);
  void load_words(const asmjit::x86::Xmm& words, const Mem& from, int count);

  asmjit::CodeHolder code_;
  asmjit::x86::Compiler cc_;
  Gp args_;
  std::vector<Reg> held_;  // their bits beside their registers
  bool wide_ = false;
  bool vnni_ = false;  // dot products of int16 and of bytes are one instruction,
  bool vex_ = false;   // which AVX-VNNI has in its own encoding
};

}  // namespace nibble::jit
