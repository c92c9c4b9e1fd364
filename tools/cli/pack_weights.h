// The weights of a graph as the options ask for them. Quantizing itself is quant/'s; here it is
// decided what may be quantized, and people are told of what cannot be kept.
#pragma once

#include "graph/graph.h"
#include "quant/formats/quantize.h"
#include "runtime/packed_matrix.h"
#include "runtime/thread_pool.h"
#include "tools/cli/model_options.h"

namespace nibble::cli {

// Weights that the model's file holds quantized keep their numbers. Throws UsageError when an
// option that was given asks for something else; warns when no packed format holds them.
void respect_quantized(const graph::Graph& graph, const WeightOptions& weights);
// Packs one weight of `graph`; random values for shapes.
runtime::PackedMatrix pack_weight(const graph::Graph& graph, graph::ValueId id,
                                  const jit::WeightFormat& format, quant::RtnRange range,
                                  runtime::ThreadPool& pool);
// Packs all weights, but f32 ones under the interpreter, which reads those where they are.
void pack_all(graph::Graph& graph, const WeightOptions& weights, bool interpreted,
              runtime::ThreadPool& pool);

}  // namespace nibble::cli
