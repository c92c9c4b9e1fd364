#include "jit/emitter_epilogue.h"

#include <cstddef>

#include "jit/vector_math.h"
#include "jit/xbyak_math.h"

namespace nibble::jit {
namespace {

using Xbyak::CodeGenerator;
using Xbyak::Label;
using Reg64 = Xbyak::Reg64;

class Epilogue {
 public:
  Epilogue(Assembler& out, const GemmSpec& spec, const Tiling& tiling, bool zmm)
      : out_(out),
        spec_(spec),
        mr_(tiling.mr),
        apart_(tiling.apart),
        gate_distance_(tiling.apart ? tiling.nr : 1),
        zmm_(zmm),
        math_(out, zmm) {}

  void emit();

 private:
  int blocks_per_output() const { return spec_.gate ? 2 : 1; }
  bool bias_has_tail() const { return spec_.bias && spec_.n % kColumnBlock != 0; }
  int halves() const { return zmm_ ? 1 : 2; }
  int64_t half_bytes() const { return zmm_ ? 64 : 32; }

  void load_pointers();
  void row_pointer(const Reg64& dst, size_t base, size_t stride);
  void make_masks();
  void make_mask(const Reg64& valid, const Reg64& pointer, const Xbyak::Opmask& mask);
  void row_loop();
  void next_block(Label& top);
  XbyakMath::Reg sums(int block, int half);
  void store_half(int half);
  void masked_ymm(int half, const XbyakMath::Reg& value);
  Xbyak::Address local(int offset) { return out_.ptr[out_.rbp + offset]; }

  Assembler& out_;
  const GemmSpec& spec_;
  const int64_t mr_;
  const bool apart_;
  const int gate_distance_;  // blocks of sums from a gate's to those it is multiplied by
  const bool zmm_;
  XbyakMath math_;
  // Registers are named for what they hold.
  const Reg64 args_ = out_.rdi, tile_ = out_.rax, rows_ = out_.rcx, c_ = out_.rsi,
              c_stride_ = out_.r8, residual_ = out_.r9, residual_stride_ = out_.r10,
              valid_ = out_.r11, bias_ = out_.rbx, bias_valid_ = out_.r12, blocks_left_ = out_.r13,
              mask_ = out_.r14, bias_mask_ = out_.r15, temp_ = out_.rdx;
  const Xbyak::Opmask k_mask_ = Xbyak::Opmask(1), k_bias_mask_ = Xbyak::Opmask(2);
};

// dst = &base[row][first output column of the unit]
void Epilogue::row_pointer(const Reg64& dst, size_t base, size_t stride) {
  out_.mov(dst, local(kFrameRow));
  out_.imul(dst, out_.ptr[args_ + stride]);
  out_.mov(temp_, local(kFrameNb));
  out_.imul(temp_, temp_, kColumnBlock / blocks_per_output());
  out_.add(dst, temp_);
  out_.shl(dst, 2);
  out_.add(dst, out_.ptr[args_ + base]);
}

void Epilogue::load_pointers() {
  out_.mov(args_, local(kFrameArgs));
  row_pointer(c_, offsetof(GemmArgs, c), offsetof(GemmArgs, c_stride));
  out_.mov(local(kFrameEpilogueC), c_);
  out_.mov(c_stride_, out_.ptr[args_ + offsetof(GemmArgs, c_stride)]);
  out_.shl(c_stride_, 2);
  if (spec_.residual) {
    row_pointer(residual_, offsetof(GemmArgs, residual), offsetof(GemmArgs, residual_stride));
    out_.mov(local(kFrameEpilogueResidual), residual_);
    out_.mov(residual_stride_, out_.ptr[args_ + offsetof(GemmArgs, residual_stride)]);
    out_.shl(residual_stride_, 2);
  }
  out_.mov(temp_, local(kFrameNb));
  out_.imul(valid_, temp_, -kColumnBlock / blocks_per_output());
  out_.add(valid_, out_.ptr[args_ + offsetof(GemmArgs, c_columns)]);
  if (spec_.bias) {
    out_.imul(bias_, temp_, kLineBytes);
    out_.add(bias_, out_.ptr[args_ + offsetof(GemmArgs, bias)]);
  }
  if (bias_has_tail()) {
    out_.imul(bias_valid_, temp_, -kColumnBlock);
    out_.mov(temp_, static_cast<uint64_t>(spec_.n));
    out_.add(bias_valid_, temp_);
  }
  out_.mov(blocks_left_, local(kFrameUnitBlocks));
  out_.mov(tile_, local(kFrameSums));
  out_.mov(local(kFrameEpilogueTile), tile_);
}

// The first min(valid, 16) lanes, as a k register or a pointer to lanes of ones and zeros.
void Epilogue::make_mask(const Reg64& valid, const Reg64& pointer, const Xbyak::Opmask& mask) {
  Label clamped;
  out_.mov(rows_, kColumnBlock);
  out_.cmp(valid, rows_);
  out_.cmovl(rows_, valid);
  if (zmm_) {
    out_.mov(temp_.cvt32(), 1);
    out_.shl(temp_.cvt32(), out_.cl);
    out_.dec(temp_.cvt32());
    out_.kmovw(mask, temp_.cvt32());
    return;
  }
  out_.load_mask_table(pointer);
  out_.add(pointer, kLineBytes);
  out_.shl(rows_, 2);
  out_.sub(pointer, rows_);
}

void Epilogue::make_masks() {
  make_mask(valid_, mask_, k_mask_);
  if (bias_has_tail()) make_mask(bias_valid_, bias_mask_, k_bias_mask_);
}

// Sums of one weight block of the row, plus bias.
XbyakMath::Reg Epilogue::sums(int block, int half) {
  const int64_t half_offset = half * half_bytes();
  const int64_t tile_offset = block * gate_distance_ * mr_ * kLineBytes;
  XbyakMath::Reg x = math_.load(out_.ptr[tile_ + tile_offset + half_offset]);
  if (!spec_.bias) return x;
  const auto bias = out_.ptr[bias_ + block * kLineBytes + half_offset];
  if (!bias_has_tail()) return math_.add(x, math_.load(bias));
  const XbyakMath::Reg b = math_.fresh();
  if (zmm_) {
    out_.vmovups(math_.vector(b) | k_bias_mask_ | out_.T_z, bias);
  } else {
    out_.vmovups(math_.vector(b), out_.ptr[bias_mask_ + half_offset]);
    out_.vmaskmovps(math_.vector(b), math_.vector(b), bias);
  }
  return math_.add(x, b);
}

void Epilogue::store_half(int half) {
  const int64_t offset = half * half_bytes();
  XbyakMath::Reg x = sums(0, half);
  if (spec_.activation != Activation::none) x = vector_activation(math_, spec_.activation, x);
  if (spec_.gate) x = math_.mul(x, sums(1, half));
  if (!zmm_) return masked_ymm(half, x);
  if (spec_.residual) {
    const XbyakMath::Reg r = math_.fresh();
    out_.vmovups(math_.vector(r) | k_mask_ | out_.T_z, out_.ptr[residual_ + offset]);
    x = math_.add(x, r);
  }
  out_.vmovups(out_.ptr[c_ + offset] | k_mask_, math_.vector(x));
}

// vmaskmovps only where it is needed: it is slow on some machines.
void Epilogue::masked_ymm(int half, const XbyakMath::Reg& value) {
  const int64_t offset = half * half_bytes();
  Label partial, done;
  out_.cmp(valid_, kColumnBlock);
  out_.jl(partial, CodeGenerator::T_NEAR);
  {
    XbyakMath::Reg x = value;
    if (spec_.residual) x = math_.add(x, math_.load(out_.ptr[residual_ + offset]));
    out_.vmovups(out_.ptr[c_ + offset], math_.vector(x));
  }
  out_.jmp(done, CodeGenerator::T_NEAR);
  out_.L(partial);
  {
    const XbyakMath::Reg mask = math_.load(out_.ptr[mask_ + offset]);
    XbyakMath::Reg x = value;
    if (spec_.residual) {
      const XbyakMath::Reg r = math_.fresh();
      out_.vmaskmovps(math_.vector(r), math_.vector(mask), out_.ptr[residual_ + offset]);
      x = math_.add(x, r);
    }
    out_.vmaskmovps(out_.ptr[c_ + offset], math_.vector(mask), math_.vector(x));
  }
  out_.L(done);
}

void Epilogue::row_loop() {
  Label top;
  out_.mov(rows_, local(kFrameRows));
  out_.L(top);
  for (int h = 0; h < halves(); ++h) store_half(h);
  out_.add(tile_, kLineBytes);
  out_.add(c_, c_stride_);
  if (spec_.residual) out_.add(residual_, residual_stride_);
  out_.dec(rows_);
  out_.jnz(top, CodeGenerator::T_NEAR);
}

// The tile's next block, or pair of blocks: as many weight blocks on as it has, or, of tiles apart,
// kFrameApart.
void Epilogue::next_block(Label& top) {
  const int blocks = blocks_per_output();
  const auto add = [&](const Reg64& reg, int64_t per_weight_block) {
    if (apart_) {
      out_.imul(temp_, local(kFrameApart), static_cast<int>(per_weight_block));
      out_.add(reg, temp_);
    } else {
      out_.add(reg, static_cast<uint32_t>(blocks * per_weight_block));
    }
  };
  const auto move = [&](const Reg64& reg, int frame) {
    out_.mov(reg, local(frame));
    add(reg, kLineBytes / blocks);
    out_.mov(local(frame), reg);
  };
  out_.mov(tile_, local(kFrameEpilogueTile));
  out_.add(tile_, static_cast<uint32_t>((apart_ ? 1 : blocks) * mr_ * kLineBytes));
  out_.mov(local(kFrameEpilogueTile), tile_);
  move(c_, kFrameEpilogueC);
  if (spec_.residual) move(residual_, kFrameEpilogueResidual);
  if (spec_.bias) add(bias_, kLineBytes);
  if (bias_has_tail()) add(bias_valid_, -kColumnBlock);
  add(valid_, -kColumnBlock / blocks);
  out_.sub(blocks_left_, blocks);
  out_.jnz(top, CodeGenerator::T_NEAR);
}

void Epilogue::emit() {
  Label top, done;
  load_pointers();
  out_.L(top);
  out_.test(valid_, valid_);
  out_.jle(done, CodeGenerator::T_NEAR);
  make_masks();
  row_loop();
  next_block(top);
  out_.L(done);
  out_.ret();
}

}  // namespace

void emit_epilogue(Assembler& out, const GemmSpec& spec, const Tiling& tiling, bool zmm) {
  Epilogue(out, spec, tiling, zmm).emit();
}

}  // namespace nibble::jit
