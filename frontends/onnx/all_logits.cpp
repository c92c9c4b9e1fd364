#include "frontends/onnx/all_logits.h"

#include <algorithm>
#include <limits>
#include <optional>
#include <string>
#include <vector>

#include "graph/rewrite.h"

namespace nibble::frontends::onnx {
namespace {

using graph::DType;
using graph::Graph;
using graph::Node;
using graph::ValueId;

// The one number of a constant list or scalar of integers.
std::optional<int64_t> number(const Graph& graph, ValueId id) {
  const graph::TensorData* tensor = id == graph::kNoValue ? nullptr : graph.tensor(id);
  if (tensor == nullptr || (tensor->dtype != DType::i64 && tensor->dtype != DType::i32) ||
      graph::element_count(tensor->shape) != 1) {
    return std::nullopt;
  }
  return graph::to_i64(*tensor).front();
}

// x[:, -1:] of [batch, tokens, width].
bool takes_last_token(const Graph& graph, const Node& node) {
  if (!node.is("Slice") || number(graph, node.input(1)) != -1) return false;
  const auto end = number(graph, node.input(2)), axis = number(graph, node.input(3));
  if (!end || *end < std::numeric_limits<int32_t>::max() || !axis) return false;
  if (node.input(4) != graph::kNoValue && number(graph, node.input(4)) != 1) return false;
  return *axis == 1 || *axis == -2;
}

// The value whose rows a node works on one by one; kNoValue when there is none such.
ValueId rows_of(const Graph& graph, const Node& node) {
  static constexpr const char* kRowWise[] = {"MatMul",
                                             "MatMulNBits",
                                             "Add",
                                             "Sub",
                                             "Mul",
                                             "Div",
                                             "Tanh",
                                             "Cast",
                                             "Gelu",
                                             "LayerNormalization",
                                             "RMSNormalization",
                                             "SimplifiedLayerNormalization"};
  if (std::none_of(std::begin(kRowWise), std::end(kRowWise),
                   [&](const char* op) { return node.op == op; })) {
    return graph::kNoValue;
  }
  ValueId rows = graph::kNoValue;
  for (const ValueId input : node.inputs) {
    if (input == graph::kNoValue || graph.values[static_cast<size_t>(input)].constant) continue;
    if (rows != graph::kNoValue) return graph::kNoValue;  // of several computed values
    rows = input;
  }
  return rows == node.input(0) || node.op != "MatMul" ? rows : graph::kNoValue;
}

}  // namespace

void keep_all_logits(Graph& graph) {
  std::erase_if(graph.inputs, [&](ValueId id) {
    graph::Value& value = graph.values[static_cast<size_t>(id)];
    if (value.name != "num_logits_to_keep" && value.name != "logits_to_keep") return false;
    const graph::Shape shape = value.shape.value_or(graph::Shape{});
    const bool one = shape.empty() || shape == graph::Shape{1};
    if (!one || (value.dtype != DType::i64 && value.dtype != DType::i32)) return false;
    value.constant = graph::make_i64(shape, {0});
    value.dtype = DType::i64;
    return true;
  });
}

void drop_last_token_slice(Graph& graph) {
  const graph::Links links(graph);
  std::vector<ValueId> way;
  for (ValueId at = graph.io.logits; at != graph::kNoValue;) {
    const Node* maker = links.producer(at);
    if (maker == nullptr) return;
    if (takes_last_token(graph, *maker)) {
      const ValueId whole = maker->inputs[0], last = maker->outputs[0];
      if (!links.single_use(last)) return;
      graph::replace_uses(graph, last, whole);
      // What is declared of their shapes holds for one token.
      for (const ValueId id : way) graph.values[static_cast<size_t>(id)].shape.reset();
      const std::vector<int32_t> made_by = graph::producers(graph);
      std::vector<bool> dead(graph.nodes.size(), false);
      dead[static_cast<size_t>(made_by[static_cast<size_t>(last)])] = true;
      graph::erase_nodes(graph, dead);
      return;
    }
    if (at != graph.io.logits && !links.single_use(at)) return;
    way.push_back(at);
    at = rows_of(graph, *maker);
  }
}

}  // namespace nibble::frontends::onnx
