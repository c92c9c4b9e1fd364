// Which places of a fused graph a fold is legal at.

#include <fmt/format.h>

#include <algorithm>
#include <map>
#include <numeric>
#include <optional>
#include <set>
#include <utility>

#include "graph/ops.h"
#include "graph/rewrite.h"
#include "quant/folds/folds.h"

namespace nibble::quant {
namespace {

using graph::Graph;
using graph::kNibbleDomain;
using graph::kNoValue;
using graph::MatrixSource;
using graph::Node;
using graph::ValueId;

// Where a part's numbers lie.
const void* storage_of(const graph::MatrixPart& part) {
  if (part.quantized) return part.quantized.get();
  if (part.reader) return part.reader.get();
  return part.tensor.data;
}

struct Use {
  size_t node = 0, operand = 0;
};

// Who uses each value, operand by operand, and which constants are the same bytes.
class Uses {
 public:
  explicit Uses(const Graph& graph) : graph_(graph), of_(graph.values.size()) {
    for (size_t i = 0; i < graph.nodes.size(); ++i) {
      const auto& inputs = graph.nodes[i].inputs;
      for (size_t operand = 0; operand < inputs.size(); ++operand) {
        if (inputs[operand] != kNoValue) of_[index(inputs[operand])].push_back({i, operand});
      }
    }
    for (const ValueId id : graph.outputs) output_.insert(id);
    output_.insert(graph.io.logits);
    for (size_t id = 0; id < of_.size(); ++id) {
      const auto value = static_cast<ValueId>(id);
      if (of_[id].empty()) continue;
      if (const auto* tensor = graph.tensor(value)) constants_at_[tensor->data].insert(value);
      if (const MatrixSource* matrix = graph.matrix(value)) {
        for (const auto& part : matrix->parts) constants_at_[storage_of(part)].insert(value);
      }
    }
  }

  const std::vector<Use>& of(ValueId id) const { return of_[index(id)]; }
  bool is_output(ValueId id) const { return output_.count(id) != 0; }
  bool single_use(ValueId id) const { return of(id).size() == 1 && !is_output(id); }

  // The matrix behind a Linear when it may be scaled: it has floats, and is used for nothing else,
  // neither as this constant nor as another one over the same bytes.
  const MatrixSource* own_matrix(const Node& linear) const {
    const ValueId id = linear.input(1);
    const MatrixSource* matrix = graph_.matrix(id);
    if (matrix == nullptr || matrix->has_quantized() || !single_use(id)) return nullptr;
    const bool own = std::all_of(matrix->parts.begin(), matrix->parts.end(), [&](const auto& part) {
      return constants_at_.at(storage_of(part)).size() == 1;
    });
    return own ? matrix : nullptr;
  }

 private:
  static size_t index(ValueId id) { return static_cast<size_t>(id); }

  const Graph& graph_;
  std::vector<std::vector<Use>> of_;
  std::set<ValueId> output_;
  std::map<const void*, std::set<ValueId>> constants_at_;
};

class FoldFinder {
 public:
  explicit FoldFinder(const Graph& graph) : graph_(graph), uses_(graph), links_(graph) {}

  std::vector<Fold> run() const {
    std::vector<Fold> folds;
    for (size_t i = 0; i < graph_.nodes.size(); ++i) {
      if (auto fold = fold_behind(i)) folds.push_back(*std::move(fold));
    }
    return folds;
  }

 private:
  // The fold of the channels that node i makes.
  std::optional<Fold> fold_behind(size_t i) const {
    const Node& node = graph_.nodes[i];
    if (node.domain != kNibbleDomain || node.outputs.empty()) return std::nullopt;
    auto fold = absorber_of(i);
    if (!fold || !find_consumers(node.outputs[0], *fold)) return std::nullopt;
    const Node& first = graph_.nodes[fold->consumers[0]];
    fold->layer = layer_of(fold->consumers[0]);
    fold->name = fmt::format("{} -> {}", graph_.nodes[fold->node].name, first.name);
    for (size_t c = 1; c < fold->consumers.size(); ++c) {
      fold->name += " + " + graph_.nodes[fold->consumers[c]].name;
    }
    return fold;
  }

  // By the name that the exporter gave the consumer, else that of the attention before it.
  int64_t layer_of(size_t consumer) const {
    const Node& node = graph_.nodes[consumer];
    const int64_t named = graph::layer_of_name(node.name);
    if (named >= 0 || makes_logits(node)) return named;
    for (size_t i = consumer; i-- > 0;) {
      const Node& before = graph_.nodes[i];
      if (before.is("Attention", kNibbleDomain)) return before.get_int("layer", -1);
    }
    return -1;
  }

  bool makes_logits(const Node& linear) const {
    const Node* last = links_.producer(graph_.io.logits);
    return linear.outputs[0] == graph_.io.logits ||
           (last != nullptr && last->is("LogitScale", kNibbleDomain) &&
            last->inputs[0] == linear.outputs[0]);
  }

  // Whether only Linears use y, as what they multiply, and all of their weights may be scaled.
  bool find_consumers(ValueId y, Fold& fold) const {
    if (uses_.is_output(y)) return false;
    for (const Use& use : uses_.of(y)) {
      const Node& node = graph_.nodes[use.node];
      if (!node.is("Linear", kNibbleDomain) || use.operand != 0) return false;
      const MatrixSource* matrix = uses_.own_matrix(node);
      if (matrix == nullptr || matrix->k != fold.k) return false;
      fold.consumers.push_back(use.node);
    }
    return !fold.consumers.empty();
  }

  // Everything of a fold but its consumers.
  std::optional<Fold> absorber_of(size_t i) const {
    const Node& node = graph_.nodes[i];
    if (node.op == "RMSNorm" || node.op == "LayerNorm") return of_norm(i);
    if (node.op == "Linear") return of_linear(i);
    if (node.op == "Gate") return of_gate(node);
    if (node.op == "Attention") return of_attention(node);
    return std::nullopt;
  }

  static Fold one_to_one(Absorber absorber, size_t node, int64_t k) {
    Fold fold{.absorber = absorber, .node = node, .k = k};
    fold.columns.resize(static_cast<size_t>(k));
    fold.tied.resize(static_cast<size_t>(k));
    std::iota(fold.columns.begin(), fold.columns.end(), 0);
    std::iota(fold.tied.begin(), fold.tied.end(), 0);
    return fold;
  }

  // Whether an optional operand is absent or a constant of so many numbers.
  bool is_vector(const Node& node, size_t operand, int64_t length) const {
    if (node.input(operand) == kNoValue) return true;
    const graph::TensorData* tensor = graph_.tensor(node.inputs[operand]);
    return tensor != nullptr && graph::element_count(tensor->shape) == length;
  }

  std::optional<Fold> of_norm(size_t i) const {
    const Node& norm = graph_.nodes[i];
    const graph::TensorData* weight = graph_.tensor(norm.input(1));
    if (weight == nullptr) return std::nullopt;
    const int64_t k = graph::element_count(weight->shape);
    if (norm.op == "LayerNorm" && !is_vector(norm, 2, k)) return std::nullopt;
    return one_to_one(Absorber::norm, i, k);
  }

  // Whether a Linear's output is nothing but the product and the bias, before activation and gate.
  bool is_plain(const Node& linear) const {
    const MatrixSource* matrix = uses_.own_matrix(linear);
    return matrix != nullptr && linear.input(3) == kNoValue && is_vector(linear, 2, matrix->n);
  }

  std::optional<Fold> of_linear(size_t i) const {
    const Node& linear = graph_.nodes[i];
    if (!is_plain(linear)) return std::nullopt;
    const int64_t n = uses_.own_matrix(linear)->n;
    if (linear.get_int("gate", 0) != 0) {
      Fold fold = one_to_one(Absorber::up, i, linear.get_int("columns", n / 2));
      for (int64_t& column : fold.columns) {
        column +=
            (column / jit::kColumnBlock + 1) * jit::kColumnBlock;  // past the gate blocks so far
      }
      return fold;
    }
    const std::string activation = linear.get_string("activation", "none");
    if (activation != "none" && activation != "relu") return std::nullopt;
    return one_to_one(Absorber::columns, i, linear.get_int("columns", n));
  }

  // The Linear without activation and gate that makes `id` for a single user; -1 otherwise.
  int32_t linear_behind(ValueId id) const {
    const int32_t maker = id == kNoValue ? -1 : links_.producer_index(id);
    if (maker < 0 || !uses_.single_use(id)) return -1;
    const Node& node = graph_.nodes[static_cast<size_t>(maker)];
    const bool fits = node.is("Linear", kNibbleDomain) && node.get_int("gate", 0) == 0 &&
                      node.get_string("activation", "none") == "none" && is_plain(node);
    return fits ? maker : -1;
  }

  std::optional<Fold> of_gate(const Node& gate) const {
    const int32_t up = linear_behind(gate.input(1));
    if (up < 0) return std::nullopt;
    const Node& linear = graph_.nodes[static_cast<size_t>(up)];
    const int64_t n = uses_.own_matrix(linear)->n;
    return one_to_one(Absorber::up, static_cast<size_t>(up), linear.get_int("columns", n));
  }

  // Values also go into a cache. That of a Session is filled by this graph alone; a cache that the
  // graph is given and gives back (operands past those of ops.h) holds what others made of it.
  std::optional<Fold> of_attention(const Node& attention) const {
    const bool cache_outside = attention.input(5) != kNoValue || attention.input(6) != kNoValue ||
                               attention.outputs.size() > 1;
    const int32_t qkv = linear_behind(attention.input(0));
    if (cache_outside || qkv < 0) return std::nullopt;
    const int64_t heads = attention.get_int("heads"), kv_heads = attention.get_int("kv_heads");
    const int64_t head_dim = attention.get_int("head_dim");
    const auto node = static_cast<size_t>(qkv);
    if (heads < 1 || kv_heads < 1 || head_dim < 1 || heads % kv_heads != 0 ||
        uses_.own_matrix(graph_.nodes[node])->n < (heads + 2 * kv_heads) * head_dim) {
      return std::nullopt;
    }
    Fold fold{.absorber = Absorber::value, .node = node, .k = heads * head_dim};
    fold.columns.resize(static_cast<size_t>(kv_heads * head_dim));
    std::iota(fold.columns.begin(), fold.columns.end(), (heads + kv_heads) * head_dim);
    for (int64_t kk = 0; kk < fold.k; ++kk) {
      const int64_t kv_head = kk / head_dim / (heads / kv_heads);
      fold.tied.push_back(static_cast<int32_t>(kv_head * head_dim + kk % head_dim));
    }
    return fold;
  }

  const Graph& graph_;
  Uses uses_;
  graph::Links links_;
};

}  // namespace

const char* absorber_name(Absorber absorber) {
  switch (absorber) {
    case Absorber::norm:
      return "norm";
    case Absorber::columns:
      return "columns";
    case Absorber::up:
      return "up";
    case Absorber::value:
      return "value";
  }
  return "unknown";
}

std::vector<Fold> find_folds(const Graph& graph) { return FoldFinder(graph).run(); }

}  // namespace nibble::quant
