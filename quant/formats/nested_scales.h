// Scales of type q8 (jit/super_blocks.h) for weights that are quantized here: each is found as any
// other, then becomes a byte of -127 to 127 times the fp16 number that the largest of its 256
// weights makes 127. That moves a scale by half a byte, 0.4% of the largest in its super-block,
// which is far below what a weight of four or eight bits is rounded by.
#pragma once

#include <cstdint>
#include <span>

#include "jit/packed_layout.h"

namespace nibble::quant {

// The format itself, or with fp16 scales where there are no q8 ones for it: other groups than 16 to
// 128, zero points, or k that is no multiple of 256.
jit::WeightFormat with_fitting_scales(jit::WeightFormat format, int64_t k);

// One column: scales[groups] become products with supers[k / 256]. The scale of a group whose
// q[k] are all `zero` may be any, and counts for nothing.
void nest_scales(int64_t group, uint8_t zero, std::span<const uint8_t> q, std::span<float> scales,
                 std::span<float> supers);

}  // namespace nibble::quant
