// Nodes that compute at any length what a graph of one length holds as constants: the length,
// shapes with it, positions, causal masks. They are put in front of the node that will use them.
#pragma once

#include <cstddef>
#include <cstdint>
#include <map>
#include <set>
#include <string>
#include <vector>

#include "graph/graph.h"
#include "graph/interpreter.h"
#include "graph/length_patterns.h"

namespace nibble::graph {

class LengthNodes {
 public:
  explicit LengthNodes(Graph& graph) : graph_(graph) {}

  // What is added from now on lies in front of the node of this number, and in order.
  void begin(size_t node) { end_ = node; }
  // The number that this node has by now.
  size_t end() const { return end_; }

  ValueId add(const char* op, std::vector<ValueId> inputs,
              std::map<std::string, Attribute> attributes = {});
  ValueId ints(std::vector<int64_t> values);
  ValueId length_vector();  // [1]
  // A vector of integers with the length where `at` says so; a constant where that is nowhere.
  ValueId vector_with_length(const std::vector<int64_t>& values, const std::vector<bool>& at);
  ValueId positions(int64_t first);
  // Of the kind and rank of `like`.
  ValueId band_mask(const Array& like, const BandMask& mask);

  // Whether the value is a scalar from here, or one that was kept as if it were.
  bool put(ValueId id) const { return put_.count(id) != 0; }
  void keep(ValueId id) { put_.insert(id); }

 private:
  ValueId constant(TensorData tensor);
  ValueId scalar(int64_t value);
  ValueId length_scalar();

  Graph& graph_;
  size_t end_ = 0;
  std::set<ValueId> put_;
};

}  // namespace nibble::graph
