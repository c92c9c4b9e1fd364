// Writes a quantized model as a Hugging Face folder with GPTQ's layout, which transformers,
// GPTQModel, vLLM and others read (quantized_weights.h draws it). Only what the layout can hold is
// written, never rounded: the matrices of the layers as int4 with fp16 scales, in groups of one
// size, columns and k in eights. Everything else is floats: norms and biases as the graph has them
// (folded scales included), the embedding and the output matrix as the numbers that their int8 or
// int4 forms stand for. Floats are fp16 or bf16 where these hold every number, else fp32.
//
// The names and the order of columns follow from config.json among the graph's documents, whatever
// the model came from, for every family that load_safetensors() knows. It reads the folder back to
// the same packed layers, bit for bit. (Gemma's norms are stored less one, which can move their
// last bit.)
#pragma once

#include <string>

#include "graph/graph.h"

namespace nibble::frontends {

struct GptqOptions {
  bool v2 = false;  // zero points as they are; v1, which all readers know, stores them less one
};

// Writes model.safetensors, config.json with its quantization_config, and the graph's documents
// into `folder`, which is made where it is missing. Throws Error naming the tensor, what GPTQ
// expects and what was found.
void write_gptq(const graph::Graph& graph, const std::string& folder, const GptqOptions& options);

}  // namespace nibble::frontends
