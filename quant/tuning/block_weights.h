// The weights of a block's Linears in fp32, float and as they are while the block is tuned.
#pragma once

#include <map>
#include <vector>

#include "graph/graph.h"
#include "quant/blocks/block_split.h"
#include "quant/blocks/linear_node.h"
#include "quant/tuning/block_tuning.h"

namespace nibble::quant {

struct TunedWeight {
  const graph::Node* node = nullptr;
  jit::WeightFormat format;
  int64_t n = 0, k = 0;
  std::vector<float> w;        // [n][k], of the model
  std::vector<float> current;  // what the block computes with
  std::vector<float> gradient;
};

// Those of the block that have a format other than f32, by the number of their node. A weight that
// is packed in the graph already stays as it is.
std::map<size_t, TunedWeight> read_tuned_weights(const graph::Graph& graph,
                                                 runtime::ThreadPool& pool, const Block& block,
                                                 const Formats& formats);

// For BlockObjective: `current` and `gradient` of these, nothing of others.
WeightOf current_weights(const std::map<size_t, TunedWeight>& weights);
GradientOf weight_gradients(std::map<size_t, TunedWeight>& weights);
void clear_gradients(std::map<size_t, TunedWeight>& weights);

}  // namespace nibble::quant
