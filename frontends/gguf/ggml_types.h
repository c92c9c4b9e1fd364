// The tensor types of ggml that models are made of. A block is `elements` consecutive weights of a
// row and `bytes` long; what is in it is ggml_numbers.h. Source: ggml's ggml.h and ggml-common.h.
#pragma once

#include <cstdint>
#include <string_view>

namespace nibble::frontends::gguf {

// The numbers that files use.
enum class GgmlType : uint32_t {
  f32 = 0,
  f16 = 1,
  q4_0 = 2,
  q4_1 = 3,
  q5_0 = 6,
  q5_1 = 7,
  q8_0 = 8,
  q2_k = 10,
  q3_k = 11,
  q4_k = 12,
  q5_k = 13,
  q6_k = 14,
  i8 = 24,
  i16 = 25,
  i32 = 26,
  i64 = 27,
  f64 = 28,
  bf16 = 30
};

struct GgmlBlock {
  GgmlType type;
  std::string_view name;
  int64_t elements, bytes;
};

// Null for types that are not in the list above.
const GgmlBlock* ggml_block(uint32_t type);
const GgmlBlock& ggml_block(GgmlType type);
// "f32, f16, q4_0, ...": what messages say is known.
std::string_view ggml_type_names();

// Whether it holds weights: all but the integers and f64.
bool is_weight(GgmlType type);

}  // namespace nibble::frontends::gguf
