// Which tilings a matmul is tuned over, and what no tiling can beat. Nothing is measured here.
#pragma once

#include <cstdint>
#include <vector>

#include "jit/kernel_spec.h"
#include "runtime/machine_roofs.h"

namespace nibble::tune {

// The default tiling first, then every combination of rows, column blocks, unroll, prefetch, blocks
// apart and panel that the register budget admits (jit::tiling_fits) and that makes code of its
// own.
std::vector<jit::Tiling> candidate_tilings(const jit::GemmSpec& spec, jit::Isa isa, int64_t m);

// Seconds that a matmul of m rows takes at least, by the roofline
//
//   max( weight bytes / read roof,
//        dots * w / r,                  a dot's register has w bytes, and the int8 roof is r bytes
//        vector instructions * w / 2r ) of dots a second; cores issue at most two such a dot
//
// The instructions counted are the dots, three to unpack a line of nibbles for every tile of rows
// (once in all with a panel), and three for every fold of a group. The bound is lowered by a tenth:
// roofs of a busy machine are measured low.
double least_seconds(const jit::GemmSpec& spec, jit::Isa isa, int64_t m, const jit::Tiling& tiling,
                     const runtime::Roofs& roofs);

// What a matmul reads of its weights, and its operations (two a multiply-accumulate).
double weight_bytes(const jit::GemmSpec& spec);
double operations(const jit::GemmSpec& spec, int64_t m);

}  // namespace nibble::tune
