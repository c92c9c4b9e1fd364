#include "graph/length_arrays.h"

#include <optional>
#include <utility>
#include <vector>

#include "graph/ops.h"
#include "graph/probe.h"
#include "graph/value_kinds.h"

namespace nibble::graph {
namespace {

constexpr int64_t kMostHeld = int64_t{1} << 28;  // elements, at a time
constexpr int64_t kMostOfConstant = int64_t{1} << 24;

// A table that this is the rows of by index: an embedding, as long as it is not called one.
bool reads_table(const Graph& graph, const Node& node) {
  if (!node.is("Gather") || node.get_int("axis", 0) != 0) return false;
  const TensorData* table = graph.tensor(node.input(0));
  return table != nullptr && table->shape.size() == 2 && kind_of(table->dtype) == ValueKind::real;
}

}  // namespace

void LengthArrays::start(const std::array<int64_t, 2>& lengths) {
  count_uses();
  for (size_t k = 0; k < 2; ++k) {
    feeds_[k] = decoder_feeds(graph_, {.tokens = lengths[k], .past = 0});
  }
}

void LengthArrays::count_uses() {
  for (const Node& node : graph_.nodes) {
    for (const ValueId id : node.outputs) {
      if (id != kNoValue && id != graph_.io.logits) uses_[id] = 0;
    }
  }
  for (const Node& node : graph_.nodes) {
    for (const ValueId id : node.inputs) {
      const auto uses = uses_.find(id);
      if (uses != uses_.end()) ++uses->second;
    }
  }
}

void LengthArrays::read_constants(const Interpreter& interpreter, const Node& node) {
  const ValueId table = reads_table(graph_, node) ? node.inputs[0] : kNoValue;
  for (const ValueId id : node.inputs) {
    if (id == kNoValue || id == table || known(id)) continue;
    const TensorData* tensor = graph_.tensor(id);
    if (tensor == nullptr || element_count(tensor->shape) > kMostOfConstant) continue;
    const Array value = interpreter.run_one({}, id);
    for (Feeds& feeds : feeds_) feeds[id] = value;
  }
}

const Array& LengthArrays::array(size_t k, ValueId id) const {
  const auto found = feeds_[k].find(id);
  if (found == feeds_[k].end()) throw UnknownDependence();
  return found->second;
}

void LengthArrays::evaluate(const Interpreter& interpreter, const Node& node) {
  for (size_t k = 0; k < 2; ++k) evaluate_at(k, interpreter, node);
  let_go_of_inputs(node);
}

void LengthArrays::evaluate_at(size_t k, const Interpreter& interpreter, const Node& node) {
  std::optional<Shape> product;
  if (node.is("Linear", kNibbleDomain)) {
    if (const MatrixSource* weight = graph_.matrix(node.inputs[1])) {
      product = array(k, node.inputs[0]).shape;
      if (product->empty() || product->back() != weight->k) throw UnknownDependence();
      product->back() = weight->n;
    }
  } else if (reads_table(graph_, node)) {
    product = array(k, node.input(1)).shape;
    product->push_back(graph_.tensor(node.inputs[0])->shape[1]);
  }
  if (product) {
    const auto count = static_cast<size_t>(element_count(*product));
    hold(k, node.outputs[0], Array::of(*product, std::vector<float>(count, 0.0F)));
    return;
  }
  std::vector<ValueId> outputs;
  for (const ValueId id : node.outputs) {
    if (id != kNoValue) outputs.push_back(id);
  }
  auto made = interpreter.run(feeds_[k], outputs);
  for (size_t i = 0; i < outputs.size(); ++i) hold(k, outputs[i], std::move(made[i]));
}

void LengthArrays::hold(size_t k, ValueId id, Array array) {
  held_ += array.size();
  if (held_ > kMostHeld) throw UnknownDependence();
  feeds_[k][id] = std::move(array);
}

void LengthArrays::let_go_of_inputs(const Node& node) {
  for (const ValueId id : node.inputs) {
    const auto uses = uses_.find(id);
    if (uses == uses_.end() || --uses->second > 0) continue;
    for (Feeds& feeds : feeds_) {
      const auto found = feeds.find(id);
      if (found == feeds.end()) continue;
      held_ -= found->second.size();
      feeds.erase(found);
    }
  }
}

}  // namespace nibble::graph
