// What a GGUF's metadata say beside the model itself, as the documents that a folder would have:
// the vocabulary (tokenizer.gguf.json, see frontends/tokenizer/gguf_vocabulary.h), and a
// tokenizer_config.json with the chat template and the texts of the tokens that it writes.
#pragma once

#include <map>
#include <optional>
#include <string>

#include "frontends/gguf/gguf_file.h"
#include "frontends/tokenizer/gguf_vocabulary.h"
#include "graph/graph.h"

namespace nibble::frontends::gguf {

// Nothing when the file has none ("tokenizer.ggml.model" absent, or "none" as it says then).
std::optional<GgufVocabulary> read_vocabulary(const File& file);
std::map<std::string, std::string> read_documents(const File& file);
// Documents, the ids that begin and end a text, and the context length. Throws Error naming the
// key.
void read_documents(const File& file, graph::Graph& graph);

}  // namespace nibble::frontends::gguf
