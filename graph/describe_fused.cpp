#include "graph/describe_fused.h"

#include <fmt/format.h>

#include <algorithm>

#include "graph/ops.h"
#include "graph/rewrite.h"

namespace nibble::graph {
namespace {

bool is_attention(const Node& node) { return node.is("Attention", kNibbleDomain); }
bool is_linear(const Node& node) { return node.is("Linear", kNibbleDomain); }

// Whether `node` adds input i to what it makes: a residual.
bool is_addend(const Node& node, size_t i) {
  if (node.is("Add") || node.is("Add", kNibbleDomain)) return true;
  if (is_linear(node) || node.is("LayerNorm", kNibbleDomain)) return i == 3;
  return node.is("RMSNorm", kNibbleDomain) && i == 2;
}

bool adds_residual(const Node& node) {
  for (size_t i = 0; i < node.inputs.size(); ++i) {
    if (node.inputs[i] != kNoValue && is_addend(node, i)) return true;
  }
  return false;
}

// Whether a node's first output is the sum that runs through the model, from which the next norm or
// projection reads: the node then ends a part of its layer, and else belongs to what it feeds.
bool makes_hidden_state(const Graph& graph, const Links& links, const Node& node) {
  bool added = false, read = false;
  for (const int32_t user : links.consumers(node.outputs[0])) {
    const Node& next = graph.nodes[static_cast<size_t>(user)];
    for (size_t i = 0; i < next.inputs.size(); ++i) {
      if (next.inputs[i] == node.outputs[0]) (is_addend(next, i) ? added : read) = true;
    }
  }
  return read && (added || (adds_residual(node) && !is_norm(node)));
}

std::string attention_detail(const Node& node) {
  const int64_t rotary = node.get_int("rotary", 0), window = node.get_int("window", 0);
  const float softcap = node.get_float("softcap", 0);
  std::string text = fmt::format("{} heads of {}, {} KV heads", node.get_int("heads"),
                                 node.get_int("head_dim"), node.get_int("kv_heads"));
  if (rotary > 0) {
    const bool interleaved = node.get_int("interleaved", 0) != 0;
    text += fmt::format(", rope {} of {} dims", interleaved ? "interleaved" : "half", rotary);
  }
  if (window > 0) text += fmt::format(", window {}", window);
  if (softcap > 0) text += fmt::format(", softcap {:.6g}", softcap);
  if (node.input(2) != kNoValue) text += ", ALiBi";
  if (node.input(3) != kNoValue) text += ", Q and K norms";
  if (node.get_int("norm_last", 0) != 0) text += " behind the rotation";
  return text;
}

std::string head_norm_detail(const Node& node) {
  return fmt::format("{} of {}", node.get_int("centre", 0) != 0 ? "LayerNorm" : "RMSNorm",
                     node.get_int("whole", 0) != 0 ? "Q and of K" : "each Q and K head");
}

// Whether what a node makes goes into attention, through norms and clips alone.
bool feeds_attention(const Graph& graph, const Links& links, const Node& node) {
  const auto& users = links.consumers(node.outputs[0]);
  if (users.size() != 1) return false;
  const Node& next = graph.nodes[static_cast<size_t>(users[0])];
  if (is_attention(next)) return true;
  return (next.is("HeadNorm", kNibbleDomain) || next.is("Clip", kNibbleDomain)) &&
         feeds_attention(graph, links, next);
}

std::string projections_detail(const Graph& graph, const Node& linear) {
  const auto& constant = graph.values[static_cast<size_t>(linear.inputs[1])].constant;
  const auto* source = constant ? std::get_if<MatrixSource>(&*constant) : nullptr;
  if (source == nullptr) return "in one matmul";  // packed, or no constant
  const size_t count = source->parts.size();
  return count < 2 ? "one projection" : fmt::format("{} projections in one matmul", count);
}

std::string embedding_detail(const Node& node) {
  const std::string text = node.input(2) == kNoValue ? "tokens" : "tokens and learned positions";
  const float scale = node.get_float("scale", 1);
  return scale == 1 ? text : text + fmt::format(", times {:.6g}", scale);
}

std::string logits_detail(const Node& node) {
  const float scale = node.get_float("scale", 1), softcap = node.get_float("softcap", 0);
  if (softcap == 0) return fmt::format("times {:.6g}", scale);
  if (scale == 1) return fmt::format("softcap {:.6g}", softcap);
  return fmt::format("times {:.6g}, softcap {:.6g}", scale, softcap);
}

}  // namespace

std::vector<int64_t> layers_of_nodes(const Graph& graph) {
  const Links links(graph);
  std::vector<int64_t> last(graph.nodes.size(), -1);  // the last attention a node depends on
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& node = graph.nodes[i];
    for (const ValueId id : node.inputs) {
      const int32_t maker = id == kNoValue ? -1 : links.producer_index(id);
      if (maker >= 0) last[i] = std::max(last[i], last[static_cast<size_t>(maker)]);
    }
    if (is_attention(node)) last[i] = node.get_int("layer");
  }
  std::vector<int64_t> layers(graph.nodes.size(), -1);
  for (size_t i = graph.nodes.size(); i-- > 0;) {
    const Node& node = graph.nodes[i];
    if (is_attention(node) || makes_hidden_state(graph, links, node)) {
      layers[i] = last[i];
      continue;
    }
    for (const int32_t user : links.consumers(node.outputs[0])) {
      const int64_t layer = layers[static_cast<size_t>(user)];
      if (layer >= 0) layers[i] = layers[i] < 0 ? layer : std::min(layers[i], layer);
    }
  }
  return layers;
}

std::vector<FusionEntry> describe_fused(const Graph& graph) {
  const Links links(graph);
  const std::vector<int64_t> layers = layers_of_nodes(graph);
  std::vector<FusionEntry> out;
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& node = graph.nodes[i];
    if (node.domain != kNibbleDomain) continue;
    const auto add = [&](const char* what, std::string detail) {
      out.push_back({layers[i], what, true, std::move(detail), node.name});
    };
    if (is_norm(node)) add("norm", node.op);
    if (is_attention(node)) add("attention", attention_detail(node));
    if (node.op == "Activation") add("mlp", node.get_string("activation", "none"));
    if (node.op == "Gate") add("mlp", node.get_string("activation", "none") + " gate");
    if (node.op == "LogitScale") add("logits", logits_detail(node));
    if (node.op == "HeadNorm") add("norm", head_norm_detail(node));
    if (node.op == "Clip") add("clip", fmt::format("to {:.6g}", node.get_float("limit")));
    if (node.op == "Embedding") {
      out.push_back({-1, "embedding", true, embedding_detail(node), node.name});
    }
    if (!is_linear(node)) continue;
    if (feeds_attention(graph, links, node)) add("qkv", projections_detail(graph, node));
    if (const std::string activation = node.get_string("activation", "none");
        activation != "none") {
      const bool gated = node.get_int("gate", 0) != 0;
      add("mlp", gated ? activation + " gate and up in one matmul" : activation);
    }
    if (node.input(3) != kNoValue) add("residual", "added by the matmul before it");
  }
  return out;
}

}  // namespace nibble::graph
