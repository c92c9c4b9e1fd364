// Builds the canonical graph (graph/ops.h) that a description and a checkpoint make: the one that
// an ONNX export of the same model becomes by the passes. Weights stay mapped; only norms, biases
// and other small vectors are copied. What no fused operator does (softcaps of the logits, clipped
// projections) becomes ONNX operators, for the passes to fuse or the interpreter to run.
#pragma once

#include "frontends/decoder/checkpoint.h"
#include "frontends/decoder/description.h"
#include "graph/graph.h"

namespace nibble::frontends::decoder {

// Throws Error naming the tensor that is missing, of another shape or type than the description
// says, or that the description has no place for.
graph::Graph build_decoder(const Description& description, Checkpoint& checkpoint);

}  // namespace nibble::frontends::decoder
