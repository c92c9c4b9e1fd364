// Evaluates what is constant and drops what computes nothing.
#include <algorithm>
#include <limits>

#include "graph/interpreter.h"
#include "graph/ops.h"
#include "graph/passes.h"
#include "graph/probe.h"
#include "graph/rewrite.h"
#include "graph/value_kinds.h"

namespace nibble::graph {
namespace {

// Larger results stay computed at run time: folding must not copy weights.
constexpr int64_t kMaxFoldedElements = 1 << 16;

// Casts between float types compute nothing here (all floats are fp32); Identity and Dropout never
// do.
int drop_identities(Graph& graph) {
  const std::vector<ValueKind> kinds = value_kinds(graph);
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
      const ValueKind from = kinds[static_cast<size_t>(node.inputs[0])];
      identity = from == kind_of_cast(node.get_int("to", 1)) && from != ValueKind::boolean;
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

// Such a matrix stays as it is, for the packed form of its own numbers.
bool is_quantized_weight(const TensorData& tensor) {
  const DType dtype = tensor.dtype;
  return tensor.shape.size() >= 2 &&
         (dtype == DType::u8 || dtype == DType::i8 || dtype == DType::u4 || dtype == DType::i4);
}

int evaluate_constants(Graph& graph) {
  std::vector<bool> constant(graph.values.size(), false);
  for (size_t id = 0; id < graph.values.size(); ++id) {
    const TensorData* tensor = graph.tensor(static_cast<ValueId>(id));
    constant[id] = tensor != nullptr && element_count(tensor->shape) <= kMaxFoldedElements &&
                   !is_quantized_weight(*tensor);
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
    const Interpreter interpreter(graph, probe_limits(graph));
    arrays = interpreter.run({}, wanted);
  }
  for (size_t i = 0; i < wanted.size(); ++i) {
    graph.values[static_cast<size_t>(wanted[i])].constant = to_tensor(arrays[i]);
  }
  erase_nodes(graph, dead);
  return static_cast<int>(wanted.size());
}

bool all_of_tensor(const Graph& graph, ValueId id, bool (*holds)(int64_t)) {
  const TensorData* tensor = id == kNoValue ? nullptr : graph.tensor(id);
  if (tensor == nullptr || (tensor->dtype != DType::i64 && tensor->dtype != DType::i32)) {
    return false;
  }
  const std::vector<int64_t> values = to_i64(*tensor);
  return std::all_of(values.begin(), values.end(), holds);
}

// Slices from the first element to past the last that any array has are what they slice.
int drop_whole_slices(Graph& graph) {
  int changed = 0;
  for (const Node& node : graph.nodes) {
    if (!node.is("Slice") || !all_of_tensor(graph, node.input(1), [](int64_t v) { return v == 0; }))
      continue;
    if (!all_of_tensor(graph, node.input(2),
                       [](int64_t v) { return v >= std::numeric_limits<int32_t>::max(); }))
      continue;
    if (node.input(4) != kNoValue &&
        !all_of_tensor(graph, node.input(4), [](int64_t v) { return v == 1; }))
      continue;
    const ValueId out = node.outputs[0], in = node.inputs[0];
    if (std::find(graph.outputs.begin(), graph.outputs.end(), out) != graph.outputs.end()) continue;
    replace_uses(graph, out, in);
    ++changed;
  }
  if (changed > 0) eliminate_dead(graph);
  return changed;
}

}  // namespace

int fold_constants(Graph& graph) {
  const int changed = drop_identities(graph) + evaluate_constants(graph);
  return changed + drop_whole_slices(graph);
}

}  // namespace nibble::graph
