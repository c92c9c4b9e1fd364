// The derivatives of the fused operators (graph/ops.h), written by hand: from the gradient of a
// loss by a block's outputs back to its activations and the weights of its Linears. Norms, biases
// and embeddings stay as they are, so there is no gradient by them. What the forward computed
// inside a node (products before an activation, attention weights) is computed again, which costs
// less than keeping it. Results are the same bits on any number of threads.
#pragma once

#include <functional>
#include <map>
#include <span>
#include <vector>

#include "quant/blocks/node_forward.h"

namespace nibble::quant {

// d loss / d activation, [rows][width].
using Gradients = std::map<graph::ValueId, Activation>;

// Where the gradient by a Linear's weight is to be added, [n][k]; empty: nowhere.
using GradientOf = std::function<std::span<float>(const graph::Node&)>;

class NodeBackward {
 public:
  // Both must outlive this.
  NodeBackward(const graph::Graph& graph, runtime::ThreadPool& pool) : graph_(graph), pool_(pool) {}

  // Takes the gradients by the node's outputs out of `gradients` and adds those by its inputs where
  // wanted[id] says so (empty: everywhere). values: the node's inputs, as forward took them. A
  // Linear's weight is `weight` unless that is empty; weight_gradient, unless empty, gets
  // d loss / d weight added. Does nothing when no output has a gradient. Throws Error as
  // NodeForward does.
  void run(const graph::Node& node, const Batch& batch, const Activations& values,
           Gradients& gradients, const std::vector<bool>& wanted = {},
           std::span<const float> weight = {}, std::span<float> weight_gradient = {},
           const Steps& steps = {}) const;

  // A whole block, of which forward kept all activations (Keep::all), from the gradients by its
  // outputs. Computes only what leads to a weight gradient: not the gradients by the block's
  // inputs.
  void run(const Block& block, const Batch& batch, const Activations& values, Gradients gradients,
           const WeightOf& weight_of, const GradientOf& gradient_of, const Steps& steps = {}) const;

 private:
  class Call;
  const graph::Graph& graph_;
  runtime::ThreadPool& pool_;
};

}  // namespace nibble::quant
