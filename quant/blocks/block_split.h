// Cuts a fused graph into the blocks that calibration runs one after another: what comes before
// the layers, each layer, and the tail that makes the logits. A block is a run of consecutive
// nodes; a cut lies where the fewest activations are alive, for they are what calibration keeps of
// all its tokens.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "graph/graph.h"

namespace nibble::quant {

struct Block {
  int64_t layer = 0;  // -1: embeddings and what follows them; number of layers: norm, head, scale
  size_t first_node = 0, end_node = 0;
  // Activations that the block takes from the blocks before it, and those that later ones take of
  // what is alive at its end (one of them in all known architectures). The tail gives the logits.
  std::vector<graph::ValueId> inputs, outputs;
};

// The blocks of a graph of one Attention a layer, in order; together they are all of its nodes.
// Throws Error naming the first node that is no fused operator.
std::vector<Block> split_blocks(const graph::Graph& graph);

// The activations that no node at or behind `node` of the block needs, nor its outputs: for each
// node of the block, what may be dropped once it has run.
std::vector<std::vector<graph::ValueId>> last_uses(const graph::Graph& graph, const Block& block);

}  // namespace nibble::quant
