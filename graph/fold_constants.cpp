// Evaluates what is constant and drops what computes nothing.
#include <algorithm>

#include "graph/interpreter.h"
#include "graph/ops.h"
#include "graph/passes.h"
#include "graph/rewrite.h"

namespace nibble::graph {
namespace {

// Larger results stay computed at run time: folding must not copy weights.
constexpr int64_t kMaxFoldedElements = 1 << 16;

enum class Kind : uint8_t { real, integer, boolean };

Kind kind_of(DType dtype) {
  switch (dtype) {
    case DType::f32:
    case DType::f16:
    case DType::bf16:
    case DType::f64:
      return Kind::real;
    case DType::boolean:
      return Kind::boolean;
    default:
      return Kind::integer;
  }
}

// ONNX TensorProto.DataType of a Cast.
Kind kind_of_cast(int64_t to) {
  if (to == 9) return Kind::boolean;
  return to == 1 || to == 10 || to == 11 || to == 16 ? Kind::real : Kind::integer;
}

bool makes_boolean(const std::string& op) {
  static constexpr const char* kOps[] = {"Equal",          "Less",  "LessOrEqual", "Greater",
                                         "GreaterOrEqual", "And",   "Or",          "Not",
                                         "IsNaN",          "IsInf", "Xor"};
  return std::any_of(std::begin(kOps), std::end(kOps),
                     [&](const char* name) { return op == name; });
}

std::vector<Kind> value_kinds(const Graph& graph) {
  std::vector<Kind> kinds(graph.values.size(), Kind::real);
  for (size_t id = 0; id < graph.values.size(); ++id) {
    const Value& value = graph.values[id];
    kinds[id] = kind_of(value.dtype);
    if (const TensorData* tensor = graph.tensor(static_cast<ValueId>(id))) {
      kinds[id] = kind_of(tensor->dtype);
    }
  }
  for (const Node& node : graph.nodes) {
    Kind kind = Kind::real;
    if (node.domain != kNibbleDomain && !node.inputs.empty()) {
      const ValueId source = node.input(node.op == "Where" ? 1 : 0);
      if (source != kNoValue) kind = kinds[static_cast<size_t>(source)];
    }
    if (node.op == "Shape" || node.op == "Size" || node.op == "ArgMax") kind = Kind::integer;
    if (node.op == "Cast") kind = kind_of_cast(node.get_int("to", 1));
    if (node.op == "ConstantOfShape") {
      const auto value = node.attributes.find("value");
      kind = value == node.attributes.end() ? Kind::real
                                            : kind_of(std::get<TensorData>(value->second).dtype);
    }
    if (makes_boolean(node.op)) kind = Kind::boolean;
    for (ValueId output : node.outputs) {
      if (output != kNoValue) kinds[static_cast<size_t>(output)] = kind;
    }
  }
  return kinds;
}

// Casts between float types compute nothing here (all floats are fp32); Identity and Dropout never
// do.
int drop_identities(Graph& graph) {
  const std::vector<Kind> kinds = value_kinds(graph);
  std::vector<bool> dead(graph.nodes.size(), false);
  std::vector<ValueId> forward(graph.values.size());
  for (size_t id = 0; id < forward.size(); ++id) forward[id] = static_cast<ValueId>(id);
  int changed = 0;
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    Node& node = graph.nodes[i];
    for (ValueId& input : node.inputs) {
      if (input != kNoValue) input = forward[static_cast<size_t>(input)];
    }
    bool identity = node.is("Identity") || node.is("Dropout");
    if (node.is("Cast")) {
      const Kind from = kinds[static_cast<size_t>(node.inputs[0])];
      identity = from == kind_of_cast(node.get_int("to", 1)) && from != Kind::boolean;
    }
    if (node.is("Concat") && node.inputs.size() == 1) identity = true;
    const bool is_output = std::any_of(node.outputs.begin(), node.outputs.end(), [&](ValueId id) {
      return std::find(graph.outputs.begin(), graph.outputs.end(), id) != graph.outputs.end();
    });
    if (!identity || is_output) continue;
    forward[static_cast<size_t>(node.outputs[0])] = node.inputs[0];
    dead[i] = true;
    ++changed;
  }
  erase_nodes(graph, dead);
  return changed;
}

TensorData to_tensor(const Array& array) {
  if (array.kind == Array::Kind::f32) return make_f32(array.shape, *array.f);
  if (array.kind == Array::Kind::i64) return make_i64(array.shape, *array.i);
  auto bytes = std::make_shared<std::vector<uint8_t>>(array.i->begin(), array.i->end());
  TensorData tensor;
  tensor.dtype = DType::boolean;
  tensor.shape = array.shape;
  tensor.data = reinterpret_cast<const std::byte*>(bytes->data());
  tensor.bytes = bytes->size();
  tensor.owner = std::move(bytes);
  return tensor;
}

// Whether the result may be much larger than the inputs.
bool grows(const std::string& op) {
  return op == "Expand" || op == "ConstantOfShape" || op == "Tile" || op == "Range";
}

int evaluate_constants(Graph& graph) {
  std::vector<bool> constant(graph.values.size(), false);
  for (size_t id = 0; id < graph.values.size(); ++id) {
    const TensorData* tensor = graph.tensor(static_cast<ValueId>(id));
    constant[id] = tensor != nullptr && element_count(tensor->shape) <= kMaxFoldedElements;
  }
  std::vector<bool> dead(graph.nodes.size(), false);
  std::vector<ValueId> wanted;
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& node = graph.nodes[i];
    if (grows(node.op) || node.inputs.empty() || !interpreter_knows(node)) continue;
    const bool all = std::all_of(node.inputs.begin(), node.inputs.end(), [&](ValueId id) {
      return id == kNoValue || constant[static_cast<size_t>(id)];
    });
    if (!all) continue;
    dead[i] = true;
    for (ValueId output : node.outputs) {
      if (output == kNoValue) continue;
      constant[static_cast<size_t>(output)] = true;
      wanted.push_back(output);
    }
  }
  if (wanted.empty()) return 0;
  std::vector<Array> arrays;
  {
    const Interpreter interpreter(graph);
    arrays = interpreter.run({}, wanted);
  }
  for (size_t i = 0; i < wanted.size(); ++i) {
    graph.values[static_cast<size_t>(wanted[i])].constant = to_tensor(arrays[i]);
  }
  erase_nodes(graph, dead);
  return static_cast<int>(wanted.size());
}

}  // namespace

int fold_constants(Graph& graph) { return drop_identities(graph) + evaluate_constants(graph); }

}  // namespace nibble::graph
