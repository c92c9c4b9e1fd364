// Inside the interpreter: what the implementation of one operator sees, and the tables of operators
// by topic. Implementations are free functions from a call to its outputs; their errors are
// sentences about the operands, and the interpreter puts the node's name in front. For
// graph/interpreter*.cpp alone.
#pragma once

#include <cstdint>
#include <memory>
#include <span>
#include <string_view>
#include <utility>
#include <vector>

#include "graph/graph.h"
#include "graph/interpreter.h"

namespace nibble::graph {

// Weight matrices as fp32 in the order [k][n], made once for each constant and kept.
class MatrixCache {
 public:
  virtual ~MatrixCache() = default;
  virtual std::shared_ptr<const std::vector<float>> k_major(ValueId id) = 0;
};

struct OpCall {
  const Node& node;
  const Graph& graph;
  std::vector<const Array*> inputs;  // null: absent, or a weight matrix
  MatrixCache& matrices;

  // Input i, which must be there and be a tensor.
  const Array& in(size_t i) const;
  const Array* optional(size_t i) const { return i < inputs.size() ? inputs[i] : nullptr; }
  // The constant behind input i, or null.
  const Constant* constant(size_t i) const;
};

using Outputs = std::vector<Array>;
using OpFunction = Outputs (*)(const OpCall&);
struct OpEntry {
  std::string_view domain, name;
  OpFunction function;
};

std::span<const OpEntry> elementwise_ops();
std::span<const OpEntry> shape_ops();
std::span<const OpEntry> gather_ops();
std::span<const OpEntry> reduce_ops();
std::span<const OpEntry> matmul_ops();
std::span<const OpEntry> einsum_ops();
std::span<const OpEntry> nibble_ops();
std::span<const OpEntry> quantized_ops();
std::span<const OpEntry> contrib_ops();
std::span<const OpEntry> standard_attention_ops();

// The most elements an array may have; past it a shape is taken for an error of the model.
inline constexpr int64_t kMostElements = int64_t{1} << 31;
// element_count with that limit, for an array that is about to be made: it counts against the
// limits of the interpreter that runs on this thread. `element`: its bytes.
int64_t array_size(const Shape& shape, size_t element = sizeof(float));
// Counts work that array_size does not see: products that are added up.
void spend(int64_t work);

// Bytes of an element of x.
inline size_t element_bytes(const Array& x) {
  return x.kind == Array::Kind::f32 ? sizeof(float) : sizeof(int64_t);
}

// The same elements under another shape.
Array reshaped(const Array& x, Shape shape);
// An array of x's kind.
Array like(const Array& x, Shape shape, std::vector<float> values);
Array like(const Array& x, Shape shape, std::vector<int64_t> values);

// Calls visit with the elements as std::vector<float> or std::vector<int64_t>.
template <typename Visit>
auto with_elements(const Array& x, const Visit& visit) {
  return x.kind == Array::Kind::f32 ? visit(*x.f) : visit(*x.i);
}

// The one integer of an input.
int64_t one_int(const Array& x);
// Axes from input `index` when the call has it, else from the attribute "axes"; empty when neither
// is there.
std::vector<int64_t> axes_of(const OpCall& call, size_t index);

// c[m][n] = a[m][k] * b[k][n], each sum in ascending k.
void multiply(const float* a, const float* b, float* c, int64_t m, int64_t k, int64_t n);

}  // namespace nibble::graph
