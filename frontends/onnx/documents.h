// The documents that lie beside a model: the tokenizer's and the chat template, kept as they are,
// and the configuration, from which the context length and the ids that begin and end a text are
// read. Read for every frontend, written for every export.
#pragma once

#include <filesystem>
#include <span>
#include <string>

#include "graph/graph.h"

namespace nibble::frontends::onnx {

// Reads the documents found in the first of `folders` that has them into graph.documents, and sets
// context_length, eos_ids and bos_id. Throws Error naming the document that is broken.
void read_documents(std::span<const std::filesystem::path> folders, graph::Graph& graph);

// The config.json of a model that is written: the document, with the context length, eos and bos
// that the graph has where reading it back would find others.
std::string configuration_text(const graph::Graph& graph);

// Writes the graph's documents into `folder`, config.json with this text. Throws Error naming a
// document whose name is no file's.
void write_documents(const graph::Graph& graph, const std::string& configuration,
                     const std::filesystem::path& folder);

}  // namespace nibble::frontends::onnx
