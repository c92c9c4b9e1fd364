// Einsum as its definition has it: for every element of the output, the sum of products over the
// letters that it lacks.
#include <algorithm>
#include <map>

#include "graph/einsum.h"
#include "graph/interpreter_ops.h"
#include "jit/error.h"

namespace nibble::graph {
namespace {

// The size of every letter's dimension.
std::map<char, int64_t> letter_sizes(const OpCall& call, const Einsum& einsum) {
  std::map<char, int64_t> sizes;
  for (size_t i = 0; i < einsum.operands.size(); ++i) {
    const Shape& shape = call.in(i).shape;
    const std::string& letters = einsum.operands[i];
    if (shape.size() != letters.size()) {
      fail("An operand of shape {} has no dimensions \"{}\".", to_string(shape), letters);
    }
    for (size_t d = 0; d < shape.size(); ++d) {
      const auto [known, is_new] = sizes.emplace(letters[d], shape[d]);
      if (!is_new && known->second != shape[d]) {
        fail("The dimension '{}' has {} and {} elements.", letters[d], known->second, shape[d]);
      }
    }
  }
  return sizes;
}

// How far a step of each of `letters` goes in an operand.
Shape strides_of(const Shape& shape, const std::string& dims, const std::string& letters) {
  Shape strides(letters.size(), 0);
  int64_t stride = 1;
  for (size_t d = shape.size(); d-- > 0;) {
    const size_t at = letters.find(dims[d]);
    strides[at] += stride;  // a letter that stands twice walks along a diagonal
    stride *= shape[d];
  }
  return strides;
}

Outputs op_einsum(const OpCall& call) {
  const Einsum einsum = parse_einsum(call.node.get_string("equation", ""));
  const auto sizes = letter_sizes(call, einsum);
  std::string letters = einsum.out;
  for (const auto& [letter, size] : sizes) {
    if (einsum.out.find(letter) == std::string::npos) letters.push_back(letter);
  }
  Shape shape, dims;
  for (const char c : einsum.out) shape.push_back(sizes.at(c));
  for (const char c : letters) dims.push_back(sizes.at(c));
  std::vector<std::span<const float>> operands;
  std::vector<Shape> strides;
  for (size_t i = 0; i < einsum.operands.size(); ++i) {
    operands.push_back(call.in(i).floats());
    strides.push_back(strides_of(call.in(i).shape, einsum.operands[i], letters));
  }
  std::vector<float> out(static_cast<size_t>(array_size(shape)), 0.0F);
  if (out.empty()) return {Array::of(std::move(shape), std::move(out))};
  int64_t terms = 1;
  for (size_t d = einsum.out.size(); d < dims.size(); ++d) {
    if (__builtin_mul_overflow(terms, dims[d], &terms) || terms > kMostElements) {
      fail("Each element of the output is a sum of more than {} terms.", kMostElements);
    }
  }
  Shape index(letters.size(), 0);
  std::vector<int64_t> offsets(operands.size(), 0);
  for (float& value : out) {
    spend(terms * static_cast<int64_t>(operands.size()));
    double sum = 0;
    for (int64_t t = 0; t < terms; ++t) {
      double term = 1;
      for (size_t i = 0; i < operands.size(); ++i) {
        term *= operands[i][static_cast<size_t>(offsets[i])];
      }
      sum += term;
      for (size_t d = index.size(); d-- > 0;) {
        const bool wraps = ++index[d] == dims[d];
        for (size_t i = 0; i < offsets.size(); ++i) {
          offsets[i] += wraps ? strides[i][d] * (1 - dims[d]) : strides[i][d];
        }
        if (!wraps) break;
        index[d] = 0;
      }
    }
    value = static_cast<float>(sum);
  }
  return {Array::of(std::move(shape), std::move(out))};
}

constexpr OpEntry kEinsumOps[] = {{"", "Einsum", op_einsum}};

}  // namespace

std::span<const OpEntry> einsum_ops() { return kEinsumOps; }

}  // namespace nibble::graph
