// Reads a Hugging Face folder (config.json, model.safetensors or its shards) into the canonical
// Graph, with no export in between. Weights stay mapped. The files are never trusted.
#pragma once

#include <string>

#include "graph/graph.h"

namespace nibble::frontends {

struct SafetensorsModel {
  graph::Graph graph;
  std::string description;  // a line for people: which family's description was used, and how
};

// `path`: a folder, or a .safetensors file beside which config.json lies. Documents beside it
// (tokenizer.json, tokenizer_config.json, config.json, generation_config.json) are read along.
// Throws Error naming the file, the tensor or the key, what was expected and what was found.
SafetensorsModel load_safetensors(const std::string& path);

}  // namespace nibble::frontends
