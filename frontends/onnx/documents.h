// The documents that lie beside a model: the tokenizer's and the chat template, kept as they are,
// and the configuration, from which the context length and the ids that begin and end a text are
// read.
#pragma once

#include <filesystem>
#include <span>

#include "graph/graph.h"

namespace nibble::frontends::onnx {

// Reads the documents found in the first of `folders` that has them into graph.documents, and sets
// context_length, eos_ids and bos_id. Throws Error naming the document that is broken.
void read_documents(std::span<const std::filesystem::path> folders, graph::Graph& graph);

}  // namespace nibble::frontends::onnx
