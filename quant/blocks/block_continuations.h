// How likely a fused graph in fp32 finds given ids after a context: what ContinuationScorer asks of
// a decoder, block after block, as block_logits.h does it, without ever holding more than one of
// the model's matrices in fp32.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "graph/graph.h"
#include "quant/scores/continuations.h"
#include "runtime/thread_pool.h"

namespace nibble::quant {

// The scores in the order of `items`, which are run many at a time, those of about the same length
// together. Nothing is truncated. progress(done, total) counts ids; what it throws ends the work.
// Memory: the activations of kContinuationIds ids, or of one item where that is longer. Throws
// Error when an item has no context or no continuation, and as NodeForward does.
inline constexpr int64_t kContinuationIds = 16384;
std::vector<ContinuationScore> block_continuations(
    const graph::Graph& graph, std::span<const Continuation> items, runtime::ThreadPool& pool,
    const std::function<void(int64_t, int64_t)>& progress);

}  // namespace nibble::quant
