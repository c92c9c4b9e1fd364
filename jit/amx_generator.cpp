// What AMX brings to the nest of gemm_nest.h: tiles are configured when it is entered and for the
// rows of each tile, released at its end; the panel has the order of tile B.
#include "jit/amx_generator.h"

#include <array>
#include <cstddef>

#include "jit/amx_plan.h"
#include "jit/amx_tile.h"
#include "jit/gemm_nest.h"

namespace nibble::jit {
namespace {

using Xbyak::CodeGenerator;
using Xbyak::Label;

constexpr int64_t kLineBytes = 64;
// Activations of a row chunk: half of the L2 of the machines that have AMX. More rows share a
// panel.
constexpr int64_t kChunkBytes = int64_t{1} << 20;

class AmxGenerator : public GemmNest {
 public:
  AmxGenerator(const GemmSpec& spec, const Tiling& tiling)
      : GemmNest(spec, tiling,
                 {.zmm = true,
                  .frame_bytes = kAmxFrameBytes,
                  .chunk_bytes = kChunkBytes,
                  .panel_offset = amx_panel_offset(spec, tiling),
                  .panel_block_bytes = plan_amx(spec).block_bytes}),
        plan_(plan_amx(spec)) {}

 private:
  void enter() override { emit_tile_config(out_, plan_); }
  void leave() override { out_.tilerelease(); }
  void begin_rows() override { out_.call(configure_); }
  void call_tile(int blocks) override;
  void unpack_panel() override;
  void routines() override;

  void unpack_group(int64_t length);
  void unpack_lines(int64_t k);
  void zero_lines(int64_t k);

  const AmxPlan plan_;
  std::array<std::array<Label, kMaxTileBlocks>, 2>
      tiles_;  // by row tiles and column blocks, less 1
  Label configure_;
};

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

void AmxGenerator::routines() {
  out_.align(16);
  out_.L(configure_);
  emit_configure_rows(out_, plan_);
  for (int rows = 1; rows <= tiling_.mr / kTileRows; ++rows) {
    for (int blocks = 1; blocks <= tiling_.nr; ++blocks) {
      out_.align(64);
      out_.L(tiles_[rows - 1][blocks - 1]);
      emit_amx_tile(out_, spec_, tiling_, rows, blocks);
    }
  }
}

}  // namespace

std::vector<uint8_t> generate_amx_gemm(const GemmSpec& spec, const Tiling& tiling) {
  return AmxGenerator(spec, tiling).generate();
}

}  // namespace nibble::jit
