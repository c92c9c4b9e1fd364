// The tokenizer of a model, whichever form it has.
#pragma once

#include <array>
#include <optional>
#include <string>

#include "frontends/documents/documents.h"
#include "frontends/tokenizer/gguf_vocabulary.h"
#include "frontends/tokenizer/tokenizer.h"
#include "graph/graph.h"

namespace nibble::cli {

// What a tokenizer is looked for in, in this order.
inline constexpr std::array<const char*, 3> kTokenizerFiles = {frontends::documents::kTokenizers[0],
                                                               frontends::documents::kTokenizers[1],
                                                               frontends::kGgufVocabularyDocument};
// From the contents of a file: a name that ends in .model is SentencePiece's,
// kGgufVocabularyDocument a GGUF's vocabulary, any other JSON.
frontends::Tokenizer make_tokenizer(const std::string& name, const std::string& bytes,
                                    const std::string& origin);
// The tokenizer among the documents of a graph; nullopt when there is none.
std::optional<frontends::Tokenizer> tokenizer_of(const graph::Graph& graph);

}  // namespace nibble::cli
