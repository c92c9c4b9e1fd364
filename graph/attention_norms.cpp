#include "graph/attention_norms.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <unordered_map>

#include "graph/ops.h"
#include "graph/probe.h"
#include "graph/rewrite.h"

namespace nibble::graph {
namespace {

bool is_clip(const Node& node) { return node.is("Clip", kNibbleDomain); }

// What may use a projection that is cut into heads.
bool cuts_heads(const Node& node) {
  static constexpr std::string_view kOps[] = {"Reshape",   "Transpose", "Shape",
                                              "Unsqueeze", "Split",     "Slice"};
  return is_clip(node) || (node.domain.empty() &&
                           std::find(std::begin(kOps), std::end(kOps), node.op) != std::end(kOps));
}

bool is_projection(const Links& links, ValueId id) {
  const Node* maker = links.producer(id);
  if (maker != nullptr && is_clip(*maker)) maker = links.producer(maker->inputs[0]);
  return maker != nullptr && maker->is("Linear", kNibbleDomain);
}

bool is_head_norm(const Graph& graph, const Links& links, const std::vector<int64_t>& widths,
                  const Node& node) {
  if (!is_norm(node) || node.input(node.op == "LayerNorm" ? 3 : 2) != kNoValue) return false;
  if (widths[static_cast<size_t>(node.outputs[0])] == 0) return true;
  const auto& users = links.consumers(node.outputs[0]);
  return is_projection(links, node.inputs[0]) &&
         std::all_of(users.begin(), users.end(), [&](int32_t user) {
           return cuts_heads(graph.nodes[static_cast<size_t>(user)]);
         });
}

void pass_through(Graph& graph, const std::vector<bool>& nodes) {
  for (size_t i = 0; i < nodes.size(); ++i) {
    if (!nodes[i]) continue;
    Node& node = graph.nodes[i];
    node = Node{"Identity", "", node.name, {node.inputs[0]}, {node.outputs[0]}, {}};
  }
}

// The graph in which norms of heads only multiply and add.
Graph with_affine_norms(const Graph& graph) {
  const std::vector<bool> norms = find_head_norms(graph);
  Graph affine = graph;
  for (size_t i = 0; i < norms.size(); ++i) {
    if (!norms[i]) continue;
    const Node norm = affine.nodes[i];
    Node multiply{"Mul", "", norm.name, {norm.inputs[0], norm.inputs[1]}, norm.outputs, {}};
    if (norm.op == "LayerNorm" && norm.input(2) != kNoValue) {
      multiply.outputs = {affine.add_value(norm.name + "/scaled")};
      affine.nodes.push_back(
          {"Add", "", norm.name, {multiply.outputs[0], norm.inputs[2]}, {norm.outputs[0]}, {}});
    }
    affine.nodes[i] = std::move(multiply);
  }
  pass_through(affine, find_clips(graph));
  sort_nodes(affine);
  return affine;
}

int64_t length_of_norm(const Graph& graph, const Node& norm) {
  const TensorData* weight = graph.tensor(norm.inputs[1]);
  if (weight == nullptr) throw NotAttention("the factors of a norm of heads are computed");
  return element_count(weight->shape);
}

// One answer for all norms of Q and K.
class NormReader {
 public:
  NormReader(const Graph& graph, const AttentionRegion& region, const AttentionMeaning& meaning)
      : graph_(graph), region_(region), meaning_(meaning) {}

  HeadNorms read() const {
    HeadNorms norms;
    const Node& first = node(region_.q_norms[0]);
    norms.centre = first.op == "LayerNorm";
    norms.epsilon = first.get_float("epsilon");
    norms.whole = length_of_norm(graph_, first) != meaning_.head_dim;
    expect(region_.q_norms, first, norms.whole ? meaning_.heads : 1);
    expect(region_.k_norms, first, norms.whole ? meaning_.kv_heads : 1);
    const bool one_each = region_.q_norms.size() == 1 && region_.k_norms.size() == 1;
    if (one_each && !norms.centre && !norms.whole && meaning_.uniform) {
      norms.q_shared = first.inputs[1];
      norms.k_shared = node(region_.k_norms[0]).inputs[1];
    }
    return norms;
  }

 private:
  const Node& node(int32_t index) const { return graph_.nodes[static_cast<size_t>(index)]; }

  void expect(const std::vector<int32_t>& norms, const Node& first, int64_t heads) const {
    for (const int32_t index : norms) {
      const Node& norm = node(index);
      if (norm.op != first.op || norm.get_float("epsilon") != first.get_float("epsilon")) {
        throw NotAttention("the norms of Q and K are of different kinds or epsilons");
      }
      const int64_t found = length_of_norm(graph_, norm), wanted = heads * meaning_.head_dim;
      if (found == wanted) continue;
      throw NotAttention(
          fmt::format("a norm of {} dimensions stands where Q or K has {} heads of {}", found,
                      heads, meaning_.head_dim));
    }
  }

  const Graph& graph_;
  const AttentionRegion& region_;
  const AttentionMeaning& meaning_;
};

// Factors and what is added, of the columns of heads: from an operand for projections of 0 and of
// 1. `all` are the columns of the operand's elements.
struct Affine {
  std::vector<float> weight, bias;
};

Affine affine_of(const Array& zeros, const Array& ones, const std::vector<int64_t>& all,
                 const std::vector<int64_t>& columns, double factor) {
  std::unordered_map<int64_t, size_t> element;
  for (size_t i = 0; i < all.size(); ++i) element.emplace(all[i], i);
  Affine found;
  for (const int64_t column : columns) {
    const size_t i = element.at(column);
    const double at_zero = zeros.floats()[i], at_one = ones.floats()[i];
    found.weight.push_back(static_cast<float>((at_one - at_zero) / factor));
    found.bias.push_back(static_cast<float>(at_zero / factor));
  }
  const bool biased =
      std::any_of(found.bias.begin(), found.bias.end(), [](float value) { return value != 0; });
  if (!biased) found.bias.clear();
  return found;
}

}  // namespace

std::vector<bool> find_head_norms(const Graph& graph) {
  const Links links(graph);
  const std::vector<int64_t> widths = hidden_widths(graph);
  std::vector<bool> found;
  for (const Node& node : graph.nodes) found.push_back(is_head_norm(graph, links, widths, node));
  return found;
}

std::vector<bool> find_clips(const Graph& graph) {
  std::vector<bool> found;
  for (const Node& node : graph.nodes) found.push_back(is_clip(node));
  return found;
}

Graph without_head_norms(const Graph& graph) {
  Graph plain = graph;
  pass_through(plain, find_head_norms(graph));
  pass_through(plain, find_clips(graph));
  return plain;
}

void find_norms(const ProbeGraphs& probes, const AttentionRegion& region,
                AttentionMeaning& meaning) {
  if (region.q_norms.empty()) return;
  HeadNorms norms = NormReader(probes.graph, region, meaning).read();
  Graph affine = with_affine_norms(probes.graph);
  const Interpreter interpreter(affine, probe_limits(affine));
  const auto total = static_cast<size_t>(total_width(region));
  const std::vector<float> none(total, 0.0F), one(total, 1.0F);
  const Operands zeros = operands_at_start(affine, interpreter, region, none);
  const Operands ones = operands_at_start(affine, interpreter, region, one);
  Affine q = affine_of(zeros.q, ones.q, meaning.q_columns, meaning.q_columns, meaning.q_factor);
  Affine k = affine_of(zeros.k, ones.k, meaning.k_elements, meaning.k_columns, meaning.k_factor);
  if (q.bias.empty() != k.bias.empty()) {
    q.bias.resize(q.weight.size());
    k.bias.resize(k.weight.size());
  }
  norms.q_weight = std::move(q.weight);
  norms.q_bias = std::move(q.bias);
  norms.k_weight = std::move(k.weight);
  norms.k_bias = std::move(k.bias);
  meaning.norms = std::move(norms);
}

void find_clip(const Graph& graph, const AttentionRegion& region, AttentionMeaning& meaning) {
  for (const int32_t index : region.nodes) {
    const Node& node = graph.nodes[static_cast<size_t>(index)];
    if (!is_clip(node)) continue;
    const float limit = node.get_float("limit");
    if (meaning.clip != 0 && meaning.clip != limit) {
      throw NotAttention("Q, K and V are clipped to different limits");
    }
    meaning.clip = limit;
  }
}

}  // namespace nibble::graph
