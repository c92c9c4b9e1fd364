// The loop nest of every matmul kernel but those on AMX tiles (amx_generator.cpp):
//
//   for each chunk of rows whose activations stay in L2
//     for each unit of column blocks (nr of them; a pair for gates; then one by one)
//       [unpack the unit's nibbles to bytes in scratch]
//       for each mr rows (the last tile of the chunk has fewer)
//         tile: for each group: zero; for each chunk of k: load_b, load_a, dot; fold
//         epilogue
//
// Tiles of 1..mr rows and the epilogue are routines that the nest calls; they find their operands
// in the frame (emitter.h).
#include "jit/gemm_generator.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <utility>

#include "jit/amx_generator.h"
#include "jit/amx_plan.h"
#include "jit/emitter.h"
#include "jit/emitter_epilogue.h"
#include "jit/error.h"

namespace nibble::jit {
namespace {

using Xbyak::CodeGenerator;
using Xbyak::Label;

constexpr int kLineBytes = 64;
constexpr int64_t kChunkBytes =
    int64_t{512} * 1024;  // activations of a row chunk: a part of any L2

class Generator {
 public:
  Generator(const GemmSpec& spec, Isa isa, const Tiling& tiling)
      : spec_(spec),
        isa_(isa),
        tiling_(tiling),
        shape_(packed_shape(spec.weight, spec.n, spec.k)),
        zmm_(plan(1, 1).zmm) {}

  std::vector<uint8_t> generate();

 private:
  // A unit of column blocks: how many, and how wide the tiles are that cover it.
  struct Unit {
    int blocks = 1;
    int tile_blocks = 1;
  };

  RegisterPlan plan(int rows, int blocks) const {
    return *plan_registers(spec_, isa_, tiling_.panel, rows, blocks);
  }
  Unit main_unit() const { return {epilogue_blocks(spec_, tiling_), tiling_.nr}; }
  Unit tail_unit() const { return {spec_.gate ? 2 : 1, 1}; }
  int64_t chunk_rows() const;
  Xbyak::Address local(int offset) { return out_.ptr[out_.rbp + offset]; }
  Xbyak::Address arg(size_t offset) { return out_.ptr[out_.rdi + static_cast<int>(offset)]; }

  void prologue();
  void epilogue();
  void row_chunks();
  void column_units(const Unit& unit);
  void rows_of_unit(const Unit& unit);
  void locate_rows();
  void locate_columns(int t, const Unit& unit);
  void call_tile(int blocks);
  void unpack_panel();

  void tile(int rows, int blocks);
  void group(Emitter& emitter, int64_t steps);
  void chunk(Emitter& emitter, int steps);

  const GemmSpec& spec_;
  const Isa isa_;
  const Tiling& tiling_;
  const PackedShape shape_;
  const bool zmm_;
  Assembler out_;
  std::map<std::pair<int, int>, Label> tiles_;  // by rows and column blocks
  Label epilogue_, unpack_;
};

// --- one tile ---

// dot over `steps` steps; the pointers stay.
void Generator::chunk(Emitter& emitter, int steps) {
  emitter.begin_chunk(steps);
  for (int k = 0; k < steps; ++k) {
    for (int j = 0; j < emitter.blocks(); ++j) {
      if (k % emitter.steps_per_line() == 0) emitter.prefetch(k / emitter.steps_per_line(), j);
      emitter.load_b(k, j);
    }
    for (int i = 0; i < emitter.rows(); ++i) {
      emitter.load_a(i, k);
      for (int j = 0; j < emitter.blocks(); ++j) emitter.dot(i, j, k);
    }
  }
}

void Generator::group(Emitter& emitter, int64_t steps) {
  for (int j = 0; j < emitter.blocks(); ++j) {
    for (int i = 0; i < emitter.rows(); ++i) emitter.zero(i, j);
  }
  const int line = emitter.steps_per_line();
  const int unroll = (tiling_.k_unroll + line - 1) / line * line;
  const int64_t loops = steps / unroll;
  const int rest = static_cast<int>(steps % unroll);
  if (loops > 0) {
    Label top;
    if (loops > 1) out_.mov(emitter.loop_counter().cvt32(), static_cast<uint32_t>(loops));
    out_.L(top);
    chunk(emitter, unroll);
    emitter.advance(unroll);
    if (loops > 1) {
      out_.dec(emitter.loop_counter().cvt32());
      out_.jnz(top, CodeGenerator::T_NEAR);
    }
  }
  if (rest > 0) {
    chunk(emitter, rest);
    emitter.advance(rest);
  }
  for (int j = 0; j < emitter.blocks(); ++j) {
    for (int half = 0; half < emitter.halves(); ++half) {
      for (int i = 0; i < emitter.rows(); ++i) emitter.fold(i, j, half);
    }
  }
  emitter.advance_group();
}

void Generator::tile(int rows, int blocks) {
  const auto emitter = make_emitter(isa_, out_, spec_, tiling_, plan(rows, blocks));
  // Steps of s8 are quads of padded k, those of f32 single k: activations end there.
  const bool s8 = spec_.act == ActType::s8;
  const int64_t k_steps = s8 ? shape_.kpad / 4 : spec_.k;
  const int64_t length = spec_.weight.type == WeightType::f32 ? spec_.k : shape_.group;
  const int64_t group_steps = std::min(s8 ? length / 4 : length, k_steps);
  const int64_t full = k_steps / group_steps;
  emitter->begin();
  if (full > 1) {
    Label top;
    out_.mov(emitter->group_counter().cvt32(), static_cast<uint32_t>(full));
    out_.L(top);
    group(*emitter, group_steps);
    out_.dec(emitter->group_counter().cvt32());
    out_.jnz(top, CodeGenerator::T_NEAR);
  } else {
    group(*emitter, group_steps);
  }
  if (k_steps % group_steps != 0) group(*emitter, k_steps % group_steps);
  for (int j = 0; j < blocks; ++j) {
    for (int i = 0; i < rows; ++i) emitter->store(i, j);
  }
  emitter->end();
}

// --- the nest around the tiles ---

int64_t Generator::chunk_rows() const {
  const int64_t row_bytes = spec_.act == ActType::s8 ? shape_.kpad : spec_.k * 4;
  return std::max<int64_t>(1, kChunkBytes / row_bytes / tiling_.mr) * tiling_.mr;
}

void Generator::prologue() {
  for (const auto& reg : {out_.rbx, out_.rbp, out_.r12, out_.r13, out_.r14, out_.r15}) {
    out_.push(reg);
  }
  out_.sub(out_.rsp, kFrameBytes);
  out_.mov(out_.rbp, out_.rsp);
  out_.mov(local(kFrameArgs), out_.rdi);
}

void Generator::epilogue() {
  out_.vzeroupper();
  out_.add(out_.rsp, kFrameBytes);
  for (const auto& reg : {out_.r15, out_.r14, out_.r13, out_.r12, out_.rbp, out_.rbx}) {
    out_.pop(reg);
  }
  out_.ret();
}

void Generator::row_chunks() {
  Label top, done;
  out_.mov(out_.qword[out_.rbp + kFrameNextChunk], 0);
  out_.L(top);
  out_.mov(out_.rdi, local(kFrameArgs));
  out_.mov(out_.rax, local(kFrameNextChunk));
  out_.mov(out_.rcx, arg(offsetof(GemmArgs, m)));
  out_.cmp(out_.rax, out_.rcx);
  out_.jge(done, CodeGenerator::T_NEAR);
  out_.mov(out_.rdx, chunk_rows());
  out_.add(out_.rdx, out_.rax);
  out_.cmp(out_.rdx, out_.rcx);
  out_.cmovg(out_.rdx, out_.rcx);
  out_.mov(local(kFrameChunkEnd), out_.rdx);
  out_.mov(out_.rcx, arg(offsetof(GemmArgs, nb_begin)));
  out_.mov(local(kFrameNb), out_.rcx);
  const bool has_tail = tail_unit().blocks < main_unit().blocks;
  column_units(main_unit());
  if (has_tail) column_units(tail_unit());
  out_.mov(out_.rax, local(kFrameChunkEnd));
  out_.mov(local(kFrameNextChunk), out_.rax);
  out_.jmp(top, CodeGenerator::T_NEAR);
  out_.L(done);
}

// All whole units from kFrameNb on. kFrameNextChunk holds the chunk's first row meanwhile.
void Generator::column_units(const Unit& unit) {
  Label top, done;
  out_.L(top);
  out_.mov(out_.rdi, local(kFrameArgs));
  out_.mov(out_.rax, local(kFrameNb));
  out_.add(out_.rax, unit.blocks);
  out_.cmp(out_.rax, arg(offsetof(GemmArgs, nb_end)));
  out_.jg(done, CodeGenerator::T_NEAR);
  out_.mov(out_.rcx, unit.blocks);
  out_.mov(local(kFrameUnitBlocks), out_.rcx);
  if (tiling_.panel) out_.call(unpack_);
  rows_of_unit(unit);
  out_.mov(out_.rax, unit.blocks);
  out_.add(local(kFrameNb), out_.rax);
  out_.jmp(top, CodeGenerator::T_NEAR);
  out_.L(done);
}

void Generator::rows_of_unit(const Unit& unit) {
  Label top, done;
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
  locate_rows();
  for (int t = 0; t < unit.blocks / unit.tile_blocks; ++t) {
    locate_columns(t, unit);
    call_tile(unit.tile_blocks);
  }
  out_.call(epilogue_);
  out_.mov(out_.rax, local(kFrameRow));
  out_.add(out_.rax, local(kFrameRows));
  out_.jmp(top, CodeGenerator::T_NEAR);
  out_.L(done);
}

// Activations, their scales and sums at the tile's first row.
void Generator::locate_rows() {
  out_.mov(out_.rdi, local(kFrameArgs));
  out_.mov(out_.rax, local(kFrameRow));
  out_.mov(out_.rcx, arg(offsetof(GemmArgs, a_stride)));
  out_.imul(out_.rcx, out_.rax);
  if (spec_.act == ActType::f32) out_.shl(out_.rcx, 2);
  out_.add(out_.rcx, arg(offsetof(GemmArgs, a)));
  out_.mov(local(kFrameTileA), out_.rcx);
  if (spec_.act != ActType::s8) return;
  out_.imul(out_.rax, out_.rax, static_cast<int>(shape_.groups * 4));
  out_.mov(out_.rcx, arg(offsetof(GemmArgs, a_scale)));
  out_.add(out_.rcx, out_.rax);
  out_.mov(local(kFrameTileAScale), out_.rcx);
  out_.mov(out_.rcx, arg(offsetof(GemmArgs, a_sum)));
  out_.add(out_.rcx, out_.rax);
  out_.mov(local(kFrameTileASum), out_.rcx);
}

// Weights, scales, zero points and scratch of tile t of the unit.
void Generator::locate_columns(int t, const Unit& unit) {
  const int first = t * unit.tile_blocks;
  const int64_t tile_bytes = int64_t{first} * tiling_.mr * kLineBytes;
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
    out_.add(out_.rcx, static_cast<int>(tile_scratch_bytes(spec_, tiling_) +
                                        first * panel_block_bytes(spec_)));
    out_.mov(local(kFrameTileW), out_.rcx);
  } else {
    place(kFrameTileW, offsetof(GemmArgs, w), shape_.block_bytes);
  }
  if (spec_.weight.type != WeightType::f32) {
    const int64_t scale_bytes = spec_.weight.scale == ScaleType::f16 ? 2 : 4;
    place(kFrameTileWScale, offsetof(GemmArgs, w_scale),
          shape_.groups * kColumnBlock * scale_bytes);
    if (spec_.weight.asym) {
      place(kFrameTileWZero, offsetof(GemmArgs, w_zero), shape_.groups * kColumnBlock);
    }
  }
  out_.mov(out_.rcx, arg(offsetof(GemmArgs, scratch)));
  out_.add(out_.rcx, static_cast<int>(tile_bytes));
  out_.mov(local(kFrameTileOut), out_.rcx);
}

// Calls the tile of kFrameRows rows, the full one tried first.
void Generator::call_tile(int blocks) {
  Label done;
  for (int rows = tiling_.mr; rows >= 1; --rows) {
    Label next;
    if (rows > 1) {
      out_.cmp(out_.qword[out_.rbp + kFrameRows], rows);
      out_.jne(next, CodeGenerator::T_NEAR);
    }
    out_.call(tiles_[{rows, blocks}]);
    if (rows > 1) out_.jmp(done, CodeGenerator::T_NEAR);
    out_.L(next);
  }
  out_.L(done);
}

// The unit's nibbles as bytes in quad order: each packed line becomes two lines of the panel.
void Generator::unpack_panel() {
  const auto reg = [&](int index) {
    return Xbyak::Xmm(zmm_ ? Xbyak::Operand::ZMM : Xbyak::Operand::YMM, index);
  };
  const Xbyak::Xmm mask = reg(0), low = reg(1), high = reg(2);
  Label top;
  const Xbyak::Reg64 source = out_.rsi, target = out_.rdx, lines = out_.rcx;
  out_.mov(out_.rdi, local(kFrameArgs));
  out_.imul(source, local(kFrameNb), static_cast<int>(shape_.block_bytes));
  out_.add(source, arg(offsetof(GemmArgs, w)));
  out_.mov(target, arg(offsetof(GemmArgs, scratch)));
  out_.add(target, static_cast<int>(tile_scratch_bytes(spec_, tiling_)));
  out_.imul(lines, local(kFrameUnitBlocks), static_cast<int>(shape_.kpad / 8));
  out_.vmovups(mask, out_.constant(0x0f0f0f0fU));
  const auto both_and = [&](const Xbyak::Xmm& x) {
    if (zmm_) {
      out_.vpandd(x, x, mask);
    } else {
      out_.vpand(x, x, mask);
    }
  };
  out_.L(top);
  if (tiling_.prefetch > 0) out_.prefetcht0(out_.ptr[source + tiling_.prefetch]);
  for (int offset = 0; offset < kLineBytes; offset += zmm_ ? 64 : 32) {
    out_.vmovups(low, out_.ptr[source + offset]);
    out_.vpsrld(high, low, 4);
    both_and(low);
    both_and(high);
    out_.vmovups(out_.ptr[target + offset], low);
    out_.vmovups(out_.ptr[target + kLineBytes + offset], high);
  }
  out_.add(source, kLineBytes);
  out_.add(target, 2 * kLineBytes);
  out_.dec(lines);
  out_.jnz(top, CodeGenerator::T_NEAR);
  out_.ret();
}

std::vector<uint8_t> Generator::generate() {
  prologue();
  row_chunks();
  epilogue();
  if (tiling_.panel) {
    out_.align(16);
    out_.L(unpack_);
    unpack_panel();
  }
  out_.align(16);
  out_.L(epilogue_);
  emit_epilogue(out_, spec_, tiling_, zmm_);
  for (auto& [size, label] : tiles_) {
    out_.align(64);
    out_.L(label);
    tile(size.first, size.second);
  }
  return out_.finish();
}

}  // namespace

std::vector<uint8_t> generate_gemm(const GemmSpec& spec, Isa isa, const Tiling& tiling) {
  check_gemm_spec(spec);
  if (!tiling_fits(spec, isa, tiling)) {
    fail("The kernel {} cannot be generated: {} has no such tile for it.",
         name(KernelKey{.spec = spec, .isa = isa, .tiling = tiling}), isa_name(isa));
  }
  try {
    if (runs_on_tiles(spec, isa, tiling)) return generate_amx_gemm(spec, tiling);
    return Generator(spec, vector_isa(isa), tiling).generate();
  } catch (const Xbyak::Error& error) {
    fail("The kernel {} cannot be generated: Xbyak says '{}'.",
         name(KernelKey{.spec = spec, .isa = isa, .tiling = tiling}), error.what());
  }
}

}  // namespace nibble::jit
