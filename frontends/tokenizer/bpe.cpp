// Byte-pair encoding: start from characters, join the adjacent pair of lowest rank (leftmost first)
// until none is left. A heap over a linked list, so a word of n characters takes O(n log n).
#include <queue>

#include "frontends/tokenizer/model.h"
#include "frontends/tokenizer/unicode.h"

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
  explicit Bpe(const JsonView& json);
  void tokenize(std::string_view word, std::vector<int32_t>& ids) const override;

 private:
  void read_merges(const JsonView& json);
  void split_characters(std::string_view word, std::vector<int32_t>& ids) const;
  void merge(std::vector<int32_t>& ids) const;
  const Merge* find_merge(int32_t left, int32_t right) const {
    auto it = merges_.find(pair_key(left, right));
    return it == merges_.end() ? nullptr : &it->second;
  }

  std::string origin_;
  std::unordered_map<uint64_t, Merge> merges_;
  std::string prefix_, suffix_;  // of continuing characters, of the last one
  int32_t unknown_ = -1;
  bool fuse_unknown_ = false, byte_fallback_ = false, ignore_merges_ = false;
};

Bpe::Bpe(const JsonView& json) : origin_(json.origin()) {
  const JsonView vocabulary = json.at("vocab");
  if (!vocabulary.is_object()) vocabulary.mismatch("an object");
  vocabulary_.reserve(vocabulary.json().size());
  for (const auto& [token, id] : vocabulary.json().items()) {
    vocabulary_.emplace(token, read_id(JsonView(id, "model.vocab." + token, json.origin())));
  }
  if (auto dropout = json.find("dropout"); dropout && dropout->number() != 0) {
    fail("{} is {}; tokenizing at random is not supported.", dropout->where(), dropout->number());
  }
  prefix_ = json.string_or("continuing_subword_prefix", "");
  suffix_ = json.string_or("end_of_word_suffix", "");
  fuse_unknown_ = json.boolean_or("fuse_unk", false);
  byte_fallback_ = json.boolean_or("byte_fallback", false);
  ignore_merges_ = json.boolean_or("ignore_merges", false);
  if (auto unknown = json.find("unk_token")) {
    unknown_ = id_of(unknown->string());
    if (unknown_ < 0) {
      fail("{} is \"{}\", which is not in the vocabulary.", unknown->where(), unknown->string());
    }
  }
  read_merges(json.at("merges"));
}

void Bpe::read_merges(const JsonView& json) {
  if (!json.json().is_array()) json.mismatch("an array");
  merges_.reserve(json.json().size());
  int32_t rank = 0;
  for (const auto& item : json.json()) {
    auto where = [&] { return fmt::format("{}: merge {}", json.origin(), rank); };
    std::string left, right;
    if (item.is_string()) {
      const auto& text = item.get_ref<const std::string&>();
      if (text.starts_with("#version")) continue;
      size_t space = text.find(' ');
      if (space == std::string::npos || text.find(' ', space + 1) != std::string::npos) {
        fail("{} should be two tokens with a space between, found \"{}\".", where(), text);
      }
      left = text.substr(0, space);
      right = text.substr(space + 1);
    } else if (item.is_array() && item.size() == 2 && item[0].is_string() && item[1].is_string()) {
      left = item[0].get<std::string>();
      right = item[1].get<std::string>();
    } else {
      fail("{} should be a string or a pair of strings, found {}.", where(), item.type_name());
    }
    int32_t left_id = id_of(left), right_id = id_of(right);
    // The joined token carries the prefix of its left part alone.
    bool drop = !prefix_.empty() && right.starts_with(prefix_);
    std::string joined = left + (drop ? right.substr(prefix_.size()) : right);
    int32_t joined_id = id_of(joined);
    if (left_id < 0 || right_id < 0 || joined_id < 0) {
      fail("{} names \"{}\", which is not in the vocabulary.", where(),
           left_id < 0    ? left
           : right_id < 0 ? right
                          : joined);
    }
    merges_.insert_or_assign(pair_key(left_id, right_id), Merge{rank++, joined_id});
  }
}

void Bpe::split_characters(std::string_view word, std::vector<int32_t>& ids) const {
  bool unknown_pending = false;  // fused with the unknown characters that follow
  for (size_t at = 0; at < word.size();) {
    size_t length = utf8_length(word[at]);
    std::string piece(word.substr(at, length));
    if (at > 0) piece.insert(0, prefix_);
    at += length;
    if (at >= word.size()) piece += suffix_;
    int32_t id = id_of(piece);
    if (id >= 0) {
      if (unknown_pending) ids.push_back(unknown_);
      unknown_pending = false;
      ids.push_back(id);
    } else if (byte_fallback_ && append_byte_tokens(piece, ids)) {
      continue;
    } else if (unknown_ >= 0) {
      if (unknown_pending && !fuse_unknown_) ids.push_back(unknown_);
      unknown_pending = true;
    } else {
      fail("{}: the vocabulary has no token for \"{}\" and the model has no unk_token.", origin_,
           piece);
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

void Bpe::tokenize(std::string_view word, std::vector<int32_t>& ids) const {
  if (ignore_merges_) {
    if (int32_t id = id_of(std::string(word)); id >= 0) {
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

}  // namespace

std::unique_ptr<Model> make_bpe(const JsonView& json) { return std::make_unique<Bpe>(json); }

}  // namespace nibble::frontends
