// Norms and clips of Q, K and V inside an attention subgraph (attention_meaning.h): which nodes
// they are, the graph without them, and what they do.
#pragma once

#include <vector>

#include "graph/attention_meaning.h"
#include "graph/graph.h"

namespace nibble::graph {

// Whether each node is a norm of Q or K: of heads, which are no hidden states, or of a projection
// that goes on to be cut into heads.
std::vector<bool> find_head_norms(const Graph& graph);
// Whether each node is a clip.
std::vector<bool> find_clips(const Graph& graph);

// The graph in which they pass on what they get.
Graph without_head_norms(const Graph& graph);

// Once the columns are found: the norms and the clip, not their order. Throws NotAttention.
void find_norms(const ProbeGraphs& probes, const AttentionRegion& region,
                AttentionMeaning& meaning);
void find_clip(const Graph& graph, const AttentionRegion& region, AttentionMeaning& meaning);

}  // namespace nibble::graph
