// What the fused operators of a graph are, layer by layer, for reports. It looks at the graph
// alone, so a graph that a frontend built fused is described as one that passes fused.
#pragma once

#include <vector>

#include "graph/graph.h"
#include "graph/passes.h"

namespace nibble::graph {

// The layer that each node belongs to, by what it computes for whom and not by its name: that of
// the attention it leads to or comes from; -1 before the first, after the last, and where there is
// no fused attention to tell.
std::vector<int64_t> layers_of_nodes(const Graph& graph);

// An entry for each fused operator, in the order of the graph.
std::vector<FusionEntry> describe_fused(const Graph& graph);

}  // namespace nibble::graph
