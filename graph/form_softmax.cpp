// A softmax in pieces, as onnxruntime writes one where it has no kernel for the type: exponentials
// of differences from the largest, over their sum. It becomes Softmax.
#include <algorithm>
#include <optional>

#include "graph/passes.h"
#include "graph/rewrite.h"

namespace nibble::graph {
namespace {

// Whether a node reduces the last dimension alone and keeps it.
bool reduces_last(const Graph& graph, const Node* node, const char* op) {
  if (node == nullptr || !node->is(op) || node->get_int("keepdims", 1) == 0) return false;
  std::vector<int64_t> axes = node->get_ints("axes", {});
  if (node->input(1) != kNoValue) {
    const TensorData* tensor = graph.tensor(node->inputs[1]);
    if (tensor == nullptr || (tensor->dtype != DType::i64 && tensor->dtype != DType::i32)) {
      return false;
    }
    axes = to_i64(*tensor);
  }
  return axes == std::vector<int64_t>{-1};
}

// What `quotient` is the softmax of; kNoValue when it is of nothing.
ValueId softmax_of(const Graph& graph, const Links& links, const Node& quotient) {
  if (!quotient.is("Div")) return kNoValue;
  const Node* exponentials = links.producer(quotient.inputs[0]);
  const Node* sum = links.producer(quotient.inputs[1]);
  if (exponentials == nullptr || !exponentials->is("Exp") ||
      !reduces_last(graph, sum, "ReduceSum") || sum->inputs[0] != quotient.inputs[0]) {
    return kNoValue;
  }
  const Node* difference = links.producer(exponentials->inputs[0]);
  if (difference == nullptr || !difference->is("Sub")) return kNoValue;
  const Node* largest = links.producer(difference->inputs[1]);
  const bool whole =
      reduces_last(graph, largest, "ReduceMax") && largest->inputs[0] == difference->inputs[0];
  return whole ? difference->inputs[0] : kNoValue;
}

}  // namespace

int form_softmax(Graph& graph) {
  const Links links(graph);
  int changed = 0;
  for (Node& node : graph.nodes) {
    const ValueId x = softmax_of(graph, links, node);
    if (x == kNoValue) continue;
    node.op = "Softmax";
    node.inputs = {x};
    node.attributes = {{"axis", int64_t{-1}}};
    ++changed;
  }
  if (changed > 0) eliminate_dead(graph);
  return changed;
}

}  // namespace nibble::graph
