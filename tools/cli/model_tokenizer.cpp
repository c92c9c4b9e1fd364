#include "tools/cli/model_tokenizer.h"

namespace nibble::cli {

frontends::Tokenizer make_tokenizer(const std::string& name, const std::string& bytes,
                                    const std::string& origin) {
  if (name == frontends::kGgufVocabularyDocument) {
    const auto vocabulary = frontends::gguf_vocabulary_from_json(bytes, origin);
    return frontends::Tokenizer::from_gguf(vocabulary, origin);
  }
  if (name.ends_with(".model")) return frontends::Tokenizer::from_sentencepiece(bytes, origin);
  return frontends::Tokenizer::from_json(bytes, origin);
}

std::optional<frontends::Tokenizer> tokenizer_of(const graph::Graph& graph) {
  for (const char* name : kTokenizerFiles) {
    const auto it = graph.documents.find(name);
    if (it == graph.documents.end()) continue;
    return make_tokenizer(name, it->second, graph.origin + ": " + name);
  }
  return std::nullopt;
}

}  // namespace nibble::cli
