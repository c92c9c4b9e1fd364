#include "graph/rewrite.h"

#include <algorithm>
#include <cctype>

#include "graph/ops.h"
#include "jit/error.h"

namespace nibble::graph {

Links::Links(const Graph& graph)
    : graph_(&graph),
      producers_(graph::producers(graph)),
      consumers_(graph::consumers(graph)),
      output_(graph.values.size(), false) {
  for (ValueId id : graph.outputs) output_[static_cast<size_t>(id)] = true;
}

int32_t Links::producer_index(ValueId id) const {
  return id == kNoValue ? -1 : producers_[static_cast<size_t>(id)];
}

const Node* Links::producer(ValueId id) const {
  const int32_t index = producer_index(id);
  return index < 0 ? nullptr : &graph_->nodes[static_cast<size_t>(index)];
}

const std::vector<int32_t>& Links::consumers(ValueId id) const {
  return consumers_[static_cast<size_t>(id)];
}

bool Links::single_use(ValueId id) const { return consumers(id).size() == 1 && !is_output(id); }

void replace_uses(Graph& graph, ValueId from, ValueId to) {
  for (Node& node : graph.nodes) std::replace(node.inputs.begin(), node.inputs.end(), from, to);
  std::replace(graph.outputs.begin(), graph.outputs.end(), from, to);
  if (graph.io.logits == from) graph.io.logits = to;
  for (LayerCache& layer : graph.io.layers) {
    if (layer.present_key == from) layer.present_key = to;
    if (layer.present_value == from) layer.present_value = to;
  }
}

void erase_nodes(Graph& graph, const std::vector<bool>& dead) {
  size_t kept = 0;
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    if (dead[i]) continue;
    if (kept != i) graph.nodes[kept] = std::move(graph.nodes[i]);
    ++kept;
  }
  graph.nodes.resize(kept);
}

void sort_nodes(Graph& graph) {
  const std::vector<int32_t> made_by = producers(graph);
  const size_t count = graph.nodes.size();
  std::vector<size_t> order;
  std::vector<uint8_t> state(count, 0);  // 0 new, 1 on the stack, 2 placed
  std::vector<size_t> stack;
  for (size_t root = 0; root < count; ++root) {
    stack.push_back(root);
    while (!stack.empty()) {
      const size_t at = stack.back();
      if (state[at] == 2) {
        stack.pop_back();
        continue;
      }
      const bool first_visit = state[at] == 0;
      state[at] = 1;
      bool ready = true;
      for (ValueId input : graph.nodes[at].inputs) {
        if (input == kNoValue) continue;
        const int32_t source = made_by[static_cast<size_t>(input)];
        if (source < 0 || state[static_cast<size_t>(source)] == 2) continue;
        if (!first_visit || state[static_cast<size_t>(source)] == 1) {
          fail("{}: node '{}' ({}) depends on its own output.", graph.origin, graph.nodes[at].name,
               graph.nodes[at].op);
        }
        stack.push_back(static_cast<size_t>(source));
        ready = false;
      }
      if (!ready) continue;
      state[at] = 2;
      order.push_back(at);
      stack.pop_back();
    }
  }
  std::vector<Node> sorted;
  sorted.reserve(count);
  for (size_t at : order) sorted.push_back(std::move(graph.nodes[at]));
  graph.nodes = std::move(sorted);
}

std::vector<bool> fused_values(const Graph& graph) {
  std::vector<bool> fused(graph.values.size(), false);
  for (const Node& node : graph.nodes) {
    if (node.domain != kNibbleDomain) continue;
    for (ValueId output : node.outputs) {
      if (output != kNoValue) fused[static_cast<size_t>(output)] = true;
    }
  }
  return fused;
}

std::optional<float> scalar_constant(const Graph& graph, ValueId id) {
  const TensorData* tensor = id == kNoValue ? nullptr : graph.tensor(id);
  if (tensor == nullptr || element_count(tensor->shape) != 1) return std::nullopt;
  float value = 0;
  read_f32(*tensor, 0, {&value, 1});
  return value;
}

bool is_swapped_product(const Node& node) {
  return node.is("FusedMatMul", kMicrosoftDomain) && node.get_float("alpha", 1) == 1 &&
         node.get_int("transBatchA", 0) == 0 && node.get_int("transBatchB", 0) == 0;
}

bool is_norm(const Node& node) {
  return node.is("RMSNorm", kNibbleDomain) || node.is("LayerNorm", kNibbleDomain);
}

int64_t layer_of_name(const std::string& name) {
  // The first path component that is a number, or ends in one after a dot.
  for (size_t at = 0; at < name.size(); ++at) {
    const bool starts = at == 0 || name[at - 1] == '.' || name[at - 1] == '/';
    if (!starts || std::isdigit(static_cast<unsigned char>(name[at])) == 0) continue;
    size_t end = at;
    while (end < name.size() && std::isdigit(static_cast<unsigned char>(name[end])) != 0) ++end;
    const bool ends = end == name.size() || name[end] == '.' || name[end] == '/';
    if (ends && end - at < 6) return std::stoll(name.substr(at, end - at));
  }
  return -1;
}

namespace {

bool keeps_shape(const Node& node) {
  static constexpr const char* kElementwise[] = {
      "Add",     "Sub",  "Mul",  "Div",      "Pow",  "Sqrt",     "Tanh",
      "Sigmoid", "Relu", "Erf",  "Neg",      "Exp",  "Abs",      "Where",
      "Max",     "Min",  "Cast", "Identity", "Gelu", "Softplus", "LayerNormalization"};
  if (!node.domain.empty()) return false;
  return std::any_of(std::begin(kElementwise), std::end(kElementwise),
                     [&](const char* op) { return node.op == op; });
}

int64_t constant_columns(const Graph& graph, ValueId id) {
  const auto& constant = graph.values[static_cast<size_t>(id)].constant;
  if (!constant) return 0;
  if (const auto* source = std::get_if<MatrixSource>(&*constant)) return source->n;
  if (const auto* packed = std::get_if<runtime::PackedMatrix>(&*constant)) return packed->view.n;
  return 0;
}

int64_t fused_width(const Graph& graph, const Node& node, const std::vector<int64_t>& widths) {
  if (node.op == "Linear") {
    if (widths[static_cast<size_t>(node.inputs[0])] == 0) return 0;  // rows of another shape
    return node.get_int("columns", constant_columns(graph, node.inputs[1]));
  }
  if (node.op == "Embedding") {
    const auto& constant = graph.values[static_cast<size_t>(node.inputs[1])].constant;
    if (const auto* tensor = graph.tensor(node.inputs[1])) return tensor->shape[1];
    if (const auto* source = std::get_if<MatrixSource>(&*constant)) return source->k;
    return std::get<runtime::PackedMatrix>(*constant).view.k;
  }
  if (node.op == "Attention") {
    constexpr int64_t kMost = 1 << 20;  // as check_fused has it
    const int64_t heads = node.get_int("heads"), head_dim = node.get_int("head_dim");
    return heads > 0 && heads <= kMost && head_dim > 0 && head_dim <= kMost ? heads * head_dim : 0;
  }
  return node.inputs.empty() ? 0 : widths[static_cast<size_t>(node.inputs[0])];
}

}  // namespace

std::vector<int64_t> hidden_widths(const Graph& graph) {
  std::vector<int64_t> widths(graph.values.size(), 0);
  for (const Node& node : graph.nodes) {
    int64_t width = 0;
    if (node.domain == kNibbleDomain) {
      width = fused_width(graph, node, widths);
    } else if (keeps_shape(node)) {
      for (ValueId input : node.inputs) {
        if (input != kNoValue) width = std::max(width, widths[static_cast<size_t>(input)]);
      }
    }
    if (width == 0) continue;
    for (ValueId output : node.outputs) {
      if (output != kNoValue) widths[static_cast<size_t>(output)] = width;
    }
  }
  return widths;
}

}  // namespace nibble::graph
