// The documents that lie beside a model: the tokenizer's and the chat template, kept as they are,
// and the configuration, from which the context length and the ids that begin and end a text are
// read. Read for every frontend, written for every export.
#pragma once

#include <array>
#include <filesystem>
#include <span>
#include <string>

#include "graph/graph.h"

namespace nibble::frontends::documents {

// All that is looked for. Of two forms of the same tokenizer the first is kept: it says more.
inline constexpr std::array<const char*, 2> kTokenizers = {"tokenizer.json", "tokenizer.model"};
inline constexpr std::array<const char*, 4> kChat = {"tokenizer_config.json",
                                                     "special_tokens_map.json",
                                                     "chat_template.jinja", "chat_template.json"};
inline constexpr std::array<const char*, 3> kConfigurations = {
    "config.json", "generation_config.json", "genai_config.json"};

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

}  // namespace nibble::frontends::documents
