// How many operands an operator must have. Passes look at a node's first inputs and outputs by
// number; what a file left out is refused here, once, before any pass sees it.
#pragma once

#include "graph/graph.h"

namespace nibble::graph {

// Throws Error naming the node whose first output, or one of whose first inputs, is missing.
// Operators that are not known need none.
void check_operands(const Graph& graph);

}  // namespace nibble::graph
