// Tensors of 4-bit and 8-bit integers and of halves, from numbers.
#pragma once

#include <cstdint>
#include <memory>
#include <utility>
#include <vector>

#include "graph/tensor.h"

namespace nibble::test {

inline graph::TensorData byte_tensor(graph::DType dtype, graph::Shape shape,
                                     std::vector<uint8_t> bytes) {
  auto owner = std::make_shared<const std::vector<uint8_t>>(std::move(bytes));
  graph::TensorData tensor;
  tensor.dtype = dtype;
  tensor.shape = std::move(shape);
  tensor.data = reinterpret_cast<const std::byte*>(owner->data());
  tensor.bytes = owner->size();
  tensor.owner = std::move(owner);
  return tensor;
}

// Two numbers to a byte, the first in the low nibble; negative ones in two's complement.
inline std::vector<uint8_t> nibbles(const std::vector<int>& numbers) {
  std::vector<uint8_t> bytes((numbers.size() + 1) / 2, 0);
  for (size_t i = 0; i < numbers.size(); ++i) {
    bytes[i / 2] = static_cast<uint8_t>(bytes[i / 2] | (numbers[i] & 15) << (i % 2 * 4));
  }
  return bytes;
}

}  // namespace nibble::test
