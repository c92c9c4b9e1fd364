#include "jit/packed_numbers.h"

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
  const uint8_t* block = w.data + column / kColumnBlock * shape.block_bytes;
  for (int64_t kk = 0; kk < w.k; ++kk) {
    q[static_cast<size_t>(kk)] = unit_value(w.format.type, block, column % kColumnBlock, kk);
  }
  for (int64_t g = 0; g < shape.groups; ++g) {
    scales[static_cast<size_t>(g)] = packed_scale(w, column, g);
    zeros[static_cast<size_t>(g)] = packed_zero(w, column, g);
  }
}

}  // namespace nibble::jit
