// Where a text without word boundaries can be cut so that no merge ever crosses the cut: in front
// of a space's mark, after a character that no merged token has in front of a mark. The parts are
// tokenized apart, with the same ids, and those met before are not tokenized again.
// Private to the tokenizer.
#pragma once

#include <string_view>
#include <unordered_set>

#include "frontends/tokenizer/model.h"
#include "frontends/tokenizer/unicode.h"

namespace nibble::frontends {

class WordSeams {
 public:
  // Every token that a merge makes has to be added.
  void add(std::string_view token) {
    for (size_t at = token.find(kMark, 1); at < token.size(); at = token.find(kMark, at + 1)) {
      crossed_.insert(previous_code_point(token, at));
    }
  }

  // Whether cutting makes sense: the mark is a token itself. (Were it unknown, it could be fused
  // with unknown characters before it.)
  bool possible(const Vocabulary& vocabulary) const { return vocabulary.contains(kMark); }

  // take(part) for each part of `word`, in order.
  template <typename Take>
  void cut(std::string_view word, Take&& take) const {
    size_t begin = 0;
    for (size_t at = word.find(kMark, 1); at < word.size(); at = word.find(kMark, at + 1)) {
      const char32_t before = previous_code_point(word, at);
      if (before == U'\u2581' || crossed_.contains(before)) continue;
      take(word.substr(begin, at - begin));
      begin = at;
    }
    take(word.substr(begin));
  }

 private:
  static constexpr std::string_view kMark = "\xE2\x96\x81";  // U+2581
  std::unordered_set<char32_t> crossed_;
};

}  // namespace nibble::frontends
