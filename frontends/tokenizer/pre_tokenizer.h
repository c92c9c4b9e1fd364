// The "pre_tokenizer" of tokenizer.json: cuts text into the words that the model then tokenizes one
// by one. Private to the tokenizer.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "frontends/tokenizer/json_view.h"

namespace nibble::frontends {

struct Word {
  std::string text;
  bool at_start = false;  // begins where the whole input begins
};

// Steps in order, each from one word to several; no steps: one word. Empty words are dropped.
struct PreTokenizer {
  using Step = std::function<void(const Word&, std::vector<Word>& out)>;
  std::vector<Step> steps;

  void add(const JsonView& json, int depth = 0);
  // Cuts out what a regular expression matches; `where` names it in messages.
  void add_split(const std::string& expression, const std::string& where);
  // Bytes to the characters that stand for them, after a space where `prefix` asks for one.
  void add_bytes(bool prefix);
  std::vector<Word> apply(Word word) const;
};

}  // namespace nibble::frontends
