// What the values of a graph are at two lengths of its input, node by node, so that what varies
// with the length is seen. Products with weights are not computed: zeros of their shape stand for
// them.
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>
#include <map>

#include "graph/graph.h"
#include "graph/interpreter.h"

namespace nibble::graph {

// Something depends on the length in a way that is not known.
struct UnknownDependence {};

class LengthArrays {
 public:
  explicit LengthArrays(const Graph& graph) : graph_(graph) {}

  // With the inputs of a decoder that has no cache. The graph must not have been changed before.
  void start(const std::array<int64_t, 2>& lengths);
  // Makes the constants among a node's inputs known, other than weights.
  void read_constants(const Interpreter& interpreter, const Node& node);
  // Makes a node's outputs known, and lets go of those of its inputs that no other node needs.
  // Throws UnknownDependence, or Error as Interpreter::run.
  void evaluate(const Interpreter& interpreter, const Node& node);

  // At the first length or the second; throws UnknownDependence when it is not known.
  const Array& array(size_t k, ValueId id) const;
  bool known(ValueId id) const { return id != kNoValue && feeds_[0].count(id) != 0; }
  bool varies(ValueId id) const { return array(0, id).shape != array(1, id).shape; }
  bool varies_at(ValueId id, size_t axis) const {
    return array(0, id).shape.at(axis) != array(1, id).shape.at(axis);
  }

 private:
  void count_uses();
  void evaluate_at(size_t k, const Interpreter& interpreter, const Node& node);
  void hold(size_t k, ValueId id, Array array);
  void let_go_of_inputs(const Node& node);

  const Graph& graph_;
  std::array<Feeds, 2> feeds_;
  std::map<ValueId, int> uses_;  // of what nodes compute, by nodes that were not evaluated yet
  int64_t held_ = 0;             // elements of arrays that were made
};

}  // namespace nibble::graph
