// Random scales (or minimums) of type q8, as jit::pack_block takes them: fp16 numbers, and products
// of those with bytes of every value.
#pragma once

#include <cstddef>
#include <vector>

#include "jit/packed_layout.h"

namespace nibble::test {

struct SuperNumbers {
  std::vector<float> above;     // [16][supers]
  std::vector<float> products;  // [16][groups]
};

// Numbers of up to 2^-`exponent`. `random` gives whole numbers.
template <typename Random>
SuperNumbers random_super_numbers(Random& random, const jit::PackedShape& shape, int exponent) {
  SuperNumbers out;
  out.above.resize(static_cast<size_t>(jit::kColumnBlock * shape.supers));
  out.products.resize(static_cast<size_t>(jit::kColumnBlock * shape.groups));
  const float unit = 1.0F / static_cast<float>(int64_t{1} << (exponent + 10));
  for (float& number : out.above) {
    number = static_cast<float>(static_cast<int>(random() % 2048) - 1024) * unit;
  }
  const auto groups = static_cast<size_t>(shape.super_groups);
  for (size_t i = 0; i < out.products.size(); ++i) {
    const int byte = static_cast<int>(random() % 256) - 128;
    out.products[i] = out.above[i / groups] * static_cast<float>(byte);
  }
  return out;
}

}  // namespace nibble::test
