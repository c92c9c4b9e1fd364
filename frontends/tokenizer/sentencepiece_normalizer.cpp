// SentencePiece's normalizer: replaces characters by a table, takes away spaces where that is
// asked, puts one in front of the text and writes spaces as U+2581. Texts that are pieces by the
// user's word are left as they are.
#include "frontends/tokenizer/byte_trie.h"
#include "frontends/tokenizer/sentencepiece_model.h"
#include "frontends/tokenizer/unicode.h"

namespace nibble::frontends {
namespace {

class SentencePieceNormalizer {
 public:
  explicit SentencePieceNormalizer(const SentencePieceModel& model)
      : charsmap_(model.charsmap),
        space_(model.escape_whitespaces ? "\xE2\x96\x81" : " "),
        prefix_(model.add_dummy_prefix && !model.whitespace_as_suffix),
        suffix_(model.add_dummy_prefix && model.whitespace_as_suffix),
        remove_extra_(model.remove_extra_whitespaces) {
    std::vector<std::pair<std::string, int32_t>> kept;
    for (const auto& piece : model.pieces) {
      if (piece.type == PieceType::user_defined) kept.emplace_back(piece.text, 0);
    }
    kept_ = ByteTrie(std::move(kept));
  }

  std::string apply(std::string_view text) const {
    while (remove_extra_ && !text.empty()) {
      const Prefix prefix = normalize_prefix(text);
      if (prefix.text != " ") break;
      text.remove_prefix(prefix.length);
    }
    std::string out;
    if (text.empty()) return out;
    out.reserve(text.size() + text.size() / 2);
    if (prefix_) out += space_;
    bool after_space = remove_extra_;
    while (!text.empty()) {
      Prefix prefix = normalize_prefix(text);
      while (after_space && prefix.text.starts_with(' ')) prefix.text.remove_prefix(1);
      for (char c : prefix.text) {
        if (c == ' ') {
          out += space_;
        } else {
          out += c;
        }
      }
      if (!prefix.text.empty()) after_space = prefix.text.ends_with(' ');
      if (!remove_extra_) after_space = false;
      text.remove_prefix(prefix.length);
    }
    while (remove_extra_ && out.ends_with(space_)) out.resize(out.size() - space_.size());
    if (suffix_) out += space_;
    return out;
  }

 private:
  // What the first `length` bytes become.
  struct Prefix {
    std::string_view text;
    size_t length;
  };
  Prefix normalize_prefix(std::string_view text) const {
    if (const size_t length = kept_.longest(text).length; length > 0) {
      return {text.substr(0, length), length};
    }
    if (const Charsmap::Match match = charsmap_.longest(text); match.length > 0) {
      return {match.replacement, match.length};
    }
    const size_t length = utf8_length(text[0]);
    return {text.substr(0, length), length};
  }

  Charsmap charsmap_;
  ByteTrie kept_;
  std::string space_;
  bool prefix_, suffix_, remove_extra_;
};

}  // namespace

Normalizer::Step sentencepiece_normalizer(const SentencePieceModel& model) {
  auto normalizer = std::make_shared<const SentencePieceNormalizer>(model);
  return [normalizer](std::string& text) { text = normalizer->apply(text); };
}

}  // namespace nibble::frontends
