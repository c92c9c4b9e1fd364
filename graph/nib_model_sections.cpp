#include "graph/nib_model_sections.h"

#include <limits>

#include "jit/error.h"

namespace nibble::graph {

std::string document_section(std::string_view name) { return fmt::format("doc/{}", name); }

std::string constant_section(ValueId id) { return fmt::format("const/{}", id); }

std::string weight_section(ValueId id, std::string_view part) {
  return fmt::format("weight/{}/{}", id, part);
}

std::string attribute_section(size_t node, std::string_view key) {
  return fmt::format("attribute/{}/{}", node, key);
}

int64_t tensor_bytes(DType dtype, const Shape& shape) {
  int64_t bits = 0;
  if (__builtin_mul_overflow(element_count(shape), dtype_bits(dtype), &bits) ||
      bits > std::numeric_limits<int64_t>::max() - 7) {
    fail("A tensor {} {} is larger than any file.", dtype_name(dtype), to_string(shape));
  }
  return (bits + 7) / 8;
}

}  // namespace nibble::graph
