// The small verbs that passes are written in: who uses a value, swap a value, drop nodes, order
// nodes.
#pragma once

#include <functional>
#include <optional>
#include <string>
#include <vector>

#include "graph/graph.h"

namespace nibble::graph {

// Producers and consumers of a graph, current until the next rewrite.
class Links {
 public:
  explicit Links(const Graph& graph);
  // The node that makes the value, or null.
  const Node* producer(ValueId id) const;
  int32_t producer_index(ValueId id) const;
  const std::vector<int32_t>& consumers(ValueId id) const;
  // Whether node uses alone consume it, exactly once, and it is no graph output.
  bool single_use(ValueId id) const;
  bool is_output(ValueId id) const { return output_[static_cast<size_t>(id)]; }

 private:
  const Graph* graph_;
  std::vector<int32_t> producers_;
  std::vector<std::vector<int32_t>> consumers_;
  std::vector<bool> output_;
};

// Every use of `from` (nodes, graph outputs, io) becomes a use of `to`.
void replace_uses(Graph& graph, ValueId from, ValueId to);

// Erases the nodes whose index is marked.
void erase_nodes(Graph& graph, const std::vector<bool>& dead);

// Puts nodes in topological order, keeping the order of independent nodes. Throws Error on a cycle.
void sort_nodes(Graph& graph);

// Marks the values that fused operators (domain "nibble") make.
std::vector<bool> fused_values(const Graph& graph);

// The value of a constant with one element (any rank), as float; nullopt otherwise.
std::optional<float> scalar_constant(const Graph& graph, ValueId id);

// Whether a node multiplies as MatMul does, of transposed operands: a FusedMatMul that
// expand_operators left, without a factor.
bool is_swapped_product(const Node& node);

// Whether a node is one of the two fused norms of a hidden state.
bool is_norm(const Node& node);

// The layer number inside a node's or value's name ("layers.3", "h.3", "blocks.3", ...), or -1.
int64_t layer_of_name(const std::string& name);

// Whether a value is a hidden state: floats of shape [B, S, width], which fused operators make and
// elementwise operators keep. Gives the width (0 = not a hidden state), by value.
std::vector<int64_t> hidden_widths(const Graph& graph);

}  // namespace nibble::graph
