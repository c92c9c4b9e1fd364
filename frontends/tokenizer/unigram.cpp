// Unigram: the segmentation of a word with the highest sum of token scores (Viterbi). A character
// without a token of its own is unknown, ten below the worst score; unknowns in a row are one.
#include <algorithm>
#include <cmath>
#include <limits>

#include "frontends/tokenizer/byte_trie.h"
#include "frontends/tokenizer/model.h"
#include "frontends/tokenizer/unicode.h"

namespace nibble::frontends {
namespace {

constexpr double kUnknownPenalty = 10;

class Unigram : public Model {
 public:
  explicit Unigram(const JsonView& json);

 private:
  void tokenize_word(std::string_view word, std::vector<int32_t>& ids) const override;
  // The best way to reach a byte of the word: the token that ends there.
  struct Node {
    double score = 0;
    int32_t id = 0;
    size_t begin = std::string::npos;  // npos: not reached
  };
  std::vector<Node> best_paths(std::string_view word) const;
  void append_unknown(std::string_view text, std::vector<int32_t>& ids) const;

  std::string origin_;
  std::vector<double> scores_;
  ByteTrie trie_;
  double unknown_score_ = 0;
  int32_t unknown_ = -1;
  bool byte_fallback_ = false;
};

Unigram::Unigram(const JsonView& json) : origin_(json.origin()) {
  json.allow_only({"type", "vocab", "unk_id", "byte_fallback"});
  std::vector<std::pair<std::string, int32_t>> texts;
  double lowest = std::numeric_limits<double>::infinity();
  for (const JsonView& entry : json.at("vocab").items()) {
    if (!entry.json().is_array() || entry.json().size() != 2) entry.mismatch("a pair");
    std::vector<JsonView> pair = entry.items();
    const std::string& token = pair[0].string();
    if (token.empty()) fail("{} is an empty token.", entry.where());
    if (!vocabulary_.emplace(token, static_cast<int32_t>(scores_.size())).second) {
      fail("{} repeats the token \"{}\".", entry.where(), token);
    }
    texts.emplace_back(token, static_cast<int32_t>(scores_.size()));
    scores_.push_back(pair[1].number());
    lowest = std::min(lowest, scores_.back());
  }
  trie_ = ByteTrie(std::move(texts));
  unknown_score_ = lowest - kUnknownPenalty;
  if (auto unknown = json.find("unk_id")) {
    unknown_ = read_id(*unknown);
    if (static_cast<size_t>(unknown_) >= scores_.size()) {
      fail("{} is {}, but the vocabulary has {} tokens.", unknown->where(), unknown_,
           scores_.size());
    }
  }
  byte_fallback_ = json.boolean_or("byte_fallback", false);
  find_byte_tokens();
}

std::vector<Unigram::Node> Unigram::best_paths(std::string_view word) const {
  std::vector<Node> nodes(word.size() + 1);
  auto offer = [&](size_t begin, size_t end, int32_t id, double score) {
    score += nodes[begin].score;
    if (nodes[end].begin == std::string::npos || score > nodes[end].score) {
      nodes[end] = {score, id, begin};
    }
  };
  for (size_t at = 0; at < word.size();) {
    size_t character = utf8_length(word[at]);
    bool single = false;
    trie_.prefixes(word.substr(at), [&](size_t length, int32_t id) {
      offer(at, at + length, id, scores_[static_cast<size_t>(id)]);
      single = single || length == character;
    });
    if (!single) {
      offer(at, at + character, unknown_, unknown_score_);
      const Node& end = nodes[at + character];
      if (unknown_ < 0 && end.begin == at && end.id == unknown_) {  // better than what is known
        fail("{}: the vocabulary has no token for \"{}\" and the model has no unk_id.", origin_,
             word.substr(at, character));
      }
    }
    at += character;
  }
  return nodes;
}

void Unigram::append_unknown(std::string_view text, std::vector<int32_t>& ids) const {
  const int32_t id = id_of(text);  // the unknown token itself, written out
  if (id < 0 && byte_fallback_ && append_byte_tokens(text, ids)) return;
  ids.push_back(id < 0 ? unknown_ : id);
}

void Unigram::tokenize_word(std::string_view word, std::vector<int32_t>& ids) const {
  std::vector<Node> nodes = best_paths(word);
  struct Piece {
    size_t begin, end;
  };
  std::vector<Piece> path;
  for (size_t end = word.size(); end > 0; end = nodes[end].begin) {
    path.push_back({nodes[end].begin, end});
  }
  std::reverse(path.begin(), path.end());
  for (size_t i = 0; i < path.size(); ++i) {
    if (nodes[path[i].end].id != unknown_) {
      ids.push_back(nodes[path[i].end].id);
      continue;
    }
    size_t begin = path[i].begin;
    while (i + 1 < path.size() && nodes[path[i + 1].end].id == unknown_) ++i;
    append_unknown(word.substr(begin, path[i].end - begin), ids);
  }
}

}  // namespace

std::unique_ptr<Model> make_unigram(const JsonView& json) {
  return std::make_unique<Unigram>(json);
}

}  // namespace nibble::frontends
