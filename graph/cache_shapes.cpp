#include "graph/cache_shapes.h"

#include <algorithm>

#include "graph/ops.h"
#include "graph/quantized_nodes.h"
#include "graph/rewrite.h"

namespace nibble::graph {
namespace {

class Completer {
 public:
  explicit Completer(Graph& graph) : graph_(graph), links_(graph) {}

  void run() {
    for (const Node& node : graph_.nodes) {
      if (node.is("GroupQueryAttention", kMicrosoftDomain)) {
        complete_grouped(node);
      } else if (node.op == "RotaryEmbedding") {
        limit_context(node.domain.empty() ? node.input(1) : node.input(2));
      } else if (node.is("Attention") && node.get_int("kv_num_heads", 0) > 0) {
        const int64_t heads = node.get_int("kv_num_heads");
        complete(node.input(4), heads, columns_of(node.input(1), kDepth) / heads);
        complete(node.input(5), heads, columns_of(node.input(2), kDepth) / heads);
      }
    }
  }

 private:
  static constexpr int64_t kMostHeads = 1 << 20;
  static constexpr int kMostVisits = 100000;  // a damaged graph must not take for ever
  static constexpr int kDepth = 16;           // of the search upwards for a value's columns

  void complete_grouped(const Node& node) {
    const int64_t heads = node.get_int("num_heads", 0), kv_heads = node.get_int("kv_num_heads", 0);
    if (heads < 1 || kv_heads < 1 || heads > kMostHeads || kv_heads > kMostHeads) return;
    const bool packed = node.input(1) == kNoValue;
    const int64_t dim = columns_of(node.input(0), kDepth) / (packed ? heads + 2 * kv_heads : heads);
    complete(node.input(3), kv_heads, dim);
    complete(node.input(4), kv_heads, dim);
    if (node.get_int("do_rotary", 0) != 0) limit_context(node.input(7));
  }

  // To the rows of a table of cosines.
  void limit_context(ValueId cosines) {
    const TensorData* table = cosines == kNoValue ? nullptr : graph_.tensor(cosines);
    if (table == nullptr || table->shape.size() != 2 || table->shape[0] < 1) return;
    int64_t& context = graph_.context_length;
    context = context > 0 ? std::min(context, table->shape[0]) : table->shape[0];
  }

  void complete(ValueId past, int64_t heads, int64_t dim) {
    if (past == kNoValue) return;
    auto& shape = graph_.values[static_cast<size_t>(past)].shape;
    if (!shape || shape->size() != 4) shape = Shape{-1, -1, -1, -1};
    if ((*shape)[1] < 0) (*shape)[1] = heads;
    if ((*shape)[3] < 0 && dim > 0) (*shape)[3] = dim;
  }

  // The last dimension of a value as the matrix that makes it says; 0 when nothing says.
  int64_t columns_of(ValueId id, int depth) const {
    if (id == kNoValue || depth == 0 || ++visits_ > kMostVisits) return 0;
    if (const TensorData* tensor = graph_.tensor(id)) {
      return tensor->shape.empty() ? 0 : tensor->shape.back();
    }
    const Node* node = links_.producer(id);
    if (node == nullptr) return 0;
    if (node->is("MatMulNBits", kMicrosoftDomain)) return node->get_int("N", 0);
    if (node->is("MatMul")) return columns_of(node->input(1), depth - 1);
    if (node->is("Gemm")) return gemm_columns(*node);
    if (node->is("Transpose")) {
      const auto tensor = constant_behind(graph_, node->input(0));
      return tensor && tensor->shape.size() == 2 ? tensor->shape[0] : 0;
    }
    if (node->is("Reshape")) {
      const TensorData* shape = graph_.tensor(node->input(1));
      const auto dims = shape != nullptr ? to_i64(*shape) : std::vector<int64_t>{};
      return dims.empty() ? 0 : std::max<int64_t>(0, dims.back());
    }
    int64_t most = 0;
    for (ValueId input : node->inputs) most = std::max(most, columns_of(input, depth - 1));
    return most;
  }

  int64_t gemm_columns(const Node& node) const {
    const TensorData* weight = graph_.tensor(node.input(1));
    if (weight == nullptr || weight->shape.size() != 2) return 0;
    return weight->shape[node.get_int("transB", 0) == 0 ? 1 : 0];
  }

  Graph& graph_;
  Links links_;
  mutable int visits_ = 0;
};

}  // namespace

void complete_cache_shapes(Graph& graph) { Completer(graph).run(); }

}  // namespace nibble::graph
