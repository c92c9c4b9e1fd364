// Whether each value of a graph is real, integer or boolean, as far as operators tell.
#pragma once

#include <cstdint>
#include <vector>

#include "graph/graph.h"

namespace nibble::graph {

enum class ValueKind : uint8_t { real, integer, boolean };

ValueKind kind_of(DType dtype);
ValueKind kind_of_cast(int64_t to);  // to: an ONNX TensorProto.DataType
std::vector<ValueKind> value_kinds(const Graph& graph);

}  // namespace nibble::graph
