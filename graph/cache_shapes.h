// What the attention operators of a file say about its cache: sizes of heads that the cache inputs
// leave open, and the most positions that tables of rotations have rows for. Frontends call it once
// a graph is read.
#pragma once

#include "graph/graph.h"

namespace nibble::graph {

// Fills dimensions of cache inputs that are declared symbolic though GroupQueryAttention or
// Attention fixes them, and lowers (or, when it is unknown, sets) the context length to the rows of
// their tables.
void complete_cache_shapes(Graph& graph);

}  // namespace nibble::graph
