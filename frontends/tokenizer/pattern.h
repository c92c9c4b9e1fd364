// What a "pattern" of tokenizer.json matches: a literal string, a regular expression in the dialect
// that tokenizers are written in (Oniguruma's Ruby syntax), run by PCRE2, or a class of characters.
// Private to the tokenizer.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "frontends/tokenizer/json_view.h"

namespace nibble::frontends {

struct Span {
  size_t begin = 0, end = 0;
  bool match = false;
};

class Pattern {
 public:
  // {"String": text} or {"Regex": expression}. Throws Error when it does not compile or uses syntax
  // whose meaning differs between the two dialects.
  static Pattern from_json(const JsonView& json);
  static Pattern literal(std::string text);
  static Pattern regex(const std::string& expression, const std::string& where);
  static Pattern characters(std::function<bool(char32_t)> holds);

  // The whole of `text` (valid UTF-8) as matches, which may be empty, and what lies between, which
  // is not. Empty text gives no spans.
  std::vector<Span> find(std::string_view text) const;
  std::string replace_all(std::string_view text, std::string_view content) const;

 private:
  struct Regex;
  Pattern() = default;

  std::string literal_;
  std::shared_ptr<const Regex> regex_;
  std::function<bool(char32_t)> holds_;
};

// Rewrites an expression in Oniguruma's dialect so that PCRE2 (UTF and UCP) means the same by it:
// white space and word characters are spelled out, since the two disagree about some (U+180E,
// combining marks). Exposed for tests.
std::string to_pcre(const std::string& expression, const std::string& where);

}  // namespace nibble::frontends
