#include "graph/tensor.h"

#include <immintrin.h>

#include <cstring>
#include <type_traits>
#include <utility>

#include "jit/error.h"
#include "jit/float16.h"
#include "jit/isa.h"

namespace nibble::graph {
namespace {

template <typename T>
T load(const std::byte* data, int64_t index) {
  T value;  // by memcpy: mapped files align nothing
  std::memcpy(&value, data + index * static_cast<int64_t>(sizeof(T)), sizeof(T));
  return value;
}

template <typename T, typename Out>
void convert(const std::byte* data, int64_t begin, std::span<Out> out) {
  for (size_t i = 0; i < out.size(); ++i) {
    const T value = load<T>(data, begin + static_cast<int64_t>(i));
    out[i] = static_cast<Out>(value);  // NOLINT(bugprone-signed-char-misuse): i8 is a number
  }
}

template <typename Out>
void convert_4bit(const std::byte* data, bool is_signed, int64_t begin, std::span<Out> out) {
  for (size_t i = 0; i < out.size(); ++i) {
    const int64_t index = begin + static_cast<int64_t>(i);
    const int byte = std::to_integer<int>(data[index / 2]);
    const int nibble = index % 2 == 0 ? byte & 15 : byte >> 4;
    out[i] = static_cast<Out>(is_signed && nibble > 7 ? nibble - 16 : nibble);
  }
}

__attribute__((target("avx,f16c"))) void convert_f16_f16c(const std::byte* data,
                                                          std::span<float> out) {
  size_t i = 0;
  for (; i + 8 <= out.size(); i += 8) {
    const __m128i half = _mm_loadu_si128(reinterpret_cast<const __m128i*>(data + i * 2));
    _mm256_storeu_ps(out.data() + i, _mm256_cvtph_ps(half));
  }
  for (; i < out.size(); ++i) out[i] = _cvtsh_ss(load<uint16_t>(data, static_cast<int64_t>(i)));
}

void convert_f16(const std::byte* data, int64_t begin, std::span<float> out) {
  static const bool has_f16c = jit::cpu().f16c;
  if (has_f16c) return convert_f16_f16c(data + begin * 2, out);
  for (size_t i = 0; i < out.size(); ++i) {
    out[i] = jit::f16_to_f32(load<uint16_t>(data, begin + static_cast<int64_t>(i)));
  }
}

void convert_bf16(const std::byte* data, int64_t begin, std::span<float> out) {
  for (size_t i = 0; i < out.size(); ++i) {
    const uint32_t bits = uint32_t{load<uint16_t>(data, begin + static_cast<int64_t>(i))} << 16;
    std::memcpy(&out[i], &bits, sizeof(bits));
  }
}

// The integer types, as any number. False when `dtype` is a float type.
template <typename Out>
bool convert_integers(const TensorData& tensor, int64_t begin, std::span<Out> out) {
  const std::byte* data = tensor.data;
  switch (tensor.dtype) {
    case DType::i64:
      convert<int64_t>(data, begin, out);
      return true;
    case DType::i32:
      convert<int32_t>(data, begin, out);
      return true;
    case DType::i16:
      convert<int16_t>(data, begin, out);
      return true;
    case DType::i8:
      convert<int8_t>(data, begin, out);
      return true;
    case DType::u64:
      convert<uint64_t>(data, begin, out);
      return true;
    case DType::u32:
      convert<uint32_t>(data, begin, out);
      return true;
    case DType::u16:
      convert<uint16_t>(data, begin, out);
      return true;
    case DType::u8:
      convert<uint8_t>(data, begin, out);
      return true;
    case DType::boolean:
      convert<uint8_t>(data, begin, out);
      for (Out& value : out) value = static_cast<Out>(value != 0);
      return true;
    case DType::i4:
      convert_4bit(data, true, begin, out);
      return true;
    case DType::u4:
      convert_4bit(data, false, begin, out);
      return true;
    default:
      return false;
  }
}

// The checks that make reading elements [begin, begin + count) safe.
void check_range(const TensorData& tensor, int64_t begin, size_t count) {
  const int64_t elements = element_count(tensor.shape);
  if (begin < 0 || begin > elements || static_cast<int64_t>(count) > elements - begin) {
    fail("A tensor of {} elements cannot be read from element {} for {} elements.", elements, begin,
         count);
  }
  const int64_t bits = dtype_bits(tensor.dtype);
  // Elements need (elements * bits + 7) / 8 bytes, compared without overflow.
  const auto held = static_cast<int64_t>(tensor.bytes) * 8 / bits;
  if (held < elements || (elements > 0 && tensor.data == nullptr)) {
    fail("A tensor {} {} needs {} elements, but its data holds {} ({} bytes).",
         dtype_name(tensor.dtype), to_string(tensor.shape), elements, held, tensor.bytes);
  }
}

template <typename T>
TensorData make_owned(DType dtype, Shape shape, std::vector<T> values) {
  if (element_count(shape) != static_cast<int64_t>(values.size())) {
    fail("A tensor of shape {} needs {} values, but {} were given.", to_string(shape),
         element_count(shape), values.size());
  }
  auto owner = std::make_shared<const std::vector<T>>(std::move(values));
  TensorData tensor;
  tensor.dtype = dtype;
  tensor.shape = std::move(shape);
  tensor.data = reinterpret_cast<const std::byte*>(owner->data());
  tensor.bytes = owner->size() * sizeof(T);
  tensor.owner = std::move(owner);
  return tensor;
}

}  // namespace

std::string_view dtype_name(DType dtype) {
  switch (dtype) {
    case DType::f32:
      return "f32";
    case DType::f16:
      return "f16";
    case DType::bf16:
      return "bf16";
    case DType::f64:
      return "f64";
    case DType::i64:
      return "i64";
    case DType::i32:
      return "i32";
    case DType::i16:
      return "i16";
    case DType::i8:
      return "i8";
    case DType::u64:
      return "u64";
    case DType::u32:
      return "u32";
    case DType::u16:
      return "u16";
    case DType::u8:
      return "u8";
    case DType::boolean:
      return "bool";
    case DType::i4:
      return "i4";
    case DType::u4:
      return "u4";
  }
  return "unknown";
}

int64_t dtype_bits(DType dtype) {
  switch (dtype) {
    case DType::f64:
    case DType::i64:
    case DType::u64:
      return 64;
    case DType::f32:
    case DType::i32:
    case DType::u32:
      return 32;
    case DType::f16:
    case DType::bf16:
    case DType::i16:
    case DType::u16:
      return 16;
    case DType::i8:
    case DType::u8:
    case DType::boolean:
      return 8;
    case DType::i4:
    case DType::u4:
      return 4;
  }
  fail("{} is no tensor type.", static_cast<int>(dtype));
}

std::string to_string(const Shape& shape) { return fmt::format("[{}]", fmt::join(shape, ",")); }

int64_t element_count(const Shape& shape) {
  // A dimension of 0 hides no overflow of the others: strides are products of some of them.
  int64_t count = 1;
  bool empty = false;
  for (const int64_t dim : shape) {
    if (dim < 0) fail("The shape {} has a negative or unknown dimension.", to_string(shape));
    if (dim == 0) {
      empty = true;
    } else if (__builtin_mul_overflow(count, dim, &count)) {
      fail("The shape {} has more elements than 64 bits can count.", to_string(shape));
    }
  }
  return empty ? 0 : count;
}

TensorData make_f32(Shape shape, std::vector<float> values) {
  return make_owned(DType::f32, std::move(shape), std::move(values));
}

TensorData make_i64(Shape shape, std::vector<int64_t> values) {
  return make_owned(DType::i64, std::move(shape), std::move(values));
}

void read_f32(const TensorData& tensor, int64_t begin, std::span<float> out) {
  check_range(tensor, begin, out.size());
  if (out.empty()) return;
  switch (tensor.dtype) {
    case DType::f32:
      std::memcpy(out.data(), tensor.data + begin * 4, out.size() * sizeof(float));
      return;
    case DType::f16:
      return convert_f16(tensor.data, begin, out);
    case DType::bf16:
      return convert_bf16(tensor.data, begin, out);
    case DType::f64:
      return convert<double>(tensor.data, begin, out);
    default:
      if (!convert_integers(tensor, begin, out)) {
        fail("A tensor of type {} cannot be read as fp32.", dtype_name(tensor.dtype));
      }
  }
}

std::vector<float> to_f32(const TensorData& tensor) {
  check_range(tensor, 0, 0);  // before the allocation: a shape is worth nothing without its bytes
  std::vector<float> out(static_cast<size_t>(element_count(tensor.shape)));
  read_f32(tensor, 0, out);
  return out;
}

std::vector<int64_t> to_i64(const TensorData& tensor) {
  check_range(tensor, 0, 0);
  std::vector<int64_t> out(static_cast<size_t>(element_count(tensor.shape)));
  if (!convert_integers(tensor, 0, std::span<int64_t>(out))) {
    fail("A tensor of type {} was found where integers are expected.", dtype_name(tensor.dtype));
  }
  return out;
}

}  // namespace nibble::graph
