// The end of a matmul tile: takes fp32 sums from the tile's scratch through bias, activation or
// gate and residual into the output, never touching a column past c_columns or a bias past n. A
// callable piece of code that runs once a tile, so it costs little and needs no register of the
// tile's.
#pragma once

#include "jit/emitter.h"

namespace nibble::jit {

void emit_epilogue(Assembler& out, const GemmSpec& spec, const Tiling& tiling, bool zmm);

}  // namespace nibble::jit
