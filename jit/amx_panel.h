// The panel of a tile kernel: the weights of a unit of column blocks in the order in which tile B
// is loaded (amx_plan.h), unpacked once for all row blocks of a chunk. Used by amx_generator.cpp.
//
// A packed line of u4 becomes two lines of bytes (16 columns x 4 k), or four of bf16 pairs (16
// columns x 2 k), and then the zero points are in the weights:
//
//     packed      byte i of a column: k i in its low nibble, k 4+i in its high one
//     vpshufb     bytes 0, 0, 1, 1 and 2, 2, 3, 3 of each column
//     low, high   nibbles of either: pairs (k0, k1), (k2, k3) and (k4, k5), (k6, k7), each k twice
//     vpermb      the lower byte of bf16 (q - zero) for the first of the two, the upper for the
//     second
//
// vpermb is one operation of port 5 where vpermw is two: six cycles a packed line.
#pragma once

#include "jit/amx_plan.h"
#include "jit/emitter_assembler.h"

namespace nibble::jit {

// A routine: fills the panel with kFrameUnitBlocks column blocks from kFrameNb on.
void emit_amx_panel(Assembler& out, const GemmSpec& spec, const Tiling& tiling);

}  // namespace nibble::jit
