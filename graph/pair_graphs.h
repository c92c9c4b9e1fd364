// Two fused graphs that compute the same thing, node by node: which value of one is which of the
// other. An export pairs the graph it is given with the one that the target's description makes,
// and so learns where each number belongs; a graph that computes anything else is refused.
#pragma once

#include <vector>

#include "graph/graph.h"

namespace nibble::graph {

// For each value of `expected` the value of `given` in its place: constants too; kNoValue where
// nothing stands there, or where the graph's output does not need it. Walks up from the logits. The
// nodes' attributes must agree (floats to a thousandth, and but for `compute`), and so must the
// shapes of weights and vectors, but not their numbers; frequencies and slopes of Attention must
// agree in their numbers too, and are not paired. A constant that `expected` has once may be there
// twice in `given`, with the same numbers, and a LayerNorm's bias of zeros stands for none. Throws
// Error naming the first pair of nodes that do not.
std::vector<ValueId> pair_graphs(const Graph& given, const Graph& expected);

}  // namespace nibble::graph
