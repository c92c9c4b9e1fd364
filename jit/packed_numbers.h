// The numbers that a packed matrix stores, column by column and as they were before packing: what
// pack_block of packed_layout.h takes. For exports; nothing that computes needs them.
#pragma once

#include <cstdint>
#include <span>

#include "jit/packed_layout.h"

namespace nibble::jit {

// Column `column`: k values, and a scale and a zero point a group. Throws Error for f32 weights and
// where the buffers are of another size; a format with minimums has zero points of 0.
void unpack_quantized(const PackedView& w, int64_t column, std::span<uint8_t> q,
                      std::span<float> scales, std::span<uint8_t> zeros);

}  // namespace nibble::jit
