// The "added_tokens" of tokenizer.json: texts that are one token wherever they stand, found before
// (or, when normalized, after) the normalizer runs. Private to the tokenizer.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "frontends/tokenizer/byte_trie.h"
#include "frontends/tokenizer/json_view.h"
#include "frontends/tokenizer/model.h"
#include "frontends/tokenizer/normalizer.h"

namespace nibble::frontends {

struct AddedToken {
  std::string content;
  int32_t id = 0;
  bool special = false, normalized = false, single_word = false, lstrip = false, rstrip = false;
};

// A stretch of text that is one added token (id >= 0), or is to be tokenized (id -1).
struct TextPiece {
  std::string_view text;
  int32_t id = -1;
};

class AddedTokens {
 public:
  AddedTokens() = default;
  // Throws Error when a token contradicts the vocabulary or another token; `origin` names the file.
  AddedTokens(const std::string& origin, std::vector<AddedToken> tokens,
              const Vocabulary& vocabulary, const Normalizer& normalizer);

  // Cuts `text` at the tokens to be found before normalizing (`normalized` false), or after it. The
  // longest token that starts leftmost wins.
  std::vector<TextPiece> cut(std::string_view text, bool normalized) const;

  const std::vector<AddedToken>& tokens() const { return tokens_; }

 private:
  std::vector<AddedToken> tokens_;
  ByteTrie before_, after_;  // places in tokens_, by what is looked for
};

std::vector<AddedToken> read_added_tokens(const JsonView& json);

}  // namespace nibble::frontends
