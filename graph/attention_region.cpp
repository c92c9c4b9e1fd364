#include "graph/attention_region.h"

#include <algorithm>

#include "graph/attention_norms.h"
#include "graph/ops.h"
#include "graph/probe.h"
#include "graph/rewrite.h"

namespace nibble::graph {
namespace {

bool moves_data(const Node& node) {
  return node.domain.empty() &&
         (node.op == "Transpose" || node.op == "Reshape" || node.op == "Squeeze" ||
          node.op == "Unsqueeze" || node.op == "Cast");
}

// Values that depend on activations or cached data (not on shapes, masks and positions alone).
std::vector<bool> data_values(const Graph& graph) {
  std::vector<bool> data(graph.values.size(), false);
  for (const LayerCache& layer : graph.io.layers) {
    for (ValueId id : {layer.past_key, layer.past_value}) {
      if (id != kNoValue) data[static_cast<size_t>(id)] = true;
    }
  }
  for (const Node& node : graph.nodes) {
    bool any = node.domain == kNibbleDomain;
    for (ValueId input : node.inputs)
      any = any || (input != kNoValue && data[static_cast<size_t>(input)]);
    if (node.op == "Shape") any = false;
    for (ValueId output : node.outputs) {
      if (output != kNoValue) data[static_cast<size_t>(output)] = any;
    }
  }
  return data;
}

}  // namespace

struct RegionFinder::Impl {
  explicit Impl(const Graph& graph)
      : graph_(graph),
        links_(graph),
        data_(data_values(graph)),
        widths_(hidden_widths(graph)),
        norms_(find_head_norms(graph)),
        clips_(find_clips(graph)) {
    for (int64_t width : widths_) hidden_.push_back(width > 0);
    hidden_or_shape_ = hidden_;
    for (const Node& node : graph.nodes) {
      if (node.is("Shape")) hidden_or_shape_[static_cast<size_t>(node.outputs[0])] = true;
    }
    for (size_t i = 0; i < graph.nodes.size(); ++i) {
      if (!norms_[i] && !clips_[i]) continue;
      hidden_or_shape_[static_cast<size_t>(graph.nodes[i].outputs[0])] = false;
    }
  }

  // `number`: of the layer, where no cache tells.
  AttentionRegion around(int32_t softmax, int64_t number) const {
    AttentionRegion region;
    const Node& node = graph_.nodes[static_cast<size_t>(softmax)];
    region.scores = node.inputs[0];
    const Node& products = products_above(region.scores);
    region.products = products.outputs[0];
    region.q = products.inputs[0];
    region.k = products.inputs[1];
    const Node& mix = mix_below(node.outputs[0]);
    region.v = mix.inputs[1];
    region.out = output_below(mix.outputs[0], region.chain);
    if (is_prefix_form(graph_)) region.layer = number;
    add_slice(region);
    add_norms(region);
    return region;
  }

  // The matmul of Q and K that leads to the scores.
  const Node& products_above(ValueId scores) const {
    ValueId at = scores;
    for (;;) {
      const Node* node = links_.producer(at);
      if (node == nullptr) throw NotAttention("no product of Q and K leads to the softmax");
      if (node->is("MatMul") || is_swapped_product(*node)) return *node;
      ValueId next = kNoValue;
      for (ValueId input : node->inputs) {
        if (input == kNoValue || !data_[static_cast<size_t>(input)]) continue;
        if (next != kNoValue && next != input) {
          throw NotAttention("node '" + node->name + "' (" + node->op +
                             ") mixes two activations on the way to the softmax");
        }
        next = input;
      }
      if (next == kNoValue) throw NotAttention("the softmax does not depend on activations");
      at = next;
    }
  }

  // The matmul of the probabilities and V.
  const Node& mix_below(ValueId probabilities) const {
    ValueId at = probabilities;
    for (;;) {
      const Node* next = nullptr;
      for (int32_t user : links_.consumers(at)) {
        const Node& node = graph_.nodes[static_cast<size_t>(user)];
        if ((node.is("MatMul") || is_swapped_product(node)) && node.inputs[0] == at) return node;
        if (node.is("IsNaN") || node.is("Shape")) continue;
        if (next != nullptr) throw NotAttention("the probabilities have several users");
        next = &node;
      }
      if (next == nullptr || !(next->is("Where") || moves_data(*next))) {
        throw NotAttention("the probabilities do not multiply V");
      }
      at = next->outputs[0];
    }
  }

  // The one node that uses the data of a value (Shape uses none).
  const Node& only_user(ValueId id) const {
    const Node* user = nullptr;
    for (int32_t index : links_.consumers(id)) {
      const Node& node = graph_.nodes[static_cast<size_t>(index)];
      if (node.is("Shape")) continue;
      if (user != nullptr) throw NotAttention("attention's output has several users");
      user = &node;
    }
    if (user == nullptr) throw NotAttention("attention's output has no user");
    return *user;
  }

  // The value that the output projection multiplies; `chain` gets the values on the way to it.
  ValueId output_below(ValueId mixed, std::vector<ValueId>& chain) const {
    ValueId at = mixed;
    for (;;) {
      chain.push_back(at);
      const Node& node = only_user(at);
      if (node.is("Linear", kNibbleDomain)) return at;
      if (!moves_data(node)) {
        throw NotAttention("node '" + node.name + "' (" + node.op +
                           ") stands before the output projection");
      }
      at = node.outputs[0];
    }
  }

  void add_slice(AttentionRegion& region) const {
    std::vector<bool> stop = fused_values(graph_);
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      if (norms_[i] || clips_[i]) stop[static_cast<size_t>(graph_.nodes[i].outputs[0])] = false;
    }
    const ValueId wanted[] = {region.out};
    const Slice slice = backward_slice(graph_, wanted, stop);
    region.nodes = slice.nodes;
    for (ValueId id : slice.frontier) {
      const Node* maker = links_.producer(id);
      if (!maker->is("Linear", kNibbleDomain)) {
        throw NotAttention("the region reaches node '" + maker->name + "' (" + maker->op +
                           "), which is no projection");
      }
      check_projection(*maker, region);
      region.projections.push_back(id);
      region.widths.push_back(widths_[static_cast<size_t>(id)]);
    }
    if (region.projections.empty() || region.projections.size() > 3) {
      throw NotAttention("Q, K and V come from " + std::to_string(region.projections.size()) +
                         " projections, expected 1 to 3");
    }
    if (is_prefix_form(graph_)) return;
    // Masks may take the number of cached positions from another layer's cache; V decides.
    for (size_t l = 0; l < graph_.io.layers.size(); ++l) {
      if (reaches(region.v, graph_.io.layers[l].past_value)) region.layer = static_cast<int64_t>(l);
    }
    if (region.layer < 0) throw NotAttention("no cached values are part of it");
  }

  // Projections can be merged when they multiply the same value and have no epilogue yet.
  void check_projection(const Node& linear, const AttentionRegion& region) const {
    const auto& weight = graph_.values[static_cast<size_t>(linear.inputs[1])].constant;
    if (!weight || !std::holds_alternative<MatrixSource>(*weight)) {
      throw NotAttention("the weight of projection '" + linear.name + "' is packed already");
    }
    if (linear.has("activation") || linear.input(3) != kNoValue) {
      throw NotAttention("projection '" + linear.name + "' already has an epilogue");
    }
    if (widths_[static_cast<size_t>(linear.outputs[0])] == 0) {
      throw NotAttention("projection '" + linear.name + "' does not multiply a hidden state");
    }
    if (region.projections.empty()) return;
    const Node* first = links_.producer(region.projections[0]);
    if (linear.inputs[0] != first->inputs[0]) {
      throw NotAttention("Q, K and V are projections of different values");
    }
  }

  // The norms between projections and an operand.
  std::vector<int32_t> norms_above(ValueId operand) const {
    const ValueId wanted[] = {operand};
    std::vector<int32_t> found;
    for (int32_t index : backward_slice(graph_, wanted, hidden_or_shape_).nodes) {
      if (norms_[static_cast<size_t>(index)]) found.push_back(index);
    }
    return found;
  }

  void add_norms(AttentionRegion& region) const {
    region.q_norms = norms_above(region.q);
    region.k_norms = norms_above(region.k);
    if (region.q_norms.empty() != region.k_norms.empty()) {
      throw NotAttention("only one of Q and K has a norm");
    }
    if (!norms_above(region.v).empty()) throw NotAttention("V has a norm");
  }

  // Whether `from` depends on a graph input other than through hidden states.
  bool reaches(ValueId from, ValueId input) const {
    const ValueId wanted[] = {from};
    const Slice slice = backward_slice(graph_, wanted, hidden_);
    return std::binary_search(slice.graph_inputs.begin(), slice.graph_inputs.end(), input);
  }

  const Graph& graph_;
  Links links_;
  std::vector<bool> data_;
  std::vector<int64_t> widths_;
  std::vector<bool> norms_, clips_;  // by node (attention_norms.h)
  std::vector<bool> hidden_, hidden_or_shape_;
};

RegionFinder::RegionFinder(const Graph& graph) : impl_(std::make_unique<Impl>(graph)) {}
RegionFinder::~RegionFinder() = default;

AttentionRegion RegionFinder::around(int32_t softmax, int64_t number) const {
  return impl_->around(softmax, number);
}

}  // namespace nibble::graph
