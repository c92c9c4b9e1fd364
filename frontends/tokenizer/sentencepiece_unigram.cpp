// SentencePiece's Unigram: the segmentation of the whole text with the highest sum of scores
// (Viterbi), summed in float as the library does, so that ties fall the same way. The user's pieces
// score as much as the best pieces could over their length, and win.
#include <algorithm>
#include <limits>

#include "frontends/tokenizer/byte_trie.h"
#include "frontends/tokenizer/sentencepiece_model.h"
#include "frontends/tokenizer/unicode.h"

namespace nibble::frontends {
namespace {

constexpr float kUnknownPiecePenalty = 10;

class SentencePieceUnigram : public Model {
 public:
  explicit SentencePieceUnigram(const SentencePieceModel& model);

 private:
  // The best way to reach a byte of the word: the piece that ends there.
  struct Node {
    float score = 0;
    int32_t id = 0;
    int32_t begin = -1;  // -1: not reached
  };
  void tokenize_word(std::string_view word, std::vector<int32_t>& ids) const override;
  std::vector<Node> best_paths(std::string_view word) const;

  std::vector<float> scores_;     // by id
  std::vector<PieceType> types_;  // by id
  ByteTrie trie_;
  float unknown_score_ = 0, highest_ = 0;
  int32_t unknown_ = -1;
  bool byte_fallback_ = false;
};

SentencePieceUnigram::SentencePieceUnigram(const SentencePieceModel& model)
    : unknown_(model.unknown_id()), byte_fallback_(model.byte_fallback) {
  std::vector<std::pair<std::string, int32_t>> texts;
  float lowest = std::numeric_limits<float>::max();
  highest_ = std::numeric_limits<float>::min();
  for (const auto& piece : model.pieces) {
    const auto id = static_cast<int32_t>(scores_.size());
    scores_.push_back(piece.score);
    types_.push_back(piece.type);
    vocabulary_.emplace(piece.text, id);
    if (piece.type == PieceType::normal || piece.type == PieceType::user_defined) {
      texts.emplace_back(piece.text, id);
    }
    if (piece.type != PieceType::normal) continue;
    lowest = std::min(lowest, piece.score);
    highest_ = std::max(highest_, piece.score);
  }
  unknown_score_ = lowest - kUnknownPiecePenalty;
  trie_ = ByteTrie(std::move(texts));
  find_byte_tokens();
}

std::vector<SentencePieceUnigram::Node> SentencePieceUnigram::best_paths(
    std::string_view word) const {
  std::vector<Node> nodes(word.size() + 1);
  for (size_t at = 0; at < word.size();) {
    const size_t character = utf8_length(word[at]);
    const float so_far = nodes[at].score;
    bool single = false;
    auto offer = [&](size_t length, int32_t id, double score) {
      Node& node = nodes[at + length];
      const double candidate = score + static_cast<double>(so_far);
      if (node.begin >= 0 && candidate <= static_cast<double>(node.score)) return;
      node = {static_cast<float>(candidate), id, static_cast<int32_t>(at)};
    };
    trie_.prefixes(word.substr(at), [&](size_t length, int32_t id) {
      const auto index = static_cast<size_t>(id);
      const bool users = types_[index] == PieceType::user_defined;
      offer(length, id,
            users ? static_cast<double>(static_cast<float>(length) * highest_) - 0.1
                  : static_cast<double>(scores_[index]));
      single = single || length == character;
    });
    if (!single) offer(character, unknown_, static_cast<double>(unknown_score_));
    at += character;
  }
  return nodes;
}

void SentencePieceUnigram::tokenize_word(std::string_view word, std::vector<int32_t>& ids) const {
  const std::vector<Node> nodes = best_paths(word);
  std::vector<size_t> ends;
  for (size_t end = word.size(); end > 0; end = static_cast<size_t>(nodes[end].begin)) {
    ends.push_back(end);
  }
  bool after_unknown = false;
  for (auto end = ends.rbegin(); end != ends.rend(); ++end) {
    const Node& node = nodes[*end];
    const auto begin = static_cast<size_t>(node.begin);
    const bool unknown = node.id == unknown_;
    if (!unknown) {
      ids.push_back(node.id);
    } else if (byte_fallback_ && append_byte_tokens(word.substr(begin, *end - begin), ids)) {
      continue;
    } else if (!after_unknown) {
      ids.push_back(unknown_);
    }
    after_unknown = unknown;
  }
}

}  // namespace

std::unique_ptr<Model> make_sentencepiece_unigram(const SentencePieceModel& model) {
  return std::make_unique<SentencePieceUnigram>(model);
}

}  // namespace nibble::frontends
