#include "runtime/packed_matrix.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cstdint>

#include "jit/error.h"

namespace nibble::runtime {
namespace {

using jit::ScaleType;
using jit::WeightFormat;
using jit::WeightType;

bool aligned(const void* p) { return reinterpret_cast<uintptr_t>(p) % 64 == 0; }

// Writes every byte (a sanitizer objects to one too many) after checking that it was zero.
void touch_all(const PackedBuffer& buffer, const jit::PackedShape& shape) {
  auto zeroed = [](const void* p, int64_t bytes) {
    const auto* b = static_cast<const uint8_t*>(p);
    return std::all_of(b, b + bytes, [](uint8_t v) { return v == 0; });
  };
  EXPECT_TRUE(zeroed(buffer.data, shape.data_bytes));
  EXPECT_TRUE(zeroed(buffer.scales, shape.scale_bytes));
  EXPECT_TRUE(zeroed(buffer.zeros, shape.zero_bytes));
  std::fill_n(buffer.data, shape.data_bytes, uint8_t{1});
  std::fill_n(static_cast<uint8_t*>(buffer.scales), shape.scale_bytes, uint8_t{1});
  std::fill_n(buffer.zeros, shape.zero_bytes, uint8_t{1});
}

TEST(PackedMatrix, AllocatesEveryFormat) {
  for (const WeightType type : {WeightType::u4, WeightType::u8, WeightType::f32}) {
    for (const bool asym : {false, true}) {
      for (const int64_t n : {1, 16, 1000}) {
        const WeightFormat format{type, 32, asym, ScaleType::f16};
        const PackedBuffer buffer = allocate_packed(format, n, 4100);
        const jit::PackedShape shape = jit::packed_shape(format, n, 4100);
        EXPECT_TRUE(aligned(buffer.data) && aligned(buffer.scales) && aligned(buffer.zeros));
        touch_all(buffer, shape);
        const jit::PackedView& view = buffer.matrix.view;
        EXPECT_EQ(view.data, buffer.data);
        EXPECT_EQ(view.scales, buffer.scales);
        EXPECT_EQ(view.zeros, buffer.zeros);
        EXPECT_EQ(view.n, n);
        EXPECT_EQ(view.k, 4100);
        EXPECT_EQ(view.format, format);
        EXPECT_EQ(view.zeros != nullptr, asym && type != WeightType::f32);
        EXPECT_EQ(view.scales != nullptr, type != WeightType::f32);
        EXPECT_EQ(stored_bytes(view), shape.data_bytes + shape.scale_bytes + shape.zero_bytes);
      }
    }
  }
}

TEST(PackedMatrix, OwnerKeepsTheMemory) {
  PackedMatrix kept;
  {
    const PackedBuffer buffer = allocate_packed({.group = 32}, 16, 64);
    buffer.data[5] = 77;
    kept = buffer.matrix;
  }
  EXPECT_EQ(kept.view.data[5], 77);
}

TEST(PackedMatrix, CountsBytesOfADecodeStep) {
  // 4096 x 4096 at 4 bits: 8 MiB of nibbles and 2 bytes per 128 weights.
  const PackedBuffer buffer = allocate_packed({.group = 128}, 4096, 4096);
  EXPECT_EQ(stored_bytes(buffer.matrix.view), (8 << 20) + 4096 * 32 * 2);
}

TEST(PackedMatrix, RefusesNonsense) {
  EXPECT_THROW(allocate_packed({.group = 32}, 0, 64), Error);
  EXPECT_THROW(allocate_packed({.group = 32}, 16, -1), Error);
  EXPECT_THROW(allocate_packed({.group = 12}, 16, 64), Error);
  EXPECT_THROW(allocate_packed({.group = -8}, 16, 64), Error);
  EXPECT_THROW(allocate_packed({.group = 32}, int64_t{1} << 40, int64_t{1} << 40), Error);
}

TEST(PackedMatrix, MemoryThatIsRefusedIsAnError) {
  try {
    allocate_packed({.group = 32}, int64_t{1} << 24, int64_t{1} << 24);
    FAIL() << "128 TiB were granted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("the system refused them"), std::string::npos);
  }
}

}  // namespace
}  // namespace nibble::runtime
