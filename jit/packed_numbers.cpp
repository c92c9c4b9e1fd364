#include "jit/packed_numbers.h"

#include <algorithm>

#include "jit/error.h"

namespace nibble::jit {

void unpack_quantized(const PackedView& w, int64_t column, std::span<uint8_t> q,
                      std::span<float> scales, std::span<uint8_t> zeros) {
  if (w.format.type == WeightType::f32) fail("Weights kept in f32 are not quantized.");
  const PackedShape shape = packed_shape(w.format, w.n, w.k);
  if (static_cast<int64_t>(q.size()) != w.k ||
      static_cast<int64_t>(scales.size()) != shape.groups || zeros.size() != scales.size()) {
    fail("A column of {} weights in {} groups was asked for in a buffer of {} in {}.", w.k,
         shape.groups, q.size(), scales.size());
  }
  constexpr int64_t kLine = 64;
  const bool nibbles = w.format.type == WeightType::u4;
  const int64_t step = nibbles ? 8 : 4, at = column % kColumnBlock * 4;
  const uint8_t* line = w.data + column / kColumnBlock * shape.block_bytes;
  for (int64_t k0 = 0; k0 < w.k; k0 += step, line += kLine) {
    const int64_t count = std::min(step, w.k - k0);
    for (int64_t i = 0; i < count; ++i) {
      const uint8_t byte = line[at + i % 4];
      const int value = !nibbles ? byte : i < 4 ? byte & 15 : byte >> 4;
      q[static_cast<size_t>(k0 + i)] = static_cast<uint8_t>(value);
    }
  }
  for (int64_t g = 0; g < shape.groups; ++g) {
    scales[static_cast<size_t>(g)] = packed_scale(w, column, g);
    zeros[static_cast<size_t>(g)] = packed_zero(w, column, g);
  }
}

}  // namespace nibble::jit
