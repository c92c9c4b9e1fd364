// The two models that know whole words: WordLevel, and WordPiece, which takes the longest pieces
// from the left. What they do not know becomes the unknown token.
#include <algorithm>

#include "frontends/tokenizer/model.h"
#include "frontends/tokenizer/unicode.h"

namespace nibble::frontends {
namespace {

class WordLevel : public Model {
 public:
  explicit WordLevel(const JsonView& json)
      : origin_(json.origin()), unknown_(json.string_or("unk_token", "<unk>")) {
    json.allow_only({"type", "vocab", "unk_token"});
    vocabulary_ = read_vocabulary(json.at("vocab"));
  }

 private:
  void tokenize_word(std::string_view word, std::vector<int32_t>& ids) const override {
    int32_t id = id_of(word);
    if (id < 0) id = id_of(unknown_);
    if (id < 0) {
      fail("{}: the vocabulary has no token for \"{}\", and none for the unknown (\"{}\").",
           origin_, word, unknown_);
    }
    ids.push_back(id);
  }

  std::string origin_, unknown_;
};

class WordPiece : public Model {
 public:
  explicit WordPiece(const JsonView& json)
      : origin_(json.origin()),
        unknown_(json.string_or("unk_token", "[UNK]")),
        prefix_(json.string_or("continuing_subword_prefix", "##")),
        most_(json.integer_or("max_input_chars_per_word", 100)) {
    json.allow_only(
        {"type", "vocab", "unk_token", "continuing_subword_prefix", "max_input_chars_per_word"});
    vocabulary_ = read_vocabulary(json.at("vocab"));
    for (const auto& [token, id] : vocabulary_) longest_ = std::max(longest_, token.size());
  }

 private:
  void tokenize_word(std::string_view word, std::vector<int32_t>& ids) const override {
    const size_t before = ids.size();
    bool known = count_characters(word) <= most_;
    for (size_t at = 0; known && at < word.size();) {
      std::string piece = at > 0 ? prefix_ : "";
      const size_t skip = piece.size();
      piece += word.substr(at, longest_);
      // From the longest on; what ends within a character is in no vocabulary.
      int32_t id = -1;
      while (piece.size() > skip && (id = id_of(piece)) < 0) piece.pop_back();
      known = id >= 0;
      if (known) ids.push_back(id);
      at += piece.size() - skip;
    }
    if (known) return;
    ids.resize(before);
    const int32_t id = id_of(unknown_);
    if (id < 0) fail("{}: the vocabulary lacks the unk_token \"{}\".", origin_, unknown_);
    ids.push_back(id);
  }
  static int64_t count_characters(std::string_view word) {
    int64_t count = 0;
    for (size_t at = 0; at < word.size(); at += utf8_length(word[at])) ++count;
    return count;
  }

  std::string origin_, unknown_, prefix_;
  int64_t most_;
  size_t longest_ = 0;
};

}  // namespace

std::unique_ptr<Model> make_word_level(const JsonView& json) {
  return std::make_unique<WordLevel>(json);
}
std::unique_ptr<Model> make_word_piece(const JsonView& json) {
  return std::make_unique<WordPiece>(json);
}

}  // namespace nibble::frontends
