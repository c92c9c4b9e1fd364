// The pieces of code that touch tile registers: their configuration and the product of up to 32
// rows by 32 columns over all of k. Used by amx_generator.cpp, in whose frame (rbp) they find their
// operands, as the tiles of an Emitter do.
//
//     tmm0 tmm1    sums of rows  0..15 by column blocks 0, 1      tmm4    activations, rows  0..15
//     tmm2 tmm3    sums of rows 16..31                            tmm5    activations, rows 16..31
//                                                                 tmm6    weights, block 0
//                                                                 tmm7    weights, block 1
#pragma once

#include "jit/amx_plan.h"
#include "jit/emitter.h"

namespace nibble::jit {

// Locals beside those of emitter.h, as offsets from rbp.
enum AmxFrame : int {
  kFrameTileConfig = kFrameBytes,                // the operand of ldtilecfg
  kFrameTileConfigRows = kFrameTileConfig + 64,  // rows that tiles are configured for, 0 = not yet
  kFrameGroupsLeft = kFrameTileConfigRows + 8,
  kFrameSuperGroupsLeft = kFrameGroupsLeft + 8,  // of a super-block
  kAmxFrameBytes = kFrameSuperGroupsLeft + 8,
};

// Writes all of the configuration that does not depend on the rows.
void emit_tile_config(Assembler& out, const AmxPlan& plan);
// A routine: configures tiles for kFrameRows rows unless they are already.
void emit_configure_rows(Assembler& out, const AmxPlan& plan);
// A routine: fp32 sums of kFrameRows rows (more than 16 with two row tiles) in kFrameTileOut.
void emit_amx_tile(Assembler& out, const GemmSpec& spec, const Tiling& tiling, int row_tiles,
                   int blocks);

}  // namespace nibble::jit
