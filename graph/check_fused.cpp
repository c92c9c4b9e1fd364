#include "graph/check_fused.h"

#include "graph/ops.h"
#include "graph/rewrite.h"
#include "jit/error.h"

namespace nibble::graph {
namespace {

class FusedChecker {
 public:
  explicit FusedChecker(const Graph& graph) : graph_(graph), links_(graph) {
    for (const Node& node : graph.nodes) {
      if (node.domain == kNibbleDomain) check_arity(node);
    }
    widths_ = hidden_widths(graph);
  }

  void check(const Node& node) const {
    if (node.op == "Embedding") return check_embedding(node);
    if (node.op == "RMSNorm") return check_norm(node, false);
    if (node.op == "LayerNorm") return check_norm(node, true);
    if (node.op == "Linear") return check_linear(node);
    if (node.op == "Attention") return check_attention(node);
    if (node.op == "HeadNorm") return check_head_norm(node);
    if (node.op == "Clip") return check_clip(node);
    if (node.op == "Add" || node.op == "Gate") {
      expect_width(node, node.inputs[1], width_of(node.inputs[0]));
    }
  }

 private:
  struct MatrixShape {
    int64_t n = 0, k = 0;
  };

  // Operators that take two operands at least, and one output; hidden_widths relies on it.
  void check_arity(const Node& node) const {
    const bool unary = node.op == "Attention" || node.op == "Activation" ||
                       node.op == "LogitScale" || node.op == "Clip";
    const size_t needed = unary ? 1 : 2;
    bool present = node.inputs.size() >= needed && !node.outputs.empty();
    for (size_t i = 0; present && i < needed; ++i) present = node.inputs[i] != kNoValue;
    if (!present || node.outputs[0] == kNoValue) {
      fail("{}: node '{}' ({}) needs {} operands and an output.", graph_.origin, node.name, node.op,
           needed);
    }
    if (node.op == "Embedding" || node.op == "Linear") weight_of(node);
  }

  int64_t width_of(ValueId id) const { return widths_[static_cast<size_t>(id)]; }

  void expect_width(const Node& node, ValueId id, int64_t expected) const {
    if (width_of(id) == expected) return;
    fail("{}: node '{}' ({}) expects rows of {} in '{}', found {}.", graph_.origin, node.name,
         node.op, expected, graph_.value_name(id), width_of(id));
  }

  // An optional constant vector.
  void expect_vector(const Node& node, size_t operand, int64_t expected) const {
    const ValueId id = node.input(operand);
    if (id == kNoValue) return;
    const TensorData* tensor = graph_.tensor(id);
    if (tensor != nullptr && element_count(tensor->shape) == expected) return;
    fail("{}: node '{}' ({}) needs a constant of {} elements in '{}', found {}.", graph_.origin,
         node.name, node.op, expected, graph_.value_name(id),
         tensor == nullptr ? "no constant" : to_string(tensor->shape));
  }

  MatrixShape weight_of(const Node& node) const {
    const auto& constant = graph_.values[static_cast<size_t>(node.inputs[1])].constant;
    if (constant) {
      if (const auto* source = std::get_if<MatrixSource>(&*constant)) return {source->n, source->k};
      if (const auto* packed = std::get_if<runtime::PackedMatrix>(&*constant)) {
        return {packed->view.n, packed->view.k};
      }
      const auto& tensor = std::get<TensorData>(*constant);
      if (node.op == "Embedding" && tensor.shape.size() == 2)
        return {tensor.shape[0], tensor.shape[1]};
    }
    fail("{}: the weight '{}' of node '{}' is no constant matrix.", graph_.origin,
         graph_.value_name(node.inputs[1]), node.name);
  }

  void check_embedding(const Node& node) const {
    if (node.input(2) == kNoValue) return;
    const int64_t width = weight_of(node).k;
    const TensorData* table = graph_.tensor(node.inputs[2]);
    const int64_t offset = node.get_int("position_offset", 0);
    if (table != nullptr && table->shape.size() == 2 && table->shape[1] == width && offset >= 0 &&
        table->shape[0] > offset) {
      return;
    }
    fail("{}: node '{}' needs a position table of rows of {} beyond row {} in '{}', found {}.",
         graph_.origin, node.name, width, offset, graph_.value_name(node.inputs[2]),
         table == nullptr ? "no constant" : to_string(table->shape));
  }

  void check_norm(const Node& node, bool layer) const {
    const int64_t width = width_of(node.inputs[0]);
    if (width == 0) return;  // inside an attention that is not fused
    expect_vector(node, 1, width);
    if (layer) expect_vector(node, 2, width);
  }

  void check_linear(const Node& node) const {
    const int64_t width = width_of(node.inputs[0]);
    if (width == 0) return;
    const MatrixShape weight = weight_of(node);
    expect_width(node, node.inputs[0], weight.k);
    expect_vector(node, 2, weight.n);
    const bool gate = node.get_int("gate", 0) != 0;
    const int64_t columns = width_of(node.outputs[0]);
    if (columns < 1 || columns > (gate ? weight.n / 2 : weight.n) || (gate && weight.n % 32 != 0)) {
      fail("{}: node '{}' makes {} columns of {} of a weight of {}.", graph_.origin, node.name,
           columns, gate ? "gate and up" : "outputs", weight.n);
    }
    if (node.input(3) != kNoValue) expect_width(node, node.inputs[3], columns);
  }

  static bool has_heads(const Node& node) {
    const int64_t heads = node.get_int("heads"), kv_heads = node.get_int("kv_heads");
    const int64_t head_dim = node.get_int("head_dim");
    constexpr int64_t kMost = 1 << 20;
    return heads >= 1 && heads <= kMost && kv_heads >= 1 && heads % kv_heads == 0 &&
           head_dim >= 1 && head_dim <= kMost;
  }

  // Norms are in place, so nothing else may use what they normalise.
  void check_head_norm(const Node& node) const {
    const int64_t heads = node.get_int("heads"), kv_heads = node.get_int("kv_heads");
    const int64_t head_dim = node.get_int("head_dim");
    if (!has_heads(node)) {
      fail("{}: node '{}' ({}) has {} heads of {} and {} KV heads.", graph_.origin, node.name,
           node.op, heads, head_dim, kv_heads);
    }
    expect_width(node, node.inputs[0], (heads + 2 * kv_heads) * head_dim);
    for (size_t operand : {1, 2}) expect_vector(node, operand, (heads + kv_heads) * head_dim);
    if (links_.single_use(node.inputs[0])) return;
    fail("{}: node '{}' ({}) normalises '{}', which other nodes use too.", graph_.origin, node.name,
         node.op, graph_.value_name(node.inputs[0]));
  }

  void check_clip(const Node& node) const {
    const float limit = node.get_float("limit");
    if (limit > 0) return;
    fail("{}: node '{}' ({}) clips to {}, expected a number above 0.", graph_.origin, node.name,
         node.op, limit);
  }

  void check_attention(const Node& node) const {
    const int64_t heads = node.get_int("heads"), kv_heads = node.get_int("kv_heads");
    const int64_t head_dim = node.get_int("head_dim"), rotary = node.get_int("rotary", 0);
    const int64_t window = node.get_int("window", 0);
    if (!has_heads(node) || rotary < 0 || rotary % 2 != 0 || rotary > head_dim || window < 0) {
      fail("{}: attention '{}' has {} heads of {}, {} KV heads, {} rotated dimensions, window {}.",
           graph_.origin, node.name, heads, head_dim, kv_heads, rotary, window);
    }
    expect_width(node, node.inputs[0], (heads + 2 * kv_heads) * head_dim);
    if (rotary > 0 && node.input(1) == kNoValue) {
      fail("{}: attention '{}' rotates but has no frequencies.", graph_.origin, node.name);
    }
    if (rotary > 0) expect_vector(node, 1, rotary / 2);
    expect_vector(node, 2, heads);
    expect_vector(node, 3, head_dim);
    expect_vector(node, 4, head_dim);
    if ((node.input(3) == kNoValue) != (node.input(4) == kNoValue)) {
      fail("{}: attention '{}' normalises only one of Q and K.", graph_.origin, node.name);
    }
  }

  const Graph& graph_;
  const Links links_;
  std::vector<int64_t> widths_;
};

}  // namespace

void check_fused(const Graph& graph) {
  const FusedChecker checker(graph);
  for (const Node& node : graph.nodes) {
    if (node.domain == kNibbleDomain) checker.check(node);
  }
}

}  // namespace nibble::graph
