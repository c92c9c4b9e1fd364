#include "graph/value_kinds.h"

#include <algorithm>
#include <string>

#include "graph/ops.h"

namespace nibble::graph {
namespace {

bool makes_boolean(const std::string& op) {
  static constexpr const char* kOps[] = {"Equal",          "Less",  "LessOrEqual", "Greater",
                                         "GreaterOrEqual", "And",   "Or",          "Not",
                                         "IsNaN",          "IsInf", "Xor"};
  return std::any_of(std::begin(kOps), std::end(kOps),
                     [&](const char* name) { return op == name; });
}

}  // namespace

ValueKind kind_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
    case DType::f16:
    case DType::bf16:
    case DType::f64:
      return ValueKind::real;
    case DType::boolean:
      return ValueKind::boolean;
    default:
      return ValueKind::integer;
  }
}

// ONNX TensorProto.DataType of a Cast.
ValueKind kind_of_cast(int64_t to) {
  if (to == 9) return ValueKind::boolean;
  return to == 1 || to == 10 || to == 11 || to == 16 ? ValueKind::real : ValueKind::integer;
}

std::vector<ValueKind> value_kinds(const Graph& graph) {
  std::vector<ValueKind> kinds(graph.values.size(), ValueKind::real);
  for (size_t id = 0; id < graph.values.size(); ++id) {
    const Value& value = graph.values[id];
    kinds[id] = kind_of(value.dtype);
    if (const TensorData* tensor = graph.tensor(static_cast<ValueId>(id))) {
      kinds[id] = kind_of(tensor->dtype);
    }
  }
  for (const Node& node : graph.nodes) {
    ValueKind kind = ValueKind::real;
    if (node.domain != kNibbleDomain && !node.inputs.empty()) {
      const ValueId source = node.input(node.op == "Where" ? 1 : 0);
      if (source != kNoValue) kind = kinds[static_cast<size_t>(source)];
    }
    if (node.op == "Shape" || node.op == "Size" || node.op == "ArgMax") kind = ValueKind::integer;
    if (node.op == "DequantizeLinear" || node.op == "GatherBlockQuantized") kind = ValueKind::real;
    if (node.op == "DynamicQuantizeLinear" || node.op == "MatMulInteger") kind = ValueKind::integer;
    if (node.op == "Cast") kind = kind_of_cast(node.get_int("to", 1));
    if (node.op == "ConstantOfShape") {
      const auto found = node.attributes.find("value");
      const auto* value =
          found == node.attributes.end() ? nullptr : std::get_if<TensorData>(&found->second);
      kind = value == nullptr ? ValueKind::real : kind_of(value->dtype);
    }
    if (makes_boolean(node.op)) kind = ValueKind::boolean;
    for (ValueId output : node.outputs) {
      if (output != kNoValue) kinds[static_cast<size_t>(output)] = kind;
    }
    if (node.op == "DynamicQuantizeLinear" && node.outputs.size() > 1 &&
        node.outputs[1] != kNoValue) {
      kinds[static_cast<size_t>(node.outputs[1])] = ValueKind::real;  // its scale
    }
  }
  return kinds;
}

}  // namespace nibble::graph
