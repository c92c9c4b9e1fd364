// The tiles of every matmul kernel but those on AMX (amx_generator.cpp), for the nest of
// gemm_nest.h:
//
//   for each group: zero; for each chunk of k: load_b, load_a, dot; fold
//
// One routine for each number of rows up to mr.
#include "jit/gemm_generator.h"

#include <algorithm>
#include <compare>
#include <cstddef>
#include <map>

#include "jit/amx_generator.h"
#include "jit/amx_plan.h"
#include "jit/error.h"
#include "jit/gemm_nest.h"

namespace nibble::jit {
namespace {

using Xbyak::CodeGenerator;
using Xbyak::Label;

// What a tile is generated for. Those that fill a panel are the first of its rows.
struct TileKind {
  int rows = 1, blocks = 1;
  bool fills_panel = false;
  auto operator<=>(const TileKind&) const = default;
};

class Generator : public GemmNest {
 public:
  Generator(const GemmSpec& spec, Isa isa, const Tiling& tiling)
      : GemmNest(spec, tiling,
                 {.zmm = plan_registers(spec, isa, tiling.panel, 1, 1)->zmm,
                  .chunk_rows = chunk_rows(spec, tiling),
                  .panel_offset = sums_scratch_bytes(spec, tiling),
                  .panel_block_bytes = panel_block_bytes(spec, tiling),
                  .slices = panel_slices(spec, tiling)}),
        isa_(isa) {}

 private:
  void call_tile(int blocks) override;
  void routines() override;

  void call_tile_of_rows(int blocks, bool fills_panel);
  void tile(const TileKind& kind);
  void groups(Emitter& emitter, int64_t steps, int64_t k_steps);
  void groups_of_slice(Emitter& emitter, int64_t steps, int64_t last_steps);
  void super_blocks(Emitter& emitter, int64_t steps);
  void group(Emitter& emitter, int64_t steps);
  void chunk(Emitter& emitter, int steps);
  void prefetch_behind(Emitter& emitter, int k, int i, int j);

  const Isa isa_;
  std::map<TileKind, Label> tiles_;
};

// --- one tile ---

// dot over `steps` steps; the pointers stay.
void Generator::chunk(Emitter& emitter, int steps) {
  emitter.begin_chunk(steps);
  for (int k = 0; k < steps; ++k) {
    for (int j = 0; j < emitter.blocks(); ++j) emitter.load_b(k, j);
    for (int i = 0; i < emitter.rows(); ++i) {
      emitter.load_a(i, k);
      emitter.prefetch_row(i, k);
      for (int j = 0; j < emitter.blocks(); ++j) {
        emitter.dot(i, j, k);
        prefetch_behind(emitter, k, i, j);
      }
    }
  }
  emitter.end_chunk();
}

// What is due behind this dot: the prefetches of a line lie evenly between its dots, as several at
// once have to wait for buffers, and what comes behind them for them.
void Generator::prefetch_behind(Emitter& emitter, int k, int i, int j) {
  const int line = k / emitter.steps_per_line(), step = k % emitter.steps_per_line();
  const int dots = emitter.steps_per_line() * emitter.rows() * emitter.blocks();
  const int dot = (step * emitter.rows() + i) * emitter.blocks() + j;
  const auto due_before = [&](int d) {
    return (d * emitter.prefetches_per_line() + dots - 1) / dots;
  };
  for (int number = due_before(dot); number < due_before(dot + 1); ++number) {
    emitter.prefetch(line, number);
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

void Generator::tile(const TileKind& kind) {
  const auto [rows, blocks, fills_panel] = kind;
  const auto plan = plan_registers(spec_, isa_, tiling_.panel && !fills_panel, rows, blocks);
  const auto emitter = make_emitter(isa_, out_, spec_, tiling_, *plan, fills_panel);
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

void Generator::call_tile(int blocks) {
  if (!tiling_.panel) return call_tile_of_rows(blocks, false);
  Label later, done;
  out_.mov(out_.rax, local(kFrameRow));
  out_.cmp(out_.rax, local(kFrameNextChunk));
  out_.jne(later, CodeGenerator::T_NEAR);
  call_tile_of_rows(blocks, true);
  out_.jmp(done, CodeGenerator::T_NEAR);
  out_.L(later);
  call_tile_of_rows(blocks, false);
  out_.L(done);
}

// Calls the tile of kFrameRows rows, the full one tried first.
void Generator::call_tile_of_rows(int blocks, bool fills_panel) {
  Label done;
  for (int rows = tiling_.mr; rows >= 1; --rows) {
    Label next;
    if (rows > 1) {
      out_.cmp(out_.qword[out_.rbp + kFrameRows], rows);
      out_.jne(next, CodeGenerator::T_NEAR);
    }
    out_.call(tiles_[{rows, blocks, fills_panel}]);
    if (rows > 1) out_.jmp(done, CodeGenerator::T_NEAR);
    out_.L(next);
  }
  out_.L(done);
}

void Generator::routines() {
  for (auto& [kind, label] : tiles_) {
    out_.align(64);
    out_.L(label);
    tile(kind);
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
