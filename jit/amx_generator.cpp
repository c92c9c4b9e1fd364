// What AMX brings to the nest of gemm_nest.h: tiles are configured when it is entered and for the
// rows of each tile, released at its end; the panel has the order of tile B.
#include "jit/amx_generator.h"

#include <array>

#include "jit/amx_panel.h"
#include "jit/amx_plan.h"
#include "jit/amx_tile.h"
#include "jit/gemm_nest.h"

namespace nibble::jit {
namespace {

using Xbyak::CodeGenerator;
using Xbyak::Label;

class AmxGenerator : public GemmNest {
 public:
  AmxGenerator(const GemmSpec& spec, const Tiling& tiling)
      : GemmNest(spec, tiling,
                 {.zmm = true,
                  .frame_bytes = kAmxFrameBytes,
                  .chunk_rows = chunk_rows(spec, tiling),
                  .panel_offset = amx_panel_offset(spec, tiling),
                  .panel_block_bytes = plan_amx(spec).block_bytes}),
        plan_(plan_amx(spec)) {}

 private:
  void enter() override { emit_tile_config(out_, plan_); }
  void leave() override { out_.tilerelease(); }
  void begin_unit() override {
    if (tiling_.panel) out_.call(unpack_);
  }
  void begin_rows() override { out_.call(configure_); }
  void call_tile(int blocks) override;
  void routines() override;

  const AmxPlan plan_;
  std::array<std::array<Label, kMaxTileBlocks>, 2>
      tiles_;  // by row tiles and column blocks, less 1
  Label configure_, unpack_;
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

void AmxGenerator::routines() {
  if (tiling_.panel) {
    out_.align(16);
    out_.L(unpack_);
    emit_amx_panel(out_, spec_, tiling_);
  }
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
