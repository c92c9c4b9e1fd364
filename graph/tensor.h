// Tensor data as files hold it: a dtype, a shape and bytes that stay where they are (mapped, or
// owned).
#pragma once

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::graph {

enum class DType : uint8_t {
  f32,
  f16,
  bf16,
  f64,
  i64,
  i32,
  i16,
  i8,
  u64,
  u32,
  u16,
  u8,
  boolean,
  i4,
  u4
};

std::string_view dtype_name(DType dtype);
int64_t dtype_bits(DType dtype);

using Shape =
    std::vector<int64_t>;  // in values -1 stands for a dimension not known before run time
std::string to_string(const Shape& shape);
int64_t element_count(const Shape& shape);  // throws Error on overflow or a negative dimension

// Little-endian, row-major, 4-bit types two to a byte, low nibble first. `owner` keeps `data`
// alive.
struct TensorData {
  DType dtype = DType::f32;
  Shape shape;
  const std::byte* data = nullptr;
  size_t bytes = 0;
  std::shared_ptr<const void> owner;
};

// New owned tensors.
TensorData make_f32(Shape shape, std::vector<float> values);
TensorData make_i64(Shape shape, std::vector<int64_t> values);

// Elements [begin, begin + out.size()) as fp32 (integers too). Throws Error for an unsupported
// dtype.
void read_f32(const TensorData& tensor, int64_t begin, std::span<float> out);
std::vector<float> to_f32(const TensorData& tensor);
// Integer tensors only (boolean as 0/1).
std::vector<int64_t> to_i64(const TensorData& tensor);

}  // namespace nibble::graph
