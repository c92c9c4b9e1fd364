// Byte-pair encoding: start from characters, join the adjacent pair of lowest rank (leftmost first)
// until none is left. A heap over a linked list, so a word of n characters takes O(n log n).
#include <optional>
#include <queue>

#include "frontends/tokenizer/model.h"
#include "frontends/tokenizer/unicode.h"
#include "frontends/tokenizer/word_seams.h"

namespace nibble::frontends {
namespace {

struct Merge {
  int32_t rank = 0, id = 0;
};

// A token of the word so far, linked to its neighbours; id -1: merged into the one before.
struct Symbol {
  int32_t id = 0;
  int32_t previous = -1, next = -1;
};

struct Candidate {
  int32_t rank, position, id;
  // std::priority_queue pops the largest: lowest rank first, then leftmost.
  bool operator<(const Candidate& other) const {
    return rank != other.rank ? rank > other.rank : position > other.position;
  }
};

uint64_t pair_key(int32_t left, int32_t right) {
  return (static_cast<uint64_t>(static_cast<uint32_t>(left)) << 32) | static_cast<uint32_t>(right);
}

class Bpe : public Model {
 public:
  explicit Bpe(BpeParts parts);
  void tokenize(std::string_view word, std::vector<int32_t>& ids, WordCache& cache) const override;

 private:
  void read_merges(const BpeParts& parts);
  void tokenize_word(std::string_view word, std::vector<int32_t>& ids) const override;
  int32_t unknown() const;
  void split_characters(std::string_view word, std::vector<int32_t>& ids) const;
  void merge(std::vector<int32_t>& ids) const;
  const Merge* find_merge(int32_t left, int32_t right) const {
    auto it = merges_.find(pair_key(left, right));
    return it == merges_.end() ? nullptr : &it->second;
  }

  std::string origin_;
  std::unordered_map<uint64_t, Merge> merges_;
  std::string prefix_, suffix_;
  std::string unknown_name_;
  int32_t unknown_ = -1;
  bool fuse_unknown_ = false, byte_fallback_ = false, ignore_merges_ = false;
  std::optional<WordSeams> seams_;
};

Bpe::Bpe(BpeParts parts)
    : origin_(parts.origin),
      prefix_(parts.prefix),
      suffix_(parts.suffix),
      unknown_name_(parts.unknown),
      fuse_unknown_(parts.fuse_unknown),
      byte_fallback_(parts.byte_fallback),
      ignore_merges_(parts.ignore_merges) {
  vocabulary_ = std::move(parts.vocabulary);
  find_byte_tokens();
  unknown_ = id_of(unknown_name_);
  read_merges(parts);
}

void Bpe::read_merges(const BpeParts& parts) {
  merges_.reserve(parts.merges.size());
  WordSeams seams;
  std::string joined;
  int32_t rank = 0;
  for (const auto& [left, right] : parts.merges) {
    const int32_t left_id = id_of(left), right_id = id_of(right);
    // The joined token carries the prefix of its left part alone.
    const bool drop = !prefix_.empty() && right.starts_with(prefix_);
    joined.assign(left).append(right, drop ? prefix_.size() : 0);
    const int32_t joined_id = id_of(joined);
    if (left_id < 0 || right_id < 0 || joined_id < 0) {
      fail("{}: merge {} names \"{}\", which is not in the vocabulary.", origin_, rank,
           left_id < 0    ? left
           : right_id < 0 ? right
                          : joined);
    }
    seams.add(joined);
    merges_.insert_or_assign(pair_key(left_id, right_id), Merge{rank++, joined_id});
  }
  if (prefix_.empty() && suffix_.empty() && seams.possible(vocabulary_)) seams_ = std::move(seams);
}

int32_t Bpe::unknown() const {
  if (unknown_ < 0) {
    fail("{}: the field \"model.unk_token\" is \"{}\", which is not in the vocabulary.", origin_,
         unknown_name_);
  }
  return unknown_;
}

void Bpe::split_characters(std::string_view word, std::vector<int32_t>& ids) const {
  bool unknown_pending = false;  // fused with the unknown characters that follow
  std::string affixed;
  for (size_t at = 0; at < word.size();) {
    size_t length = utf8_length(word[at]);
    std::string_view piece = word.substr(at, length);
    const bool continues = at > 0 && !prefix_.empty();
    at += length;
    if (continues || (at >= word.size() && !suffix_.empty())) {
      affixed = (continues ? prefix_ : "") + std::string(piece);
      if (at >= word.size()) affixed += suffix_;
      piece = affixed;
    }
    int32_t id = id_of(piece);
    if (id >= 0) {
      if (unknown_pending) ids.push_back(unknown_);
      unknown_pending = false;
      ids.push_back(id);
    } else if (byte_fallback_ && append_byte_tokens(piece, ids)) {
      continue;
    } else if (!unknown_name_.empty()) {
      if (unknown_pending && !fuse_unknown_) ids.push_back(unknown());
      unknown_pending = unknown() >= 0;
    }
  }
  if (unknown_pending) ids.push_back(unknown_);
}

void Bpe::merge(std::vector<int32_t>& ids) const {
  auto count = static_cast<int32_t>(ids.size());
  std::vector<Symbol> symbols(ids.size());
  std::priority_queue<Candidate> queue;
  auto propose = [&](int32_t left) {
    int32_t right = symbols[left].next;
    if (right < 0) return;
    if (const Merge* merge = find_merge(symbols[left].id, symbols[right].id)) {
      queue.push({merge->rank, left, merge->id});
    }
  };
  for (int32_t i = 0; i < count; ++i) {
    symbols[i] = {ids[i], i - 1, i + 1 < count ? i + 1 : -1};
  }
  for (int32_t i = 0; i + 1 < count; ++i) propose(i);
  while (!queue.empty()) {
    Candidate best = queue.top();
    queue.pop();
    Symbol& left = symbols[best.position];
    if (left.id < 0 || left.next < 0) continue;
    Symbol& right = symbols[left.next];
    // A candidate is stale when one of its two symbols has changed since.
    const Merge* merge = find_merge(left.id, right.id);
    if (merge == nullptr || merge->id != best.id) continue;
    left.id = best.id;
    left.next = right.next;
    right.id = -1;
    if (left.next >= 0) symbols[left.next].previous = best.position;
    if (left.previous >= 0) propose(left.previous);
    propose(best.position);
  }
  ids.clear();
  for (int32_t i = count > 0 ? 0 : -1; i >= 0; i = symbols[i].next) ids.push_back(symbols[i].id);
}

void Bpe::tokenize(std::string_view word, std::vector<int32_t>& ids, WordCache& cache) const {
  if (!seams_ || (ignore_merges_ && id_of(word) >= 0)) return Model::tokenize(word, ids, cache);
  seams_->cut(word, [&](std::string_view part) { Model::tokenize(part, ids, cache); });
}

void Bpe::tokenize_word(std::string_view word, std::vector<int32_t>& ids) const {
  if (ignore_merges_) {
    if (int32_t id = id_of(word); id >= 0) {
      ids.push_back(id);
      return;
    }
  }
  std::vector<int32_t> symbols;
  symbols.reserve(word.size());
  split_characters(word, symbols);
  merge(symbols);
  ids.insert(ids.end(), symbols.begin(), symbols.end());
}

// "left right" or ["left", "right"].
std::pair<std::string, std::string> read_merge(const JsonView::Json& item, const JsonView& list,
                                               size_t index) {
  auto where = [&] { return fmt::format("{}: merge {}", list.origin(), index); };
  if (item.is_string()) {
    const auto& text = item.get_ref<const std::string&>();
    const size_t space = text.find(' ');
    if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
      fail("{} should be two tokens with a space between, found \"{}\".", where(), text);
    }
    return {text.substr(0, space), text.substr(space + 1)};
  }
  if (item.is_array() && item.size() == 2 && item[0].is_string() && item[1].is_string()) {
    return {item[0].get<std::string>(), item[1].get<std::string>()};
  }
  fail("{} should be a string or a pair of strings, found {}.", where(), item.type_name());
}

// Tokenizing at random is for training: a dropout is checked and has no effect.
void check_dropout(const JsonView& json) {
  const auto dropout = json.find("dropout");
  if (dropout && !(dropout->number() >= 0 && dropout->number() <= 1)) {
    fail("{} is {}, outside 0..1.", dropout->where(), dropout->number());
  }
}

}  // namespace

std::unique_ptr<Model> make_bpe(BpeParts parts) { return std::make_unique<Bpe>(std::move(parts)); }

std::unique_ptr<Model> make_bpe(const JsonView& json) {
  json.allow_only({"type", "vocab", "merges", "dropout", "unk_token", "continuing_subword_prefix",
                   "end_of_word_suffix", "fuse_unk", "byte_fallback", "ignore_merges"});
  check_dropout(json);
  BpeParts parts{.origin = json.origin(),
                 .vocabulary = read_vocabulary(json.at("vocab")),
                 .merges = {},
                 .prefix = json.string_or("continuing_subword_prefix", ""),
                 .suffix = json.string_or("end_of_word_suffix", ""),
                 .unknown = json.string_or("unk_token", ""),
                 .fuse_unknown = json.boolean_or("fuse_unk", false),
                 .byte_fallback = json.boolean_or("byte_fallback", false),
                 .ignore_merges = json.boolean_or("ignore_merges", false)};
  const JsonView merges = json.at("merges");
  if (!merges.json().is_array()) merges.mismatch("an array");
  parts.merges.reserve(merges.json().size());
  for (const auto& item : merges.json()) {
    // The first line of a merges.txt, which some files carry along.
    if (item.is_string() && item.get_ref<const std::string&>().starts_with("#version")) continue;
    parts.merges.push_back(read_merge(item, merges, parts.merges.size()));
  }
  return make_bpe(std::move(parts));
}

}  // namespace nibble::frontends
