// The vocabulary of a GGUF file, as its metadata state it ("tokenizer.ggml.*"); the reader of GGUF
// fills this in for Tokenizer::from_gguf. It is no reader of files itself.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::frontends {

struct GgufVocabulary {
  std::string model;                 // "llama" (SentencePiece BPE), "gpt2" (byte-level BPE), "t5"
  std::string pre;                   // of gpt2: the name of the pre-tokenizer; empty: "default"
  std::vector<std::string> tokens;   // by id
  std::vector<float> scores;         // by id; of gpt2 may be empty
  std::vector<int32_t> token_types;  // by id: 1 normal, 2 unknown, 3 control, 4 user-defined,
                                     // 5 unused, 6 byte; empty: all normal
  std::vector<std::string> merges;   // of gpt2: "left right"
  int64_t bos_id = -1, eos_id = -1;  // -1: not stated
  // -1: not stated, and as llama.cpp has it by default; else 0 or 1.
  int add_bos = -1, add_eos = -1, add_space_prefix = -1, remove_extra_whitespaces = -1;
  std::string precompiled_charsmap;  // bytes
};

// The form in which a vocabulary travels with a graph and in a .nib: the document of this name.
inline constexpr const char* kGgufVocabularyDocument = "tokenizer.gguf.json";
// Throw Error naming `origin`: for text that is not UTF-8; for what to_json() did not write.
std::string to_json(const GgufVocabulary& vocabulary, const std::string& origin);
GgufVocabulary gguf_vocabulary_from_json(std::string_view text, const std::string& origin);

}  // namespace nibble::frontends
