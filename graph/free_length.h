// Exports of one length. A model that was exported for [1, N] ids, without a cache and without
// names for its dimensions, is the graph of any length with constants where shapes, positions and
// causal masks stood. This puts the length of input_ids back in their place. Called by fuse(),
// which keeps the graph as it was unless all of what comes of this fuses: passes match meaning by
// probing at several lengths, so what depends on N in a way that is not seen here finds no match.
#pragma once

#include <cstdint>

#include "graph/graph.h"
#include "graph/passes.h"

namespace nibble::graph {

// The number of ids that an export without a cache takes at a time, no more and no less; 0 when
// there is no such number.
int64_t fixed_length(const Graph& graph);

// Makes the graph one of any length; of no more than N where it holds a table of N positions, whose
// formula is not known (context_length says so). Returns how many places changed; 0, and the graph
// as it was, when something depends on N in a way that is not known, which the report names. Wants
// products with weights in their fused form (Linear), as they are not computed here.
int free_length(Graph& graph, FusionReport& report);

}  // namespace nibble::graph
