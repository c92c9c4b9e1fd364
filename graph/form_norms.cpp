// RMSNorm and LayerNorm in the spellings that exporters write: the chain of Pow, ReduceMean, Add,
// Sqrt, Div or Reciprocal, Mul; and ONNX LayerNormalization.
#include <algorithm>

#include "graph/ops.h"
#include "graph/passes.h"
#include "graph/rewrite.h"

namespace nibble::graph {
namespace {

struct Match {
  ValueId x = kNoValue, weight = kNoValue, bias = kNoValue, out = kNoValue;
  float epsilon = 0;
  bool centred = false;    // LayerNorm
  int64_t unit_width = 0;  // of factors that are all 1, in place of `weight`
};

bool is_vector_constant(const Graph& graph, ValueId id) {
  const TensorData* tensor = id == kNoValue ? nullptr : graph.tensor(id);
  return tensor != nullptr && !tensor->shape.empty() && tensor->shape.back() > 1 &&
         element_count(tensor->shape) == tensor->shape.back();
}

// The last dimension of factors that differ from head to head, [heads, head_dim] or [heads, 1,
// head_dim]; 0: it is none. They stay a Mul behind a norm without factors.
int64_t width_of_heads(const Graph& graph, ValueId id) {
  const TensorData* tensor = id == kNoValue ? nullptr : graph.tensor(id);
  if (tensor == nullptr || tensor->shape.size() < 2 || tensor->shape.back() <= 1) return 0;
  return element_count(tensor->shape) == tensor->shape.back() ? 0 : tensor->shape.back();
}

bool over_last_axis(const Graph& graph, const Node& reduce) {
  std::vector<int64_t> axes = reduce.get_ints("axes", {});
  if (axes.empty() && reduce.input(1) != kNoValue) {
    const TensorData* tensor = graph.tensor(reduce.inputs[1]);
    if (tensor != nullptr) axes = to_i64(*tensor);
  }
  return axes == std::vector<int64_t>{-1} && reduce.get_int("keepdims", 1) == 1;
}

// The single consumer with this op, or null.
const Node* next(const Graph& graph, const Links& links, ValueId id, std::string_view op) {
  if (links.consumers(id).size() != 1) return nullptr;
  const Node& node = graph.nodes[static_cast<size_t>(links.consumers(id)[0])];
  return node.is(op) ? &node : nullptr;
}

ValueId other_input(const Node& node, ValueId id) {
  return node.inputs[0] == id ? node.inputs[1] : node.inputs[0];
}

// x when `id` is x squared.
ValueId square_of(const Graph& graph, const Links& links, ValueId id) {
  const Node* node = links.producer(id);
  if (node == nullptr) return kNoValue;
  if (node->is("Pow") && scalar_constant(graph, node->inputs[1]) == 2.0F) return node->inputs[0];
  if (node->is("Mul") && node->inputs[0] == node->inputs[1]) return node->inputs[0];
  return kNoValue;
}

// From the mean of squares of `x`: Add eps, Sqrt, then 1/r * x, x / r, or x * Reciprocal(r).
// Returns the normalised value.
std::optional<std::pair<ValueId, float>> normalised(const Graph& graph, const Links& links,
                                                    ValueId mean_square, ValueId x) {
  const Node* add = next(graph, links, mean_square, "Add");
  if (add == nullptr) return std::nullopt;
  const auto epsilon = scalar_constant(graph, other_input(*add, mean_square));
  const Node* root = next(graph, links, add->outputs[0], "Sqrt");
  if (!epsilon || root == nullptr) return std::nullopt;
  const ValueId r = root->outputs[0];
  if (const Node* div = next(graph, links, r, "Div")) {
    if (div->inputs[0] == x && div->inputs[1] == r) return {{div->outputs[0], *epsilon}};
    if (scalar_constant(graph, div->inputs[0]) != 1.0F) return std::nullopt;
    const Node* mul = next(graph, links, div->outputs[0], "Mul");
    if (mul == nullptr || other_input(*mul, div->outputs[0]) != x) return std::nullopt;
    return {{mul->outputs[0], *epsilon}};
  }
  const Node* inverse = next(graph, links, r, "Reciprocal");
  if (inverse == nullptr) return std::nullopt;
  const Node* mul = next(graph, links, inverse->outputs[0], "Mul");
  if (mul == nullptr || other_input(*mul, inverse->outputs[0]) != x) return std::nullopt;
  return {{mul->outputs[0], *epsilon}};
}

std::optional<Match> match_chain(const Graph& graph, const Links& links, const Node& reduce) {
  if (!reduce.is("ReduceMean") || !over_last_axis(graph, reduce)) return std::nullopt;
  Match match;
  ValueId x = square_of(graph, links, reduce.inputs[0]);
  if (x == kNoValue) return std::nullopt;
  auto result = normalised(graph, links, reduce.outputs[0], x);
  if (!result) return std::nullopt;
  match.x = x;
  match.epsilon = result->second;
  // LayerNorm normalises x - mean(x).
  const Node* centre = links.producer(x);
  if (centre != nullptr && centre->is("Sub")) {
    const Node* mean = links.producer(centre->inputs[1]);
    if (mean != nullptr && mean->is("ReduceMean") && mean->inputs[0] == centre->inputs[0] &&
        over_last_axis(graph, *mean)) {
      match.centred = true;
      match.x = centre->inputs[0];
    }
  }
  const Node* scale = next(graph, links, result->first, "Mul");
  if (scale == nullptr) return std::nullopt;
  match.weight = other_input(*scale, result->first);
  if (const int64_t width = width_of_heads(graph, match.weight); width > 0) {
    match.out = result->first;
    match.unit_width = width;
    return match;
  }
  if (!is_vector_constant(graph, match.weight)) return std::nullopt;
  match.out = scale->outputs[0];
  if (!match.centred) return match;
  const Node* shift = next(graph, links, match.out, "Add");
  if (shift != nullptr && is_vector_constant(graph, other_input(*shift, match.out))) {
    match.bias = other_input(*shift, match.out);
    match.out = shift->outputs[0];
  }
  return match;
}

// com.microsoft and opset 23 forms keep the weight as input 1.
std::optional<Match> match_operator(const Graph& graph, const Node& node) {
  const bool layer = node.is("LayerNormalization");
  const bool rms = node.is("SimplifiedLayerNormalization") || node.is("RMSNormalization");
  if ((!layer && !rms) || node.get_int("axis", -1) != -1) return std::nullopt;
  if (!is_vector_constant(graph, node.input(1))) return std::nullopt;
  if (layer && node.input(2) != kNoValue && !is_vector_constant(graph, node.input(2))) {
    return std::nullopt;
  }
  Match match;
  match.x = node.inputs[0];
  match.weight = node.inputs[1];
  match.bias = layer ? node.input(2) : kNoValue;
  match.epsilon = node.get_float("epsilon", 1e-5F);
  match.out = node.outputs[0];
  match.centred = layer;
  return match;
}

}  // namespace

int form_norms(Graph& graph) {
  const Links links(graph);
  std::vector<std::pair<size_t, Match>> matches;
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& node = graph.nodes[i];
    auto match = match_operator(graph, node);
    if (!match) match = match_chain(graph, links, node);
    if (match) matches.emplace_back(i, *match);
  }
  for (const auto& [index, match] : matches) {
    const auto maker = static_cast<size_t>(links.producer_index(match.out));
    Node& node = graph.nodes[maker];
    node.op = match.centred ? "LayerNorm" : "RMSNorm";
    node.domain = kNibbleDomain;
    node.inputs = {match.x, match.weight};
    const std::string name = node.name;
    if (match.unit_width > 0) {
      const std::vector<float> ones(static_cast<size_t>(match.unit_width), 1.0F);
      const ValueId unit = graph.add_constant(name + "/unit", make_f32({match.unit_width}, ones));
      graph.nodes[maker].inputs[1] = unit;
    }
    if (match.centred && match.bias != kNoValue) node.inputs.push_back(match.bias);
    node.outputs = {match.out};
    node.attributes = {{"epsilon", match.epsilon}};
  }
  if (!matches.empty()) eliminate_dead(graph);
  return static_cast<int>(matches.size());
}

}  // namespace nibble::graph
