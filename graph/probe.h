// Finding out what a subgraph means by evaluating it on inputs that tell. Passes match meaning, not
// spelling: a mask is what masks, a rotation is what rotates, whatever operators an exporter wrote.
#pragma once

#include <cstdint>
#include <vector>

#include "graph/graph.h"
#include "graph/interpreter.h"

namespace nibble::graph {

// What a probe may use, by the size of the model: a file's arrays and steps are bounded by its
// length, whatever its nodes say.
InterpreterLimits probe_limits(const Graph& graph);

// The inputs of one decoder call of batch 1: `tokens` new ids after `past` cached positions.
struct ProbeCall {
  int64_t tokens = 1, past = 0;
  // Cache tensors as [1, 1, past, 1] instead of their declared shape: enough where only shapes
  // matter.
  bool thin_cache = true;
};

// An export without a cache computes every token of a call from the first on ("prefix form"): a
// probe of tokens after others computes those too, and looks at the last rows.
bool is_prefix_form(const Graph& graph);
// The positions that probes of such an export look at: a fused model serves no more than these.
int64_t prefix_positions(const Graph& graph);
// The rows that a call computes, and the position of the first.
int64_t rows_of_call(const Graph& graph, const ProbeCall& call);
int64_t first_position(const Graph& graph, const ProbeCall& call);

// Feeds for every graph input: ids 0, mask 1, positions past..past+tokens, cache zeros. Throws
// Error when a cache of the declared shape is larger than probes may use.
Feeds decoder_feeds(const Graph& graph, const ProbeCall& call);

// [1, length] of ones in the type of `id`: a mask that hides nothing, whether it multiplies,
// selects or is added to all scores alike.
Array ones_like(const Graph& graph, ValueId id, int64_t length);

// The last position that probes look at: the context's (up to a million), or one far enough when
// the model does not say.
int64_t furthest_position(const Graph& graph);

// The declared shape of a cache input with batch 1 and `past` positions.
Shape cache_shape(const Graph& graph, ValueId past_input, int64_t past);

// The values that `wanted` depends on, stopping at values for which stop() is true (they are
// included in `frontier`). Nodes in ascending order.
struct Slice {
  std::vector<int32_t> nodes;
  std::vector<ValueId> frontier;      // stopped values that the slice uses
  std::vector<ValueId> graph_inputs;  // graph inputs that it uses
};
Slice backward_slice(const Graph& graph, std::span<const ValueId> wanted,
                     const std::vector<bool>& stop);

// Largest |a - b| / max(1e-6, max |b|); infinity when sizes differ or a value is not finite.
double relative_difference(std::span<const float> a, std::span<const float> b);

// Deterministic values in [-1, 1).
std::vector<float> probe_values(size_t count, uint32_t seed);

}  // namespace nibble::graph
