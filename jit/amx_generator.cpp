// The loop nest around the tiles:
//
//   configure tiles
//   for each chunk of rows whose activations stay in L2
//     for each unit of column blocks (nr of them; a pair for gates; then one by one)
//       [unpack the unit to its panel]
//       for each mr rows (the last have fewer: tiles are configured for them and back)
//         tile: int32 sums of a group, folded to fp32 in scratch    (amx_tile.h)
//         epilogue
//   release tiles
#include "jit/amx_generator.h"

#include <algorithm>
#include <array>
#include <cstddef>

#include "jit/amx_plan.h"
#include "jit/amx_tile.h"
#include "jit/emitter.h"
#include "jit/emitter_epilogue.h"

namespace nibble::jit {
namespace {

using Xbyak::CodeGenerator;
using Xbyak::Label;

constexpr int64_t kLineBytes = 64;
// Activations of a row chunk: half of the L2 of the machines that have AMX. More rows share a
// panel.
constexpr int64_t kChunkBytes = int64_t{1} << 20;

class AmxGenerator {
 public:
  AmxGenerator(const GemmSpec& spec, const Tiling& tiling)
      : spec_(spec),
        tiling_(tiling),
        shape_(packed_shape(spec.weight, spec.n, spec.k)),
        plan_(plan_amx(spec)) {}

  std::vector<uint8_t> generate();

 private:
  struct Unit {
    int blocks = 1;
    int tile_blocks = 1;
  };

  Unit main_unit() const { return {spec_.gate ? std::max(2, tiling_.nr) : tiling_.nr, tiling_.nr}; }
  Unit tail_unit() const { return {spec_.gate ? 2 : 1, 1}; }
  Xbyak::Address local(int offset) { return out_.ptr[out_.rbp + offset]; }
  Xbyak::Address arg(size_t offset) { return out_.ptr[out_.rdi + static_cast<int>(offset)]; }

  void prologue();
  void epilogue();
  void row_chunks();
  void column_units(const Unit& unit);
  void rows_of_unit(const Unit& unit);
  void locate_rows();
  void locate_columns(int first);
  void call_tile(int blocks);

  void unpack_panel();
  void unpack_group(int64_t length);
  void unpack_lines(int64_t k);
  void zero_lines(int64_t k);

  const GemmSpec& spec_;
  const Tiling& tiling_;
  const PackedShape shape_;
  const AmxPlan plan_;
  Assembler out_;
  std::array<std::array<Label, kMaxTileBlocks>, 2>
      tiles_;  // by row tiles and column blocks, less 1
  Label epilogue_, unpack_, configure_;
};

void AmxGenerator::prologue() {
  for (const auto& reg : {out_.rbx, out_.rbp, out_.r12, out_.r13, out_.r14, out_.r15}) {
    out_.push(reg);
  }
  out_.sub(out_.rsp, kAmxFrameBytes);
  out_.mov(out_.rbp, out_.rsp);
  out_.mov(local(kFrameArgs), out_.rdi);
  emit_tile_config(out_, plan_);
}

void AmxGenerator::epilogue() {
  out_.tilerelease();
  out_.vzeroupper();
  out_.add(out_.rsp, kAmxFrameBytes);
  for (const auto& reg : {out_.r15, out_.r14, out_.r13, out_.r12, out_.rbp, out_.rbx}) {
    out_.pop(reg);
  }
  out_.ret();
}

void AmxGenerator::row_chunks() {
  Label top, done;
  const int64_t rows = std::max<int64_t>(1, kChunkBytes / shape_.kpad / tiling_.mr) * tiling_.mr;
  out_.mov(out_.qword[out_.rbp + kFrameNextChunk], 0);
  out_.L(top);
  out_.mov(out_.rdi, local(kFrameArgs));
  out_.mov(out_.rax, local(kFrameNextChunk));
  out_.mov(out_.rcx, arg(offsetof(GemmArgs, m)));
  out_.cmp(out_.rax, out_.rcx);
  out_.jge(done, CodeGenerator::T_NEAR);
  out_.mov(out_.rdx, rows);
  out_.add(out_.rdx, out_.rax);
  out_.cmp(out_.rdx, out_.rcx);
  out_.cmovg(out_.rdx, out_.rcx);
  out_.mov(local(kFrameChunkEnd), out_.rdx);
  out_.mov(out_.rcx, arg(offsetof(GemmArgs, nb_begin)));
  out_.mov(local(kFrameNb), out_.rcx);
  column_units(main_unit());
  if (tail_unit().blocks < main_unit().blocks) column_units(tail_unit());
  out_.mov(out_.rax, local(kFrameChunkEnd));
  out_.mov(local(kFrameNextChunk), out_.rax);
  out_.jmp(top, CodeGenerator::T_NEAR);
  out_.L(done);
}

// All whole units from kFrameNb on. kFrameNextChunk holds the chunk's first row meanwhile.
void AmxGenerator::column_units(const Unit& unit) {
  Label top, done;
  out_.L(top);
  out_.mov(out_.rdi, local(kFrameArgs));
  out_.mov(out_.rax, local(kFrameNb));
  out_.add(out_.rax, unit.blocks);
  out_.cmp(out_.rax, arg(offsetof(GemmArgs, nb_end)));
  out_.jg(done, CodeGenerator::T_NEAR);
  out_.mov(out_.qword[out_.rbp + kFrameUnitBlocks], unit.blocks);
  if (tiling_.panel) out_.call(unpack_);
  rows_of_unit(unit);
  out_.add(out_.qword[out_.rbp + kFrameNb], unit.blocks);
  out_.jmp(top, CodeGenerator::T_NEAR);
  out_.L(done);
}

void AmxGenerator::rows_of_unit(const Unit& unit) {
  Label top, done;
  out_.mov(out_.rax, local(kFrameNextChunk));
  out_.L(top);  // rax: first row of the tile
  out_.mov(out_.rcx, local(kFrameChunkEnd));
  out_.sub(out_.rcx, out_.rax);
  out_.jle(done, CodeGenerator::T_NEAR);
  out_.mov(out_.edx, tiling_.mr);
  out_.cmp(out_.rcx, out_.rdx);
  out_.cmovg(out_.rcx, out_.rdx);
  out_.mov(local(kFrameRow), out_.rax);
  out_.mov(local(kFrameRows), out_.rcx);
  out_.call(configure_);
  locate_rows();
  for (int first = 0; first < unit.blocks; first += unit.tile_blocks) {
    locate_columns(first);
    call_tile(unit.tile_blocks);
  }
  out_.call(epilogue_);
  out_.mov(out_.rax, local(kFrameRow));
  out_.add(out_.rax, local(kFrameRows));
  out_.jmp(top, CodeGenerator::T_NEAR);
  out_.L(done);
}

// Activations, their scales and sums at the tile's first row.
void AmxGenerator::locate_rows() {
  const auto place = [&](int frame, size_t base) {
    out_.mov(out_.rcx, arg(base));
    out_.add(out_.rcx, out_.rax);
    out_.mov(local(frame), out_.rcx);
  };
  out_.mov(out_.rdi, local(kFrameArgs));
  out_.mov(out_.rax, local(kFrameRow));
  out_.imul(out_.rax, arg(offsetof(GemmArgs, a_stride)));
  place(kFrameTileA, offsetof(GemmArgs, a));
  out_.imul(out_.rax, local(kFrameRow), static_cast<int>(shape_.groups * 4));
  place(kFrameTileAScale, offsetof(GemmArgs, a_scale));
  place(kFrameTileASum, offsetof(GemmArgs, a_sum));
}

// Weights, scales, zero points and scratch of the tile that starts `first` blocks into the unit.
void AmxGenerator::locate_columns(int first) {
  const auto place = [&](int frame, size_t base, int64_t block_bytes) {
    out_.imul(out_.rcx, out_.rax, static_cast<int>(block_bytes));
    out_.add(out_.rcx, arg(base));
    out_.mov(local(frame), out_.rcx);
  };
  const auto in_scratch = [&](int frame, int64_t offset) {
    out_.mov(out_.rcx, arg(offsetof(GemmArgs, scratch)));
    out_.add(out_.rcx, static_cast<int>(offset));
    out_.mov(local(frame), out_.rcx);
  };
  out_.mov(out_.rdi, local(kFrameArgs));
  out_.mov(out_.rax, local(kFrameNb));
  out_.add(out_.rax, first);
  if (tiling_.panel) {
    in_scratch(kFrameTileW, amx_panel_offset(spec_, tiling_) + first * plan_.block_bytes);
  } else {
    place(kFrameTileW, offsetof(GemmArgs, w), shape_.block_bytes);
  }
  const int64_t scale_bytes = spec_.weight.scale == ScaleType::f16 ? 2 : 4;
  place(kFrameTileWScale, offsetof(GemmArgs, w_scale), shape_.groups * kColumnBlock * scale_bytes);
  if (spec_.weight.asym) {
    place(kFrameTileWZero, offsetof(GemmArgs, w_zero), shape_.groups * kColumnBlock);
  }
  in_scratch(kFrameTileOut, int64_t{first} * tiling_.mr * kLineBytes);
}

void AmxGenerator::call_tile(int blocks) {
  if (tiling_.mr == kTileRows) {
    out_.call(tiles_[0][blocks - 1]);
    return;
  }
  Label one, done;
  out_.cmp(out_.qword[out_.rbp + kFrameRows], kTileRows);
  out_.jle(one, CodeGenerator::T_NEAR);
  out_.call(tiles_[1][blocks - 1]);
  out_.jmp(done, CodeGenerator::T_NEAR);
  out_.L(one);
  out_.call(tiles_[0][blocks - 1]);
  out_.L(done);
}

// --- the panel: rsi reads packed lines, rdx writes lines of 16 columns x 4 k ---

void AmxGenerator::unpack_lines(int64_t k) {
  if (k == 0) return;
  const bool nibbles = spec_.weight.type == WeightType::u4;
  const Xbyak::Reg64 source = out_.rsi, target = out_.rdx, lines = out_.rcx;
  const Xbyak::Zmm mask = out_.zmm0, low = out_.zmm1, high = out_.zmm2;
  Label top;
  out_.mov(lines, k / (nibbles ? 8 : 4));
  out_.L(top);
  if (tiling_.prefetch > 0) out_.prefetcht0(out_.ptr[source + tiling_.prefetch]);
  out_.vmovups(low, out_.ptr[source]);
  if (nibbles) {
    out_.vpsrld(high, low, 4);
    out_.vpandd(low, low, mask);
    out_.vpandd(high, high, mask);
    out_.vmovups(out_.ptr[target + kLineBytes], high);
  }
  out_.vmovups(out_.ptr[target], low);
  out_.add(source, kLineBytes);
  out_.add(target, nibbles ? 2 * kLineBytes : kLineBytes);
  out_.dec(lines);
  out_.jnz(top, CodeGenerator::T_NEAR);
}

void AmxGenerator::zero_lines(int64_t k) {
  if (k == 0) return;
  const Xbyak::Zmm zero = out_.zmm3;
  out_.vpxord(zero, zero, zero);
  for (int64_t line = 0; line < k / 4; ++line) {
    out_.vmovups(out_.ptr[out_.rdx + line * kLineBytes], zero);
  }
  out_.add(out_.rdx, static_cast<int>(k / 4 * kLineBytes));
}

void AmxGenerator::unpack_group(int64_t length) {
  const int64_t whole = plan_.shift(length) == 0 ? length : (plan_.steps(length) - 1) * plan_.step;
  unpack_lines(whole);
  zero_lines(plan_.shift(length));
  unpack_lines(length - whole);
}

void AmxGenerator::unpack_panel() {
  const Xbyak::Reg64 blocks = out_.r8, groups = out_.r9;
  out_.mov(out_.rdi, local(kFrameArgs));
  out_.imul(out_.rsi, local(kFrameNb), static_cast<int>(shape_.block_bytes));
  out_.add(out_.rsi, arg(offsetof(GemmArgs, w)));
  out_.mov(out_.rdx, arg(offsetof(GemmArgs, scratch)));
  out_.add(out_.rdx, static_cast<int>(amx_panel_offset(spec_, tiling_)));
  out_.mov(blocks, local(kFrameUnitBlocks));
  out_.vmovups(out_.zmm0, out_.constant(0x0f0f0f0fU));
  Label block, group;
  out_.L(block);
  if (!plan_.has_shifts()) {
    unpack_lines(shape_.kpad);
  } else {
    if (plan_.groups > 1) {
      out_.mov(groups, plan_.groups - 1);
      out_.L(group);
      unpack_group(plan_.group);
      out_.dec(groups);
      out_.jnz(group, CodeGenerator::T_NEAR);
    }
    unpack_group(plan_.last_group);
  }
  out_.dec(blocks);
  out_.jnz(block, CodeGenerator::T_NEAR);
  out_.ret();
}

std::vector<uint8_t> AmxGenerator::generate() {
  prologue();
  row_chunks();
  epilogue();
  if (tiling_.panel) {
    out_.align(16);
    out_.L(unpack_);
    unpack_panel();
  }
  out_.align(16);
  out_.L(configure_);
  emit_configure_rows(out_, plan_);
  out_.align(16);
  out_.L(epilogue_);
  emit_epilogue(out_, spec_, tiling_, true);
  for (int rows = 1; rows <= tiling_.mr / kTileRows; ++rows) {
    for (int blocks = 1; blocks <= tiling_.nr; ++blocks) {
      out_.align(64);
      out_.L(tiles_[rows - 1][blocks - 1]);
      emit_amx_tile(out_, spec_, tiling_, rows, blocks);
    }
  }
  return out_.finish();
}

}  // namespace

std::vector<uint8_t> generate_amx_gemm(const GemmSpec& spec, const Tiling& tiling) {
  return AmxGenerator(spec, tiling).generate();
}

}  // namespace nibble::jit
