// The logits of a fused graph in fp32 over whole windows of text, block after block: what a model
// says before its weights are quantized, without ever holding more than one of its matrices in fp32
// (a decoder would need them all).
#pragma once

#include <cstdint>
#include <functional>
#include <span>

#include "graph/graph.h"
#include "quant/scores/base_scores.h"
#include "quant/scores/windows.h"
#include "runtime/thread_pool.h"

namespace nibble::quant {

// As score_base (perplexity.h) of a decoder that computes in fp32 throughout. progress(done, total)
// counts nodes of the graph; what it throws ends the work. Memory: BaseScores, and the activations
// of all windows (4 x width bytes an id). Throws Error as BaseScores and NodeForward do.
BaseScores block_logits(const graph::Graph& graph, std::span<const int32_t> ids,
                        const Protocol& protocol, runtime::ThreadPool& pool,
                        const std::function<void(int64_t, int64_t)>& progress);

}  // namespace nibble::quant
