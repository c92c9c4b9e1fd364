// Whether the operands of fused operators fit each other: what a damaged or strange model may get
// wrong and no kernel looks at any more. Called when fusing is complete, and before lowering (a
// .nib comes from outside).
#pragma once

#include "graph/graph.h"

namespace nibble::graph {

// Checks every node of domain "nibble" (ops.h) whose rows are hidden states: arity, lengths of
// constant vectors, widths of rows, heads. Throws Error naming the first offender, what it needs
// and what was found.
void check_fused(const Graph& graph);

}  // namespace nibble::graph
