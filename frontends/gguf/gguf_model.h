// Reads a .gguf into the canonical Graph: weights stay in the mapped file, vocabulary and chat
// template become documents (gguf_documents.h). The file is never trusted.
#pragma once

#include <string>

#include "graph/graph.h"

namespace nibble::frontends {

struct GgufModel {
  graph::Graph graph;
  std::string description;  // a line for people: which architecture, and how it was read
};

// Throws Error naming the file, the key or the tensor, what was expected and what was found: for an
// architecture or a key that is not known too, because it might change what is computed.
GgufModel load_gguf(const std::string& path);

}  // namespace nibble::frontends
