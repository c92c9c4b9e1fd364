// Builds a Graph from a parsed ONNX model: names become numbered values, initializers and Constant
// nodes become constants, the rest become nodes. It checks what ONNX promises (each name made once,
// nothing made from itself, known domains) and refuses what a decoder graph cannot have (loops,
// functions, sparse tensors). Of an If with a constant condition one branch becomes part of the
// graph; of one on a graph input, as merged decoders have it on use_cache_branch, the branch that
// is taken when it is true. Whether an operator is known is for the graph's users to say.
#pragma once

#include "frontends/onnx/model_proto.h"
#include "frontends/onnx/tensor_loader.h"
#include "graph/graph.h"

namespace nibble::frontends::onnx {

inline constexpr int64_t kOldestOpset = 13, kNewestOpset = 24;

// Throws Error naming the file and the node or tensor. Leaves io and documents empty.
graph::Graph build_graph(const ModelProto& model, const WireFile& file, TensorLoader& loader);

// Finds the parts of decoding by the names that exporters give them: input_ids, attention_mask,
// position_ids, logits, past_key_values.N.key/.value and present.N.key/.value (or
// present_key_values.N.key/.value). Throws Error naming what is missing, or an input that has no
// known part.
graph::DecoderIo find_decoder_io(const graph::Graph& graph);

}  // namespace nibble::frontends::onnx
