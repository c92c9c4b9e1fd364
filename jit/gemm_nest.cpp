#include "jit/gemm_nest.h"

#include <cstddef>

#include "jit/emitter_epilogue.h"

namespace nibble::jit {
namespace {

using Xbyak::CodeGenerator;
using Xbyak::Label;

}  // namespace

void GemmNest::prologue() {
  for (const auto& reg : {out_.rbx, out_.rbp, out_.r12, out_.r13, out_.r14, out_.r15}) {
    out_.push(reg);
  }
  out_.sub(out_.rsp, nest_.frame_bytes);
  out_.mov(out_.rbp, out_.rsp);
  out_.mov(local(kFrameArgs), out_.rdi);
  enter();
}

void GemmNest::epilogue() {
  leave();
  out_.vzeroupper();
  out_.add(out_.rsp, nest_.frame_bytes);
  for (const auto& reg : {out_.r15, out_.r14, out_.r13, out_.r12, out_.rbp, out_.rbx}) {
    out_.pop(reg);
  }
  out_.ret();
}

void GemmNest::row_chunks() {
  Label top, done;
  if (tiling_.apart) cut_apart();
  out_.mov(out_.qword[out_.rbp + kFrameNextChunk], 0);
  out_.L(top);
  out_.mov(out_.rdi, local(kFrameArgs));
  out_.mov(out_.rax, local(kFrameNextChunk));
  out_.mov(out_.rcx, arg(offsetof(GemmArgs, m)));
  out_.cmp(out_.rax, out_.rcx);
  out_.jge(done, CodeGenerator::T_NEAR);
  out_.lea(out_.rdx, out_.ptr[out_.rax + static_cast<int>(nest_.chunk_rows)]);
  out_.cmp(out_.rdx, out_.rcx);
  out_.cmovg(out_.rdx, out_.rcx);
  out_.mov(local(kFrameChunkEnd), out_.rdx);
  if (nest_.slices.count > 1) share_fetches();
  out_.mov(out_.rcx, arg(offsetof(GemmArgs, nb_begin)));
  out_.mov(local(kFrameNb), out_.rcx);
  const bool has_tail = tail_unit().blocks < main_unit().blocks;
  if (tiling_.apart) {
    column_units(main_unit(), local(kFrameApartEnd));
    skip_parts();
  } else {
    column_units(main_unit(), nb_end());
  }
  if (has_tail) column_units(tail_unit(), nb_end());
  out_.mov(out_.rax, local(kFrameChunkEnd));
  out_.mov(local(kFrameNextChunk), out_.rax);
  out_.jmp(top, CodeGenerator::T_NEAR);
  out_.L(done);
}

// How far a tile's blocks lie apart, and where the first of their parts ends.
void GemmNest::cut_apart() {
  out_.mov(out_.rdi, local(kFrameArgs));
  out_.mov(out_.rax, nb_end());
  out_.sub(out_.rax, arg(offsetof(GemmArgs, nb_begin)));
  out_.xor_(out_.edx, out_.edx);
  out_.mov(out_.ecx, tiling_.nr * output_blocks());
  out_.div(out_.rcx);
  if (spec_.gate) out_.add(out_.rax, out_.rax);
  out_.mov(local(kFrameApart), out_.rax);
  out_.mov(out_.rcx, arg(offsetof(GemmArgs, nb_begin)));
  out_.add(out_.rcx, out_.rax);
  out_.mov(local(kFrameApartEnd), out_.rcx);
  const auto place = [&](int frame, int64_t block_bytes) {
    out_.imul(out_.rcx, out_.rax, static_cast<int>(block_bytes));
    out_.mov(local(frame), out_.rcx);
  };
  place(kFrameApartW, shape_.block_bytes);
  place(kFrameApartWScale, shape_.scale_block_bytes);
  place(kFrameApartWZero, shape_.zero_block_bytes);
}

// From the end of the first part to that of the last one.
void GemmNest::skip_parts() {
  out_.imul(out_.rax, local(kFrameApart), tiling_.nr - 1);
  out_.add(local(kFrameNb), out_.rax);
}

// All whole units from kFrameNb on. kFrameNextChunk holds the chunk's first row meanwhile.
void GemmNest::column_units(const Unit& unit, const Xbyak::Address& end) {
  Label top, done;
  out_.L(top);
  out_.mov(out_.rdi, local(kFrameArgs));
  out_.mov(out_.rax, local(kFrameNb));
  out_.add(out_.rax, unit.step);
  out_.cmp(out_.rax, end);
  out_.jg(done, CodeGenerator::T_NEAR);
  out_.mov(out_.rcx, unit.blocks);
  out_.mov(local(kFrameUnitBlocks), out_.rcx);
  begin_unit();
  slices_of_unit(unit);
  out_.mov(out_.rax, unit.step);
  out_.add(local(kFrameNb), out_.rax);
  out_.jmp(top, CodeGenerator::T_NEAR);
  out_.L(done);
}

void GemmNest::slices_of_unit(const Unit& unit) {
  if (nest_.slices.count == 1) return rows_of_unit(unit);
  const int64_t folds = shape_.kpad / shape_.act_group;  // whole ones
  Label top;
  out_.mov(out_.qword[out_.rbp + kFrameSlice], 0);
  out_.L(top);
  out_.imul(out_.rcx, local(kFrameSlice), static_cast<int>(nest_.slices.folds));
  out_.mov(out_.rax, folds);
  out_.sub(out_.rax, out_.rcx);
  out_.mov(out_.rcx, nest_.slices.folds);
  out_.cmp(out_.rax, out_.rcx);
  out_.cmovg(out_.rax, out_.rcx);
  out_.mov(local(kFrameFolds), out_.rax);
  begin_next_slice(unit);
  rows_of_unit(unit);
  out_.inc(out_.qword[out_.rbp + kFrameSlice]);
  out_.cmp(out_.qword[out_.rbp + kFrameSlice], static_cast<int>(nest_.slices.count));
  out_.jne(top, CodeGenerator::T_NEAR);
}

// Where the weights begin that are unpacked next: this unit's, or the next one's.
void GemmNest::begin_next_slice(const Unit& unit) {
  const int64_t bytes = nest_.slices.k / 8 * kLineBytes;
  Label same_unit, done;
  out_.mov(out_.rdi, local(kFrameArgs));
  out_.imul(out_.rax, local(kFrameNb), static_cast<int>(shape_.block_bytes));
  out_.add(out_.rax, arg(offsetof(GemmArgs, w)));
  out_.mov(out_.rcx, local(kFrameSlice));
  out_.inc(out_.rcx);
  out_.cmp(out_.rcx, static_cast<int>(nest_.slices.count));
  out_.jl(same_unit);
  out_.add(out_.rax, static_cast<int>(unit.step * shape_.block_bytes));
  out_.jmp(done);
  out_.L(same_unit);
  out_.imul(out_.rcx, out_.rcx, static_cast<int>(bytes));
  out_.add(out_.rax, out_.rcx);
  out_.L(done);
  out_.mov(local(kFrameNextSlice), out_.rax);
  out_.mov(out_.qword[out_.rbp + kFrameNextLines], static_cast<int>(bytes / kLineBytes));
}

// As many lines of each column block a tile as bring the next slice in time. Few at a time: they
// hold up what the tile itself waits for.
void GemmNest::share_fetches() {
  const int lines = static_cast<int>(nest_.slices.k / 8);
  // lines / (rows / mr), rounded up.
  out_.mov(out_.rax, local(kFrameChunkEnd));
  out_.sub(out_.rax, local(kFrameNextChunk));
  out_.mov(out_.rcx, out_.rax);
  out_.add(out_.rax, lines * tiling_.mr - 1);
  out_.xor_(out_.edx, out_.edx);
  out_.div(out_.rcx);
  out_.mov(local(kFrameTileLines), out_.rax);
}

// A tile's share of it into the L2.
void GemmNest::fetch_next_slice(const Unit& unit) {
  Label top, done;
  out_.mov(out_.rcx, local(kFrameNextLines));
  out_.mov(out_.rdx, local(kFrameTileLines));
  out_.cmp(out_.rdx, out_.rcx);
  out_.cmovg(out_.rdx, out_.rcx);
  out_.sub(out_.rcx, out_.rdx);
  out_.mov(local(kFrameNextLines), out_.rcx);
  out_.mov(out_.rax, local(kFrameNextSlice));
  out_.test(out_.rdx, out_.rdx);
  out_.jz(done);
  out_.L(top);
  for (int block = 0; block < unit.blocks; ++block) {
    out_.prefetcht1(out_.ptr[out_.rax + static_cast<int>(block * shape_.block_bytes)]);
  }
  out_.add(out_.rax, kLineBytes);
  out_.dec(out_.rdx);
  out_.jnz(top);
  out_.mov(local(kFrameNextSlice), out_.rax);
  out_.L(done);
}

// Where the tile's results will go, and what is added to them: often in memory, of which the
// epilogue would wait for every line. Those of the last slice are in time.
void GemmNest::fetch_results(const Unit& unit) {
  Label done;
  if (nest_.slices.count > 1) {
    out_.cmp(out_.qword[out_.rbp + kFrameSlice], static_cast<int>(nest_.slices.count - 1));
    out_.jne(done, CodeGenerator::T_NEAR);
  }
  out_.mov(out_.rdi, local(kFrameArgs));
  fetch_rows(unit, offsetof(GemmArgs, c), offsetof(GemmArgs, c_stride), true);
  if (spec_.residual) {
    fetch_rows(unit, offsetof(GemmArgs, residual), offsetof(GemmArgs, residual_stride), false);
  }
  out_.L(done);
}

void GemmNest::fetch_rows(const Unit& unit, size_t base, size_t stride, bool to_write) {
  Label top;
  out_.mov(out_.rcx, arg(stride));
  out_.shl(out_.rcx, 2);
  out_.mov(out_.rax, local(kFrameRow));
  out_.imul(out_.rax, out_.rcx);
  out_.add(out_.rax, arg(base));
  out_.imul(out_.rdx, local(kFrameNb), kLineBytes / output_blocks());
  out_.add(out_.rax, out_.rdx);
  out_.mov(out_.rdx, local(kFrameRows));
  out_.L(top);
  for (int line = 0; line < unit.blocks / output_blocks(); ++line) {
    const auto address = out_.ptr[out_.rax + line * kLineBytes];
    if (to_write) {
      out_.prefetchw(address);
    } else {
      out_.prefetcht0(address);
    }
  }
  out_.add(out_.rax, out_.rcx);
  out_.dec(out_.rdx);
  out_.jnz(top);
}

void GemmNest::rows_of_unit(const Unit& unit) {
  const int tiles = unit.blocks / unit.tile_blocks;
  Label top, done;
  out_.mov(out_.rdi, local(kFrameArgs));
  out_.mov(out_.rax, arg(offsetof(GemmArgs, scratch)));
  out_.mov(local(kFrameSums), out_.rax);
  locate_rows();
  if (tiles == 1) locate_columns(unit, 0);
  out_.mov(out_.rax, local(kFrameNextChunk));
  out_.L(top);  // rax: first row of the tile
  out_.mov(out_.rcx, local(kFrameChunkEnd));
  out_.sub(out_.rcx, out_.rax);
  out_.jle(done, CodeGenerator::T_NEAR);
  out_.mov(out_.rdx, tiling_.mr);
  out_.cmp(out_.rcx, out_.rdx);
  out_.cmovg(out_.rcx, out_.rdx);
  out_.mov(local(kFrameRow), out_.rax);
  out_.mov(local(kFrameRows), out_.rcx);
  if (nest_.slices.count > 1) fetch_next_slice(unit);
  if (tiling_.panel) fetch_results(unit);
  begin_rows();
  for (int tile = 0; tile < tiles; ++tile) {
    if (tiles > 1) locate_columns(unit, tile);
    call_tile(unit.tile_blocks);
  }
  if (nest_.slices.count > 1) {
    Label more;
    out_.cmp(out_.qword[out_.rbp + kFrameSlice], static_cast<int>(nest_.slices.count - 1));
    out_.jne(more, CodeGenerator::T_NEAR);
    out_.call(epilogue_);
    out_.L(more);
    const auto bytes = static_cast<int>(tile_scratch_bytes(spec_, tiling_));
    out_.add(out_.qword[out_.rbp + kFrameSums], bytes);
    if (tiles == 1) out_.add(out_.qword[out_.rbp + kFrameTileOut], bytes);
  } else {
    out_.call(epilogue_);
  }
  next_rows();
  out_.mov(out_.rax, local(kFrameRow));
  out_.add(out_.rax, local(kFrameRows));
  out_.jmp(top, CodeGenerator::T_NEAR);
  out_.L(done);
}

// Activations, their scales and sums at the chunk's first row.
void GemmNest::locate_rows() {
  out_.mov(out_.rdi, local(kFrameArgs));
  out_.mov(out_.rax, local(kFrameNextChunk));
  out_.mov(out_.rcx, arg(offsetof(GemmArgs, a_stride)));
  out_.imul(out_.rcx, out_.rax);
  if (spec_.act != ActType::s8) out_.shl(out_.rcx, spec_.act == ActType::bf16 ? 1 : 2);
  out_.add(out_.rcx, arg(offsetof(GemmArgs, a)));
  out_.mov(local(kFrameTileA), out_.rcx);
  if (spec_.act != ActType::s8) return;
  out_.imul(out_.rcx, out_.rax, static_cast<int>(shape_.act_groups * 4));
  out_.add(out_.rcx, arg(offsetof(GemmArgs, a_scale)));
  out_.mov(local(kFrameTileAScale), out_.rcx);
  out_.imul(out_.rcx, out_.rax, static_cast<int>(shape_.act_sum_bytes));
  out_.add(out_.rcx, arg(offsetof(GemmArgs, a_sum)));
  out_.mov(local(kFrameTileASum), out_.rcx);
  move_to_slice(kFrameTileA, shape_.act_group);
  move_to_slice(kFrameTileAScale, 4);
  move_to_slice(kFrameTileASum, shape_.act_sum_bytes / shape_.act_groups);
}

// From a whole tile's rows to the next.
void GemmNest::next_rows() {
  out_.mov(out_.rdi, local(kFrameArgs));
  out_.imul(out_.rcx, arg(offsetof(GemmArgs, a_stride)),
            static_cast<int>(tiling_.mr * act_bytes(spec_.act)));
  out_.add(local(kFrameTileA), out_.rcx);
  if (spec_.act != ActType::s8) return;
  out_.add(out_.qword[out_.rbp + kFrameTileAScale],
           static_cast<int>(tiling_.mr * shape_.act_groups * 4));
  out_.add(out_.qword[out_.rbp + kFrameTileASum],
           static_cast<int>(tiling_.mr * shape_.act_sum_bytes));
}

// Weights, scales, zero points and scratch of a tile of the unit. Of tiles apart, the second one of
// gates begins a block behind the first, and its sums lie behind those of all its blocks.
void GemmNest::locate_columns(const Unit& unit, int tile) {
  const int first = tiling_.apart ? tile : tile * unit.tile_blocks;
  const int64_t sums = tiling_.apart ? tile * tiling_.nr : first;
  const int64_t tile_bytes = sums * tiling_.mr * kLineBytes;
  const auto place = [&](int frame, size_t base, int64_t block_bytes) {
    out_.imul(out_.rcx, out_.rax, static_cast<int>(block_bytes));
    out_.add(out_.rcx, arg(base));
    out_.mov(local(frame), out_.rcx);
  };
  out_.mov(out_.rdi, local(kFrameArgs));
  out_.mov(out_.rax, local(kFrameNb));
  out_.add(out_.rax, first);
  if (tiling_.panel) {
    out_.mov(out_.rcx, arg(offsetof(GemmArgs, scratch)));
    out_.add(out_.rcx, static_cast<int>(nest_.panel_offset + first * nest_.panel_block_bytes));
    out_.mov(local(kFrameTileW), out_.rcx);
    place(kFrameTileSource, offsetof(GemmArgs, w), shape_.block_bytes);
    move_to_slice(kFrameTileSource, shape_.act_group / 8 * kLineBytes);
  } else {
    place(kFrameTileW, offsetof(GemmArgs, w), shape_.block_bytes);
  }
  if (spec_.weight.type != WeightType::f32) {
    place(kFrameTileWScale, offsetof(GemmArgs, w_scale), shape_.scale_block_bytes);
    move_to_slice(kFrameTileWScale, shape_.scale_block_bytes / shape_.act_groups);
    if (spec_.weight.asym) {
      place(kFrameTileWZero, offsetof(GemmArgs, w_zero), shape_.zero_block_bytes);
      move_to_slice(kFrameTileWZero, shape_.zero_block_bytes / shape_.act_groups);
    }
  }
  out_.mov(out_.rcx, local(kFrameSums));
  out_.add(out_.rcx, static_cast<int>(tile_bytes));
  out_.mov(local(kFrameTileOut), out_.rcx);
}

// Moves an operand of the tile, which has so many bytes for each fold, to the slice at hand.
void GemmNest::move_to_slice(int frame, int64_t fold_bytes) {
  if (nest_.slices.count == 1) return;
  out_.imul(out_.rcx, local(kFrameSlice), static_cast<int>(nest_.slices.folds * fold_bytes));
  out_.add(local(frame), out_.rcx);
}

std::vector<uint8_t> GemmNest::generate() {
  prologue();
  row_chunks();
  epilogue();
  out_.align(16);
  out_.L(epilogue_);
  emit_epilogue(out_, spec_, tiling_, nest_.zmm);
  routines();
  return out_.finish();
}

}  // namespace nibble::jit
