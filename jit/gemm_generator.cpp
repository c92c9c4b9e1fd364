// The tiles of every matmul kernel but those on AMX (amx_generator.cpp), for the nest of
// gemm_nest.h:
//
//   for each group: zero; for each chunk of k: load_b, load_a, dot; fold
//
// One routine for each number of rows up to mr.
#include "jit/gemm_generator.h"

#include <algorithm>
#include <cstddef>
#include <map>
#include <utility>

#include "jit/amx_generator.h"
#include "jit/amx_plan.h"
#include "jit/error.h"
#include "jit/gemm_nest.h"

namespace nibble::jit {
namespace {

using Xbyak::CodeGenerator;
using Xbyak::Label;

RegisterPlan plan_of(const GemmSpec& spec, Isa isa, const Tiling& tiling, int rows, int blocks) {
  return *plan_registers(spec, isa, tiling.panel, rows, blocks);
}

class Generator : public GemmNest {
 public:
  Generator(const GemmSpec& spec, Isa isa, const Tiling& tiling)
      : GemmNest(spec, tiling,
                 {.zmm = plan_of(spec, isa, tiling, 1, 1).zmm,
                  .chunk_rows = chunk_rows(spec, tiling),
                  .panel_offset = sums_scratch_bytes(spec, tiling),
                  .panel_block_bytes = panel_block_bytes(spec, tiling),
                  .slices = panel_slices(spec, tiling)}),
        isa_(isa),
        zmm_(plan_of(spec, isa, tiling, 1, 1).zmm) {}

 private:
  void call_tile(int blocks) override;
  void unpack_panel() override;
  void routines() override;

  void tile(int rows, int blocks);
  void groups(Emitter& emitter, int64_t steps, int64_t k_steps);
  void groups_of_slice(Emitter& emitter, int64_t steps, int64_t last_steps);
  void super_blocks(Emitter& emitter, int64_t steps);
  void group(Emitter& emitter, int64_t steps);
  void chunk(Emitter& emitter, int steps);

  const Isa isa_;
  const bool zmm_;
  std::map<std::pair<int, int>, Label> tiles_;  // by rows and column blocks
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
  emitter.end_chunk();
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

// All of k, or of a slice; the last group of k may be shorter.
void Generator::groups(Emitter& emitter, int64_t steps, int64_t k_steps) {
  if (nest_.slices.count > 1) return groups_of_slice(emitter, steps, k_steps % steps);
  const int64_t full = k_steps / steps;
  if (full > 1) {
    Label top;
    out_.mov(emitter.group_counter().cvt32(), static_cast<uint32_t>(full));
    out_.L(top);
    group(emitter, steps);
    out_.dec(emitter.group_counter().cvt32());
    out_.jnz(top, CodeGenerator::T_NEAR);
  } else {
    group(emitter, steps);
  }
  if (k_steps % steps != 0) group(emitter, k_steps % steps);
}

void Generator::groups_of_slice(Emitter& emitter, int64_t steps, int64_t last_steps) {
  Label top, last, done;
  out_.mov(emitter.group_counter(), out_.qword[out_.rbp + kFrameFolds]);
  if (last_steps != 0) {
    out_.test(emitter.group_counter(), emitter.group_counter());
    out_.jz(last, CodeGenerator::T_NEAR);
  }
  out_.L(top);
  group(emitter, steps);
  out_.dec(emitter.group_counter().cvt32());
  out_.jnz(top, CodeGenerator::T_NEAR);
  if (last_steps == 0) return;
  out_.cmp(out_.qword[out_.rbp + kFrameSlice], static_cast<int>(nest_.slices.count - 1));
  out_.jne(done, CodeGenerator::T_NEAR);
  out_.L(last);
  group(emitter, last_steps);
  out_.L(done);
}

// The same under q8 scales, where every super-block has whole groups.
void Generator::super_blocks(Emitter& emitter, int64_t steps) {
  const auto left = out_.qword[out_.rbp + kFrameSupers];
  const int passes = static_cast<int>(shape_.super_groups) / emitter.groups_per_pass();
  Label super, pass;
  if (nest_.slices.count > 1) {
    out_.mov(emitter.group_counter(), out_.qword[out_.rbp + kFrameFolds]);
    out_.mov(left, emitter.group_counter());
  } else {
    out_.mov(left, static_cast<uint32_t>(shape_.supers));
  }
  out_.L(super);
  emitter.begin_super();
  if (passes > 1) out_.mov(emitter.group_counter().cvt32(), static_cast<uint32_t>(passes));
  out_.L(pass);
  for (int place = 0; place < emitter.groups_per_pass(); ++place) {
    emitter.set_place_in_pass(place);
    group(emitter, steps);
  }
  if (passes > 1) {
    out_.dec(emitter.group_counter().cvt32());
    out_.jnz(pass, CodeGenerator::T_NEAR);
  }
  for (int j = 0; j < emitter.blocks(); ++j) {
    for (int half = 0; half < emitter.halves(); ++half) emitter.fold_super(j, half);
  }
  emitter.advance_super();
  out_.dec(left);
  out_.jnz(super, CodeGenerator::T_NEAR);
}

void Generator::tile(int rows, int blocks) {
  const auto emitter =
      make_emitter(isa_, out_, spec_, tiling_, plan_of(spec_, isa_, tiling_, rows, blocks));
  // Steps of s8 are quads of padded k, those of f32 single k: activations end there.
  const bool s8 = spec_.act == ActType::s8;
  const int64_t k_steps = s8 ? shape_.kpad / 4 : spec_.k;
  const int64_t length = spec_.weight.type == WeightType::f32 ? spec_.k : shape_.group;
  const int64_t group_steps = std::min(s8 ? length / 4 : length, k_steps);
  emitter->begin();
  if (spec_.weight.scale == ScaleType::q8) {
    super_blocks(*emitter, group_steps);
  } else {
    groups(*emitter, group_steps, k_steps);
  }
  for (int j = 0; j < blocks; ++j) {
    for (int i = 0; i < rows; ++i) emitter->store(i, j);
  }
  emitter->end();
}

// --- what the nest calls ---

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

// A slice of the unit's nibbles as bytes in quad order: each packed line becomes two lines of the
// panel.
void Generator::unpack_panel() {
  const auto reg = [&](int index) {
    return Xbyak::Xmm(zmm_ ? Xbyak::Operand::ZMM : Xbyak::Operand::YMM, index);
  };
  const Xbyak::Xmm mask = reg(0), low = reg(1), high = reg(2);
  Label block, top;
  const Xbyak::Reg64 source = out_.rsi, target = out_.rdx, lines = out_.rcx, slice_lines = out_.r8,
                     blocks = out_.r9;
  const int64_t all_lines = shape_.kpad / 8, most_lines = nest_.slices.k / 8;
  out_.mov(out_.rdi, local(kFrameArgs));
  out_.imul(source, local(kFrameNb), static_cast<int>(shape_.block_bytes));
  out_.add(source, arg(offsetof(GemmArgs, w)));
  out_.mov(target, arg(offsetof(GemmArgs, scratch)));
  out_.add(target, static_cast<int>(nest_.panel_offset));
  out_.mov(slice_lines, most_lines);
  if (nest_.slices.count > 1) {
    out_.imul(lines, local(kFrameSlice), static_cast<int>(most_lines));
    out_.mov(blocks, all_lines);
    out_.sub(blocks, lines);
    out_.cmp(blocks, slice_lines);
    out_.cmovl(slice_lines, blocks);
    out_.shl(lines, 6);
    out_.add(source, lines);
  }
  out_.mov(blocks, local(kFrameUnitBlocks));
  out_.vmovups(mask, out_.constant(0x0f0f0f0fU));
  const auto both_and = [&](const Xbyak::Xmm& x) {
    if (zmm_) {
      out_.vpandd(x, x, mask);
    } else {
      out_.vpand(x, x, mask);
    }
  };
  out_.L(block);
  out_.mov(lines, slice_lines);
  out_.L(top);
  // Slices are fetched by the tiles before.
  if (tiling_.prefetch > 0 && nest_.slices.count == 1) {
    out_.prefetcht1(out_.ptr[source + tiling_.prefetch]);
  }
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
  if (nest_.slices.count > 1) {
    // To the slice of the next block, in weights and in the panel.
    out_.mov(lines, all_lines);
    out_.sub(lines, slice_lines);
    out_.shl(lines, 6);
    out_.add(source, lines);
    out_.mov(lines, most_lines);
    out_.sub(lines, slice_lines);
    out_.shl(lines, 7);
    out_.add(target, lines);
  }
  out_.dec(blocks);
  out_.jnz(block, CodeGenerator::T_NEAR);
  out_.ret();
}

void Generator::routines() {
  for (auto& [size, label] : tiles_) {
    out_.align(64);
    out_.L(label);
    tile(size.first, size.second);
  }
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
