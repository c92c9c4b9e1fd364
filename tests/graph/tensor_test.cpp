#include "graph/tensor.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <limits>

#include "jit/error.h"
#include "jit/float16.h"

namespace nibble::graph {
namespace {

template <typename T>
TensorData raw(DType dtype, Shape shape, const std::vector<T>& values) {
  auto owner = std::make_shared<std::vector<T>>(values);
  return {.dtype = dtype,
          .shape = std::move(shape),
          .data = reinterpret_cast<const std::byte*>(owner->data()),
          .bytes = owner->size() * sizeof(T),
          .owner = owner};
}

TEST(Tensor, ReadsEveryTypeAsFloat) {
  using V = std::vector<float>;
  EXPECT_EQ(to_f32(raw<float>(DType::f32, {2}, {1.5F, -2})), (V{1.5F, -2}));
  EXPECT_EQ(to_f32(raw<double>(DType::f64, {2}, {1.5, -2})), (V{1.5F, -2}));
  EXPECT_EQ(to_f32(raw<uint16_t>(DType::bf16, {2}, {0x3FC0, 0xC000})), (V{1.5F, -2}));
  EXPECT_EQ(to_f32(raw<int64_t>(DType::i64, {1}, {-7})), (V{-7}));
  EXPECT_EQ(to_f32(raw<int32_t>(DType::i32, {1}, {-7})), (V{-7}));
  EXPECT_EQ(to_f32(raw<int16_t>(DType::i16, {1}, {-7})), (V{-7}));
  EXPECT_EQ(to_f32(raw<int8_t>(DType::i8, {1}, {-7})), (V{-7}));
  EXPECT_EQ(to_f32(raw<uint64_t>(DType::u64, {1}, {7})), (V{7}));
  EXPECT_EQ(to_f32(raw<uint32_t>(DType::u32, {1}, {4000000000U})), (V{4e9F}));
  EXPECT_EQ(to_f32(raw<uint16_t>(DType::u16, {1}, {65535})), (V{65535}));
  EXPECT_EQ(to_f32(raw<uint8_t>(DType::u8, {1}, {255})), (V{255}));
  EXPECT_EQ(to_f32(raw<uint8_t>(DType::boolean, {3}, {0, 1, 2})), (V{0, 1, 1}));
}

TEST(Tensor, ReadsFourBitTypesLowNibbleFirst) {
  const std::vector<uint8_t> bytes{0x8F, 0x07};
  EXPECT_EQ(to_i64(raw(DType::i4, {3}, bytes)), (std::vector<int64_t>{-1, -8, 7}));
  EXPECT_EQ(to_i64(raw(DType::u4, {3}, bytes)), (std::vector<int64_t>{15, 8, 7}));
  std::vector<float> middle(2);
  read_f32(raw(DType::u4, {3}, bytes), 1, middle);
  EXPECT_EQ(middle, (std::vector<float>{8, 7}));
}

// Every finite half, in runs that exercise both the vector loop and its tail.
TEST(Tensor, ReadsHalvesExactly) {
  std::vector<uint16_t> halves;
  for (int h = 0; h < 65536; ++h) {
    if ((h & 0x7C00) != 0x7C00) halves.push_back(static_cast<uint16_t>(h));
  }
  const auto count = static_cast<int64_t>(halves.size());
  const TensorData tensor = raw(DType::f16, {count}, halves);
  const std::vector<float> all = to_f32(tensor);
  for (size_t i = 0; i < halves.size(); ++i) ASSERT_EQ(all[i], jit::f16_to_f32(halves[i])) << i;
  std::vector<float> part(13);
  read_f32(tensor, 5, part);
  EXPECT_EQ(part, (std::vector<float>(all.begin() + 5, all.begin() + 18)));
}

TEST(Tensor, ReadsUnalignedData) {
  std::vector<char> bytes(1 + 2 * sizeof(float));
  const float values[] = {3.25F, -1};
  std::memcpy(bytes.data() + 1, values, sizeof(values));
  const TensorData tensor{.dtype = DType::f32,
                          .shape = {2},
                          .data = reinterpret_cast<const std::byte*>(bytes.data()) + 1,
                          .bytes = sizeof(values),
                          .owner = nullptr};
  EXPECT_EQ(to_f32(tensor), (std::vector<float>{3.25F, -1}));
}

TEST(Tensor, RefusesWhatDoesNotFit) {
  TensorData tensor = make_f32({2, 2}, {1, 2, 3, 4});
  std::vector<float> out(2);
  EXPECT_THROW(read_f32(tensor, 3, out), Error);
  EXPECT_THROW(read_f32(tensor, -1, out), Error);
  EXPECT_THROW(read_f32(tensor, std::numeric_limits<int64_t>::max(), out), Error);
  EXPECT_THROW(to_i64(tensor), Error);
  tensor.bytes = 15;  // one byte short
  EXPECT_THROW(to_f32(tensor), Error);
  tensor.shape = {1LL << 40};  // nothing of this size may be allocated before it is refused
  EXPECT_THROW(to_f32(tensor), Error);
  EXPECT_THROW(make_f32({3}, {1, 2}), Error);
  EXPECT_THROW(make_i64({-1}, {}), Error);
}

TEST(Tensor, CountsElementsWithoutOverflow) {
  EXPECT_EQ(element_count({}), 1);
  EXPECT_EQ(element_count({2, 0, 5}), 0);
  EXPECT_EQ(element_count({2, 3}), 6);
  EXPECT_THROW(element_count({-1}), Error);
  EXPECT_THROW(element_count({1LL << 32, 1LL << 32}), Error);
  EXPECT_THROW(element_count({0, 1LL << 32, 1LL << 32}), Error);
  EXPECT_EQ(to_string({1, -1}), "[1,-1]");
  EXPECT_EQ(dtype_bits(DType::u4), 4);
  EXPECT_EQ(dtype_name(DType::bf16), "bf16");
}

}  // namespace
}  // namespace nibble::graph
