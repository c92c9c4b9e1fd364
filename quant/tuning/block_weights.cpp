#include "quant/tuning/block_weights.h"

#include <algorithm>
#include <variant>

#include "graph/ops.h"
#include "jit/error.h"

namespace nibble::quant {
namespace {

using graph::Node;

template <typename Weights>
auto* find(Weights& weights, const Node& node) {
  const auto known = std::find_if(weights.begin(), weights.end(),
                                  [&](const auto& entry) { return entry.second.node == &node; });
  return known == weights.end() ? nullptr : &known->second;
}

}  // namespace

std::map<size_t, TunedWeight> read_tuned_weights(const graph::Graph& graph,
                                                 runtime::ThreadPool& pool, const Block& block,
                                                 const Formats& formats) {
  std::map<size_t, TunedWeight> weights;
  for (size_t i = block.first_node; i < block.end_node; ++i) {
    const Node& node = graph.nodes[i];
    if (!node.is("Linear", graph::kNibbleDomain)) continue;
    const auto format = formats.find(node.input(1));
    const auto& constant = graph.values[static_cast<size_t>(node.input(1))].constant;
    if (format == formats.end() || format->second.type == jit::WeightType::f32 ||
        !std::holds_alternative<graph::MatrixSource>(*constant)) {
      continue;
    }
    const LinearNode linear = read_linear(graph, node);
    TunedWeight& weight = weights[i];
    weight.node = &node;
    weight.format = format->second;
    weight.n = linear.n;
    weight.k = linear.k;
    weight.w.resize(static_cast<size_t>(linear.n * linear.k));
    read_weight(pool, graph, node, 0, linear.n, weight.w);
    weight.current = weight.w;
    weight.gradient.resize(weight.w.size());
  }
  if (weights.empty()) {
    fail("{}: layer {} has no weights to tune.", graph.origin, block.layer);
  }
  return weights;
}

WeightOf current_weights(const std::map<size_t, TunedWeight>& weights) {
  return [&weights](const Node& node) -> std::span<const float> {
    const TunedWeight* weight = find(weights, node);
    return weight == nullptr ? std::span<const float>{} : weight->current;
  };
}

GradientOf weight_gradients(std::map<size_t, TunedWeight>& weights) {
  return [&weights](const Node& node) -> std::span<float> {
    TunedWeight* weight = find(weights, node);
    return weight == nullptr ? std::span<float>{} : weight->gradient;
  };
}

void clear_gradients(std::map<size_t, TunedWeight>& weights) {
  for (auto& [node, weight] : weights) {
    std::fill(weight.gradient.begin(), weight.gradient.end(), 0.0F);
  }
}

}  // namespace nibble::quant
