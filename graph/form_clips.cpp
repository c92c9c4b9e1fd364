// Clip(x, -c, c), or Min and Max with c and -c in either order, of floats -> nibble Clip.
#include <cmath>

#include "graph/ops.h"
#include "graph/passes.h"
#include "graph/rewrite.h"

namespace nibble::graph {
namespace {

// The number of a constant that is a float.
std::optional<float> real_constant(const Graph& graph, ValueId id) {
  const TensorData* tensor = id == kNoValue ? nullptr : graph.tensor(id);
  const bool real =
      tensor != nullptr &&
      (tensor->dtype == DType::f32 || tensor->dtype == DType::f16 || tensor->dtype == DType::bf16);
  return real ? scalar_constant(graph, id) : std::nullopt;
}

struct Bound {
  ValueId x = kNoValue;
  float value = 0;
};

// The computed and the constant operand of a Min or Max.
std::optional<Bound> bound_of(const Graph& graph, const Node* node, const char* op) {
  if (node == nullptr || !node->is(op) || node->inputs.size() != 2) return std::nullopt;
  for (size_t i = 0; i < 2; ++i) {
    if (const auto value = real_constant(graph, node->inputs[i])) {
      return Bound{node->inputs[1 - i], *value};
    }
  }
  return std::nullopt;
}

std::optional<Bound> symmetric(ValueId x, float low, float high) {
  if (!(high > 0) || !std::isfinite(high) || low != -high) return std::nullopt;
  return Bound{x, high};
}

std::optional<Bound> clip_of(const Graph& graph, const Links& links, const Node& node) {
  if (node.is("Clip") && node.input(1) != kNoValue && node.input(2) != kNoValue) {
    const auto low = real_constant(graph, node.inputs[1]);
    const auto high = real_constant(graph, node.inputs[2]);
    return low && high ? symmetric(node.inputs[0], *low, *high) : std::nullopt;
  }
  for (const bool max_last : {true, false}) {
    const auto outer = bound_of(graph, &node, max_last ? "Max" : "Min");
    if (!outer || !links.single_use(outer->x)) continue;
    const auto inner = bound_of(graph, links.producer(outer->x), max_last ? "Min" : "Max");
    if (!inner) continue;
    return max_last ? symmetric(inner->x, outer->value, inner->value)
                    : symmetric(inner->x, inner->value, outer->value);
  }
  return std::nullopt;
}

}  // namespace

int form_clips(Graph& graph) {
  const Links links(graph);
  int changes = 0;
  for (Node& node : graph.nodes) {
    const auto clip = clip_of(graph, links, node);
    if (!clip) continue;
    node.op = "Clip";
    node.domain = kNibbleDomain;
    node.inputs = {clip->x};
    node.attributes = {{"limit", clip->value}};
    ++changes;
  }
  if (changes > 0) eliminate_dead(graph);
  return changes;
}

}  // namespace nibble::graph
