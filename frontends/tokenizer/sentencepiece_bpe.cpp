// SentencePiece's BPE: start from characters (and the user's pieces, which stay whole), join the
// adjacent pair whose text is the piece of best score, leftmost first, until none is left. Unlike
// with ranked merges, any two neighbours may join. Pieces that are marked unused may be passed
// through, and what is left of them at the end is split again.
#include <queue>
#include <unordered_set>

#include "frontends/tokenizer/byte_trie.h"
#include "frontends/tokenizer/sentencepiece_model.h"
#include "frontends/tokenizer/unicode.h"
#include "frontends/tokenizer/word_seams.h"

namespace nibble::frontends {
namespace {

// A stretch of the word; size 0: joined to the one before. Whole: takes part in no joining.
struct Stretch {
  uint32_t begin = 0, size = 0;
  int32_t previous = -1, next = -1;
  bool whole = false;
};

struct Joining {
  float score;
  int32_t left, right;
  uint32_t size;  // of both; another size now: one of the two has changed
  // std::priority_queue pops the largest: best score first, then leftmost.
  bool operator<(const Joining& other) const {
    return score != other.score ? score < other.score : left > other.left;
  }
};

class SentencePieceBpe : public Model {
 public:
  explicit SentencePieceBpe(const SentencePieceModel& model);
  void tokenize(std::string_view word, std::vector<int32_t>& ids, WordCache& cache) const override;

 private:
  void tokenize_word(std::string_view word, std::vector<int32_t>& ids) const override;
  std::vector<Stretch> split(std::string_view word) const;

  std::vector<float> scores_;     // by id
  std::vector<PieceType> types_;  // by id
  Vocabulary joinable_;           // pieces that joining may make
  ByteTrie kept_;                 // the user's pieces
  WordSeams seams_;
  int32_t unknown_ = -1;
  bool byte_fallback_ = false, has_seams_ = false;
};

SentencePieceBpe::SentencePieceBpe(const SentencePieceModel& model)
    : unknown_(model.unknown_id()), byte_fallback_(model.byte_fallback) {
  std::vector<std::pair<std::string, int32_t>> kept;
  for (const auto& piece : model.pieces) {
    const auto id = static_cast<int32_t>(scores_.size());
    scores_.push_back(piece.score);
    types_.push_back(piece.type);
    vocabulary_.emplace(piece.text, id);
    if (piece.type == PieceType::user_defined) kept.emplace_back(piece.text, id);
    if (piece.type == PieceType::normal || piece.type == PieceType::user_defined ||
        piece.type == PieceType::unused) {
      joinable_.emplace(piece.text, id);
      seams_.add(piece.text);
    }
  }
  kept_ = ByteTrie(std::move(kept));
  has_seams_ = seams_.possible(joinable_);
  find_byte_tokens();
}

std::vector<Stretch> SentencePieceBpe::split(std::string_view word) const {
  std::vector<Stretch> symbols;
  symbols.reserve(word.size());
  for (size_t at = 0; at < word.size();) {
    Stretch symbol;
    size_t length = kept_.longest(word.substr(at)).length;
    symbol.whole = length > 0;
    if (length == 0) length = utf8_length(word[at]);
    symbol.begin = static_cast<uint32_t>(at);
    symbol.size = static_cast<uint32_t>(length);
    symbol.previous = static_cast<int32_t>(symbols.size()) - 1;
    at += length;
    symbol.next = at < word.size() ? static_cast<int32_t>(symbols.size()) + 1 : -1;
    symbols.push_back(symbol);
  }
  return symbols;
}

void SentencePieceBpe::tokenize_word(std::string_view word, std::vector<int32_t>& ids) const {
  std::vector<Stretch> symbols = split(word);
  std::priority_queue<Joining> queue;
  // How an unused piece came about: the size of its left part.
  std::unordered_map<std::string_view, uint32_t> left_sizes;
  auto text_of = [&](const Stretch& symbol) { return word.substr(symbol.begin, symbol.size); };
  auto propose = [&](int32_t left, int32_t right) {
    if (left < 0 || right < 0) return;
    const Stretch& l = symbols[static_cast<size_t>(left)];
    const Stretch& r = symbols[static_cast<size_t>(right)];
    if (l.whole || r.whole) return;
    const std::string_view joined = word.substr(l.begin, l.size + r.size);
    const auto piece = joinable_.find(joined);
    if (piece == joinable_.end()) return;
    const auto id = static_cast<size_t>(piece->second);
    queue.push({scores_[id], left, right, l.size + r.size});
    if (types_[id] == PieceType::unused) left_sizes[joined] = l.size;
  };
  for (size_t i = 0; i + 1 < symbols.size(); ++i) {
    propose(static_cast<int32_t>(i), static_cast<int32_t>(i) + 1);
  }
  while (!queue.empty()) {
    const Joining best = queue.top();
    queue.pop();
    Stretch& left = symbols[static_cast<size_t>(best.left)];
    Stretch& right = symbols[static_cast<size_t>(best.right)];
    if (left.size == 0 || right.size == 0 || left.size + right.size != best.size) continue;
    left.size += right.size;
    left.next = right.next;
    if (right.next >= 0) symbols[static_cast<size_t>(right.next)].previous = best.left;
    right.size = 0;
    propose(left.previous, best.left);
    propose(best.left, left.next);
  }
  // Parts that are still to be written, the next one last.
  std::vector<std::string_view> parts;
  for (int32_t i = 0; i >= 0; i = symbols[static_cast<size_t>(i)].next) {
    parts.push_back(text_of(symbols[static_cast<size_t>(i)]));
    while (!parts.empty()) {
      const std::string_view part = parts.back();
      parts.pop_back();
      const int32_t id = id_of(part);
      const auto left = id >= 0 && types_[static_cast<size_t>(id)] == PieceType::unused
                            ? left_sizes.find(part)
                            : left_sizes.end();
      if (left != left_sizes.end()) {
        parts.push_back(part.substr(left->second));
        parts.push_back(part.substr(0, left->second));
      } else if (id >= 0 && id != unknown_) {
        ids.push_back(id);
      } else if (!byte_fallback_ || !append_byte_tokens(part, ids)) {
        ids.push_back(unknown_);
      }
    }
  }
}

// Unknown characters in a row are one token, also across words.
void SentencePieceBpe::tokenize(std::string_view word, std::vector<int32_t>& ids,
                                WordCache& cache) const {
  const size_t begin = ids.size();
  if (has_seams_) {
    seams_.cut(word, [&](std::string_view part) { Model::tokenize(part, ids, cache); });
  } else {
    Model::tokenize(word, ids, cache);
  }
  if (byte_fallback_) return;
  auto both_unknown = [&](int32_t a, int32_t b) { return a == unknown_ && b == unknown_; };
  ids.erase(std::unique(ids.begin() + static_cast<std::ptrdiff_t>(begin), ids.end(), both_unknown),
            ids.end());
}

}  // namespace

std::unique_ptr<Model> make_sentencepiece_bpe(const SentencePieceModel& model) {
  return std::make_unique<SentencePieceBpe>(model);
}

}  // namespace nibble::frontends
