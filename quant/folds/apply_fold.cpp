// What a fold does to a graph: factors into weights, quotients into vectors.
#include <algorithm>
#include <cmath>
#include <utility>

#include "graph/ops.h"
#include "jit/error.h"
#include "quant/folds/folds.h"
#include "quant/solvers/scaled_columns.h"

namespace nibble::quant {
namespace {

using graph::Graph;
using graph::kNibbleDomain;
using graph::kNoValue;
using graph::MatrixSource;
using graph::Node;
using graph::ValueId;

int64_t count_uses(const Graph& graph, ValueId id) {
  int64_t count = std::count(graph.outputs.begin(), graph.outputs.end(), id);
  for (const Node& node : graph.nodes) {
    count += std::count(node.inputs.begin(), node.inputs.end(), id);
  }
  return count;
}

// Puts another vector in the place of a constant, for this node alone.
void replace_vector(Graph& graph, size_t node, size_t operand, graph::TensorData tensor) {
  ValueId& id = graph.nodes[node].inputs[operand];
  if (count_uses(graph, id) > 1) {
    id = graph.add_constant(fmt::format("{}/{}", graph.nodes[node].name, graph.value_name(id)),
                            std::move(tensor));
    return;
  }
  graph::Value& value = graph.values[static_cast<size_t>(id)];
  value.dtype = tensor.dtype;
  value.constant = std::move(tensor);
}

class Applier {
 public:
  Applier(Graph& graph, const Fold& fold, std::span<const float> factors)
      : graph_(graph), fold_(fold), factors_(factors) {}

  void run() {
    check_factors();
    check_places();
    std::vector<float> rows(static_cast<size_t>(fold_.k));
    for (size_t kk = 0; kk < rows.size(); ++kk) {
      rows[kk] = factors_[static_cast<size_t>(fold_.tied[kk])];
    }
    for (const size_t consumer : fold_.consumers) scale_weight(consumer, rows, {});
    if (fold_.absorber == Absorber::norm) {
      divide_vector(1);
      if (graph_.nodes[fold_.node].op == "LayerNorm") divide_vector(2);
      return;
    }
    std::vector<float> columns(static_cast<size_t>(matrix_of(fold_.node).n), 1.0F);
    for (size_t f = 0; f < factors_.size(); ++f) {
      columns[static_cast<size_t>(fold_.columns[f])] = 1 / factors_[f];
    }
    scale_weight(fold_.node, {}, columns);
    divide_vector(2);
  }

 private:
  [[noreturn]] void not_of_this_graph() const {
    fail("{}: the fold '{}' does not fit the graph, which was changed since it was found.",
         graph_.origin, fold_.name);
  }

  void check_factors() const {
    if (static_cast<int64_t>(factors_.size()) != fold_.factors()) {
      fail("{}: the fold '{}' takes {} factors, found {}.", graph_.origin, fold_.name,
           fold_.factors(), factors_.size());
    }
    for (size_t f = 0; f < factors_.size(); ++f) {
      const float factor = factors_[f];
      if (factor > 0 && std::isfinite(factor) && std::isfinite(1 / factor)) continue;
      fail(
          "{}: factor {} of the fold '{}' is {}, expected a positive number with a finite "
          "reciprocal.",
          graph_.origin, f, fold_.name, factor);
    }
  }

  // Nothing is changed before all of the fold is known to fit.
  void check_places() const {
    bool fits = fold_.node < graph_.nodes.size() && !fold_.consumers.empty() &&
                static_cast<int64_t>(fold_.tied.size()) == fold_.k;
    for (const int32_t factor : fold_.tied) fits = fits && factor >= 0 && factor < fold_.factors();
    for (const size_t consumer : fold_.consumers) {
      fits = fits && is_float_linear(consumer) && matrix_of(consumer).k == fold_.k;
    }
    if (!fits) not_of_this_graph();
    const Node& node = graph_.nodes[fold_.node];
    int64_t length = 0;
    if (fold_.absorber == Absorber::norm) {
      const bool norm = node.is("RMSNorm", kNibbleDomain) || node.is("LayerNorm", kNibbleDomain);
      const graph::TensorData* weight = norm ? graph_.tensor(node.input(1)) : nullptr;
      if (weight == nullptr) not_of_this_graph();
      length = graph::element_count(weight->shape);
    } else {
      if (!is_float_linear(fold_.node)) not_of_this_graph();
      length = matrix_of(fold_.node).n;
    }
    for (const int64_t column : fold_.columns) fits = fits && column >= 0 && column < length;
    if (node.op != "RMSNorm" && node.input(2) != kNoValue) {
      const graph::TensorData* bias = graph_.tensor(node.inputs[2]);
      fits = fits && bias != nullptr && graph::element_count(bias->shape) == length;
    }
    if (!fits) not_of_this_graph();
  }

  bool is_float_linear(size_t node) const {
    if (node >= graph_.nodes.size() || !graph_.nodes[node].is("Linear", kNibbleDomain)) {
      return false;
    }
    const MatrixSource* matrix = graph_.matrix(graph_.nodes[node].input(1));
    return matrix != nullptr && !matrix->has_quantized();
  }

  const MatrixSource& matrix_of(size_t node) const {
    return *graph_.matrix(graph_.nodes[node].inputs[1]);
  }

  void scale_weight(size_t node, std::span<const float> rows, std::span<const float> columns) {
    const ValueId id = graph_.nodes[node].inputs[1];
    graph_.values[static_cast<size_t>(id)].constant = scale_matrix(matrix_of(node), rows, columns);
  }

  // An optional vector of the absorber: its weight or bias.
  void divide_vector(size_t operand) {
    const ValueId id = graph_.nodes[fold_.node].input(operand);
    if (id == kNoValue) return;
    const graph::TensorData& tensor = *graph_.tensor(id);
    std::vector<float> values = graph::to_f32(tensor);
    for (size_t f = 0; f < factors_.size(); ++f) {
      values[static_cast<size_t>(fold_.columns[f])] /= factors_[f];
    }
    replace_vector(graph_, fold_.node, operand, graph::make_f32(tensor.shape, std::move(values)));
  }

  Graph& graph_;
  const Fold& fold_;
  std::span<const float> factors_;
};

}  // namespace

void apply_fold(Graph& graph, const Fold& fold, std::span<const float> factors) {
  Applier(graph, fold, factors).run();
}

}  // namespace nibble::quant
