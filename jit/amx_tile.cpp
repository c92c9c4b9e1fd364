#include "jit/amx_tile.h"

#include <cstddef>

namespace nibble::jit {
namespace {

using Xbyak::CodeGenerator;
using Xbyak::Label;
using Xbyak::Reg64;
using Xbyak::Tmm;
using Xbyak::Zmm;

constexpr int kConfigColsb = kFrameTileConfig + 16, kConfigRows = kFrameTileConfig + 48;

int sums_tile(int i, int j) { return i * kMaxTileBlocks + j; }
int a_tile(int i) { return 4 + i; }
int b_tile(int j) { return 6 + j; }

// One tile routine. The sums of a group leave the tiles through memory, and are folded while
// the products of the next group are under way:
//
//     dots(0) leave(0)   dots(1) fold(0) leave(1)   dots(2) fold(1) leave(2)   ...   fold(last)
class TileWriter {
 public:
  TileWriter(Assembler& out, const GemmSpec& spec, const Tiling& tiling, int row_tiles, int blocks)
      : out_(out),
        spec_(spec),
        tiling_(tiling),
        plan_(plan_amx(spec)),
        shape_(packed_shape(spec.weight, spec.n, spec.k)),
        bf16_(spec.act == ActType::bf16),
        row_tiles_(row_tiles),
        blocks_(blocks),
        block_stride_(tiling.panel ? plan_.block_bytes : shape_.block_bytes) {}

  void emit();

 private:
  Xbyak::Address local(int offset) { return out_.ptr[out_.rbp + offset]; }
  int sums_offset(int j) const { return j * tiling_.mr * kLineBytes; }
  bool super_blocks() const { return spec_.weight.scale == ScaleType::q8; }
  Zmm minimum_pair(int64_t pair, int j) const {
    return Zmm(8 + static_cast<int>(pair) * blocks_ + j);
  }
  // The sums of a super-block lie behind those of a group.
  Xbyak::Address super_sums(int j) const {
    return out_.ptr[group_ + row_ + static_cast<int>(sums_offset(j) + amx_group_bytes(tiling_))];
  }

  void load_pointers();
  void clear_sums();
  void dots(int64_t length);
  void step(int64_t k, int64_t steps);
  void advance(int64_t k, int64_t steps);
  void leave();
  void load_column(int j);
  void fold();
  void load_row();
  void fold_block(int j);
  void advance_fold();
  void fold_super();
  void load_super_column(int j);
  void fold_super_block(int j);

  Assembler& out_;
  const GemmSpec& spec_;
  const Tiling& tiling_;
  const AmxPlan plan_;
  const PackedShape shape_;
  const bool bf16_;
  const int row_tiles_, blocks_;
  const int64_t block_stride_;
  // Registers are named for what they hold.
  const Reg64 a_ = out_.r8, a_low_ = out_.r10, a_stride_ = out_.r9, b_ = out_.rsi, line_ = out_.r11,
              w_scale_ = out_.rdi, w_zero_ = out_.rdx, a_scale_ = out_.rbx, a_sum_ = out_.r14,
              sums_ = out_.r12, group_ = out_.r13, left_ = out_.rcx, row_ = out_.rax,
              row_scale_ = out_.r15;
  const Zmm a_sums_ = out_.zmm31;
};

void TileWriter::load_pointers() {
  out_.mov(row_, local(kFrameArgs));
  out_.mov(a_stride_, out_.ptr[row_ + offsetof(GemmArgs, a_stride)]);
  if (bf16_) out_.shl(a_stride_, 1);
  out_.mov(group_, out_.ptr[row_ + offsetof(GemmArgs, scratch)]);
  out_.add(group_, static_cast<int>(amx_group_offset(spec_, tiling_)));
  out_.mov(a_, local(kFrameTileA));
  if (row_tiles_ == 2) {
    out_.mov(a_low_, a_stride_);
    out_.shl(a_low_, 4);
    out_.add(a_low_, a_);
  }
  out_.mov(line_.cvt32(), kLineBytes);
  out_.mov(b_, local(kFrameTileW));
  out_.mov(w_scale_, local(kFrameTileWScale));
  out_.mov(sums_, local(kFrameTileOut));
  if (bf16_) return;
  if (spec_.weight.asym) out_.mov(w_zero_, local(kFrameTileWZero));
  out_.mov(a_scale_, local(kFrameTileAScale));
  out_.mov(a_sum_, local(kFrameTileASum));
  if (super_blocks()) {
    out_.mov(out_.qword[out_.rbp + kFrameSuperGroupsLeft],
             static_cast<uint32_t>(shape_.super_groups));
  }
}

void TileWriter::clear_sums() {
  Label top;
  const Zmm zero = out_.zmm0;
  out_.vpxord(zero, zero, zero);
  out_.mov(left_, local(kFrameRows));
  out_.xor_(row_.cvt32(), row_.cvt32());
  out_.L(top);
  for (int j = 0; j < blocks_; ++j) {
    out_.vmovups(out_.ptr[sums_ + row_ + sums_offset(j)], zero);
    if (super_blocks()) out_.vmovups(super_sums(j), zero);
  }
  out_.add(row_, kLineBytes);
  out_.dec(left_);
  out_.jnz(top, CodeGenerator::T_NEAR);
}

// A load for every product: two of activations and two of weights for four products. Offsets in k
// and in steps.
void TileWriter::step(int64_t k, int64_t steps) {
  const int64_t a_offset = k * plan_.act_bytes(), b_offset = steps * plan_.step_bytes();
  const auto load_b = [&](int j) {
    const auto offset = static_cast<int>(b_offset + j * block_stride_);
    out_.tileloadd(Tmm(b_tile(j)), out_.ptr[b_ + line_ + offset]);
  };
  for (int j = 0; j < blocks_; ++j) load_b(j);
  for (int i = 0; i < row_tiles_; ++i) {
    const Reg64& a = i == 0 ? a_ : a_low_;
    out_.tileloadd(Tmm(a_tile(i)), out_.ptr[a + a_stride_ + static_cast<int>(a_offset)]);
    for (int j = 0; j < blocks_; ++j) {
      const Tmm sums(sums_tile(i, j)), a_tmm(a_tile(i)), b_tmm(b_tile(j));
      if (bf16_) {
        out_.tdpbf16ps(sums, a_tmm, b_tmm);
      } else {
        out_.tdpbsud(sums, a_tmm, b_tmm);
      }
    }
  }
}

void TileWriter::advance(int64_t k, int64_t steps) {
  const auto a_bytes = static_cast<int>(k * plan_.act_bytes());
  out_.add(a_, a_bytes);
  if (row_tiles_ == 2) out_.add(a_low_, a_bytes);
  out_.add(b_, static_cast<int>(steps * plan_.step_bytes()));
}

// The sums of one group, from zero; the pointers move to the next.
void TileWriter::dots(int64_t length) {
  for (int i = 0; i < row_tiles_; ++i) {
    for (int j = 0; j < blocks_; ++j) out_.tilezero(Tmm(sums_tile(i, j)));
  }
  const int64_t shift = plan_.shift(length);
  const int64_t whole = plan_.steps(length) - (shift != 0 ? 1 : 0);
  const int unroll = amx_unroll(spec_, tiling_);
  const int64_t loops = whole / unroll;
  const int64_t rest = whole % unroll;
  if (loops > 0) {
    Label top;
    if (loops > 1) out_.mov(left_, loops);
    out_.L(top);
    for (int s = 0; s < unroll; ++s) step(s * plan_.step, s);
    advance(unroll * plan_.step, unroll);
    if (loops > 1) {
      out_.dec(left_);
      out_.jnz(top, CodeGenerator::T_NEAR);
    }
  }
  for (int s = 0; s < rest; ++s) step(s * plan_.step, s);
  if (shift != 0) step(rest * plan_.step - shift, rest);
  const int64_t steps = rest + (shift != 0 ? 1 : 0);
  if (steps > 0) advance(steps * plan_.step - shift, steps);
}

void TileWriter::leave() {
  for (int i = 0; i < row_tiles_; ++i) {
    for (int j = 0; j < blocks_; ++j) {
      const int offset = sums_offset(j) + i * kTileRows * kLineBytes;
      out_.tilestored(out_.ptr[group_ + line_ + offset], Tmm(sums_tile(i, j)));
    }
  }
}

// Scales (of q8: their bytes) in zmm4, 5, zero points or minimums in zmm6, 7. (Zero points of bf16
// are in the panel's weights.)
void TileWriter::load_column(int j) {
  const auto stored = [&](const Zmm& dst, const Reg64& base, int64_t block_bytes) {
    load_scales(out_, spec_.weight.scale, dst, base + static_cast<int>(j * block_bytes));
  };
  stored(Zmm(4 + j), w_scale_, shape_.scale_block_bytes);
  if (!spec_.weight.asym || bf16_ || super_blocks()) return;
  if (spec_.weight.minimum) return stored(Zmm(6 + j), w_zero_, shape_.zero_block_bytes);
  const auto block = static_cast<int>(j * shape_.zero_block_bytes);
  out_.vpmovzxbd(Zmm(6 + j), out_.ptr[w_zero_ + block]);
  out_.vcvtdq2ps(Zmm(6 + j), Zmm(6 + j));
}

// What one row's activations bring to the fold of s8.
void TileWriter::load_row() {
  if (super_blocks() && spec_.weight.minimum) return;
  if (spec_.weight.asym) {
    out_.vcvtdq2ps(a_sums_, out_.ptr_b[a_sum_ + row_scale_]);
    if (spec_.weight.minimum) out_.vmulps(a_sums_, a_sums_, out_.ptr_b[a_scale_ + row_scale_]);
  } else {
    out_.vpbroadcastd(a_sums_, out_.ptr[a_sum_ + row_scale_]);
  }
}

// One row of one block, the arithmetic of Emitter::fold: a_sum joins the exact int32 sum
// (symmetric), or one FMA (asymmetric), or that of the minimum comes last.
void TileWriter::fold_block(int j) {
  const Zmm sum(j), scale(2 + j);
  const auto group = out_.ptr[group_ + row_ + sums_offset(j)];
  const auto sums = out_.ptr[sums_ + row_ + sums_offset(j)];
  if (bf16_) {
    out_.vmovups(sum, group);
    out_.vfmadd213ps(sum, Zmm(4 + j), sums);
    out_.vmovups(sums, sum);
    return;
  }
  if (spec_.weight.asym) {
    out_.vcvtdq2ps(sum, group);
    if (!spec_.weight.minimum) out_.vfmadd231ps(sum, Zmm(6 + j), a_sums_);
  } else {
    out_.vpaddd(sum, a_sums_, group);
    out_.vcvtdq2ps(sum, sum);
  }
  if (super_blocks()) {
    out_.vfmadd213ps(sum, Zmm(4 + j), super_sums(j));
    out_.vmovups(super_sums(j), sum);
    return;
  }
  out_.vmulps(scale, Zmm(4 + j), out_.ptr_b[a_scale_ + row_scale_]);
  out_.vfmadd213ps(sum, scale, sums);
  if (spec_.weight.minimum) out_.vfnmadd231ps(sum, Zmm(6 + j), a_sums_);
  out_.vmovups(sums, sum);
}

void TileWriter::fold() {
  Label top;
  for (int j = 0; j < blocks_; ++j) load_column(j);
  out_.mov(left_, local(kFrameRows));
  out_.xor_(row_.cvt32(), row_.cvt32());
  if (!bf16_) out_.xor_(row_scale_.cvt32(), row_scale_.cvt32());
  out_.L(top);
  if (!bf16_) load_row();
  for (int j = 0; j < blocks_; ++j) fold_block(j);
  out_.add(row_, kLineBytes);
  if (!bf16_) out_.add(row_scale_, static_cast<int>(plan_.groups * 4));
  out_.dec(left_);
  out_.jnz(top, CodeGenerator::T_NEAR);
  advance_fold();
  if (!super_blocks()) return;
  Label inside;
  out_.dec(out_.qword[out_.rbp + kFrameSuperGroupsLeft]);
  out_.jnz(inside, CodeGenerator::T_NEAR);
  fold_super();
  out_.L(inside);
}

// To the next group's scales.
void TileWriter::advance_fold() {
  out_.add(w_scale_, static_cast<int>(kColumnBlock * scale_bytes(spec_.weight.scale)));
  if (bf16_) return;
  if (super_blocks()) {
    if (!spec_.weight.minimum) out_.add(a_sum_, 4);
    return;
  }
  if (spec_.weight.asym) {
    out_.add(w_zero_, static_cast<int>(kColumnBlock * zero_bytes(spec_.weight)));
  }
  out_.add(a_scale_, 4);
  out_.add(a_sum_, 4);
}

// The numbers over the bytes of scales in zmm4, 5, over those of minimums in zmm6, 7, the latter
// bytes in pairs of words from zmm8 on.
void TileWriter::load_super_column(int j) {
  out_.vcvtph2ps(Zmm(4 + j), out_.ptr[w_scale_ + static_cast<int>(j * shape_.scale_block_bytes)]);
  if (!spec_.weight.minimum) return;
  const auto block = static_cast<int>(j * shape_.zero_block_bytes);
  const auto bytes = static_cast<int>(shape_.super_groups * kColumnBlock);
  out_.vcvtph2ps(Zmm(6 + j), out_.ptr[w_zero_ + block + bytes]);
  for (int64_t pair = 0; pair < shape_.super_groups / 2; ++pair) {
    const auto offset = block + static_cast<int>(pair * 2 * kColumnBlock);
    out_.vpmovsxbw(minimum_pair(pair, j), out_.ptr[w_zero_ + offset]);
  }
}

// One row of one block, the arithmetic of Emitter::fold_super; the super-block's sums are zero
// again.
void TileWriter::fold_super_block(int j) {
  const Zmm sum(j), scale(2 + j), offset = out_.zmm30, zero = out_.zmm29;
  const auto sums = out_.ptr[sums_ + row_ + sums_offset(j)];
  out_.vmovups(sum, super_sums(j));
  out_.vmovups(super_sums(j), zero);
  out_.vmulps(scale, Zmm(4 + j), out_.ptr_b[a_scale_ + row_scale_]);
  out_.vfmadd213ps(sum, scale, sums);
  if (spec_.weight.minimum) {
    out_.vpxord(offset, offset, offset);
    for (int64_t pair = 0; pair < shape_.super_groups / 2; ++pair) {
      out_.vpdpwssd(offset, minimum_pair(pair, j), out_.ptr_b[a_sum_ + static_cast<int>(4 * pair)]);
    }
    out_.vcvtdq2ps(offset, offset);
    out_.vmulps(scale, Zmm(6 + j), out_.ptr_b[a_scale_ + row_scale_]);
    out_.vfnmadd231ps(sum, offset, scale);
  }
  out_.vmovups(sums, sum);
}

// Once all groups of a super-block are folded.
void TileWriter::fold_super() {
  const Zmm zero = out_.zmm29;
  Label top;
  for (int j = 0; j < blocks_; ++j) load_super_column(j);
  out_.vpxord(zero, zero, zero);
  out_.mov(left_, local(kFrameRows));
  out_.xor_(row_.cvt32(), row_.cvt32());
  out_.xor_(row_scale_.cvt32(), row_scale_.cvt32());
  if (spec_.weight.minimum) out_.push(a_sum_);  // it moves on with the rows here
  out_.L(top);
  for (int j = 0; j < blocks_; ++j) fold_super_block(j);
  out_.add(row_, kLineBytes);
  out_.add(row_scale_, static_cast<int>(shape_.act_groups * 4));
  if (spec_.weight.minimum) out_.add(a_sum_, static_cast<int>(shape_.act_sum_bytes));
  out_.dec(left_);
  out_.jnz(top, CodeGenerator::T_NEAR);
  if (spec_.weight.minimum) out_.pop(a_sum_);

  constexpr int kNumbers = 2 * static_cast<int>(kColumnBlock);  // bytes of the fp16 numbers
  out_.add(w_scale_, kNumbers);
  out_.add(a_scale_, 4);
  if (spec_.weight.minimum) {
    out_.add(w_zero_, static_cast<int>(shape_.super_groups * kColumnBlock) + kNumbers);
    out_.add(a_sum_, static_cast<int>(shape_.super_groups * 2));
  }
  out_.mov(out_.qword[out_.rbp + kFrameSuperGroupsLeft],
           static_cast<uint32_t>(shape_.super_groups));
}

void TileWriter::emit() {
  load_pointers();
  clear_sums();
  if (plan_.groups > 1) {
    dots(plan_.group);
    leave();
    if (plan_.groups > 2) {
      Label top;
      out_.mov(out_.qword[out_.rbp + kFrameGroupsLeft], static_cast<uint32_t>(plan_.groups - 2));
      out_.L(top);
      dots(plan_.group);
      fold();
      leave();
      out_.dec(out_.qword[out_.rbp + kFrameGroupsLeft]);
      out_.jnz(top, CodeGenerator::T_NEAR);
    }
  }
  dots(plan_.last_group);
  if (plan_.groups > 1) fold();
  leave();
  fold();
  out_.ret();
}

}  // namespace

void emit_tile_config(Assembler& out, const AmxPlan& plan) {
  out.vpxord(out.zmm0, out.zmm0, out.zmm0);
  out.vmovups(out.ptr[out.rbp + kFrameTileConfig], out.zmm0);
  out.mov(out.byte[out.rbp + kFrameTileConfig], 1);  // palette
  const auto colsb = [&](int tile, int64_t bytes) {
    out.mov(out.word[out.rbp + kConfigColsb + 2 * tile], static_cast<uint32_t>(bytes));
  };
  colsb(a_tile(0), plan.row_bytes());
  for (int j = 0; j < kMaxTileBlocks; ++j) {
    colsb(sums_tile(0, j), kTileRowBytes);
    colsb(b_tile(j), kTileRowBytes);
    out.mov(out.byte[out.rbp + kConfigRows + b_tile(j)],
            static_cast<uint32_t>(plan.step / plan.row_k()));
  }
  out.mov(out.qword[out.rbp + kFrameTileConfigRows], 0);
}

void emit_configure_rows(Assembler& out, const AmxPlan& plan) {
  const Reg64 rows = out.rcx, low = out.rax, bytes = out.rdx;
  Label changed;
  out.mov(rows, out.ptr[out.rbp + kFrameRows]);
  out.cmp(rows, out.ptr[out.rbp + kFrameTileConfigRows]);
  out.jne(changed, CodeGenerator::T_NEAR);
  out.ret();
  out.L(changed);
  out.mov(out.ptr[out.rbp + kFrameTileConfigRows], rows);
  out.xor_(low.cvt32(), low.cvt32());  // rows of the lower tiles: all but 16, or none
  out.sub(rows, kTileRows);
  out.cmovge(low, rows);
  out.mov(rows, out.ptr[out.rbp + kFrameRows]);
  out.sub(rows, low);
  const auto set_rows = [&](int tile, const Reg64& count) {
    out.mov(out.byte[out.rbp + kConfigRows + tile], count.cvt8());
  };
  // A tile without rows has no columns either.
  const auto low_colsb = [&](int tile) {
    out.mov(out.word[out.rbp + kConfigColsb + 2 * tile], bytes.cvt16());
  };
  set_rows(a_tile(0), rows);
  set_rows(a_tile(1), low);
  for (int j = 0; j < kMaxTileBlocks; ++j) {
    set_rows(sums_tile(0, j), rows);
    set_rows(sums_tile(1, j), low);
  }
  out.test(low, low);
  out.mov(bytes.cvt32(), kTileRowBytes);
  out.cmovz(bytes, low);
  for (int j = 0; j < kMaxTileBlocks; ++j) low_colsb(sums_tile(1, j));
  out.mov(bytes.cvt32(), static_cast<uint32_t>(plan.row_bytes()));
  out.cmovz(bytes, low);
  low_colsb(a_tile(1));
  out.ldtilecfg(out.ptr[out.rbp + kFrameTileConfig]);
  out.ret();
}

void emit_amx_tile(Assembler& out, const GemmSpec& spec, const Tiling& tiling, int row_tiles,
                   int blocks) {
  TileWriter(out, spec, tiling, row_tiles, blocks).emit();
}

}  // namespace nibble::jit
