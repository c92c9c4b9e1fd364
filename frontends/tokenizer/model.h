// The "model" of tokenizer.json: one word to ids. Private to the tokenizer.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "frontends/tokenizer/json_view.h"

namespace nibble::frontends {

// Text of a token to its id, one to one.
using Vocabulary = std::unordered_map<std::string, int32_t>;

class Model {
 public:
  virtual ~Model() = default;
  // Appends the ids of a word (not empty, valid UTF-8). Throws Error when a character has no token
  // and there is nothing to stand for it.
  virtual void tokenize(std::string_view word, std::vector<int32_t>& ids) const = 0;

  const Vocabulary& vocabulary() const { return vocabulary_; }

 protected:
  // -1 when there is no such token.
  int32_t id_of(const std::string& token) const {
    auto it = vocabulary_.find(token);
    return it == vocabulary_.end() ? -1 : it->second;
  }
  // Appends the tokens "<0xXX>" of a text's bytes; false (and nothing) when one is missing.
  bool append_byte_tokens(std::string_view text, std::vector<int32_t>& ids) const;

  Vocabulary vocabulary_;
};

// An id as a file may state it: not negative and not absurd.
int32_t read_id(const JsonView& json);

std::unique_ptr<Model> make_bpe(const JsonView& json);
std::unique_ptr<Model> make_unigram(const JsonView& json);
// By "type"; throws Error naming one that is not known.
std::unique_ptr<Model> make_model(const JsonView& json);

}  // namespace nibble::frontends
