// The "model" of a tokenizer: one word to ids. Private to the tokenizer.
#pragma once

#include <array>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>
#include <vector>

#include "frontends/tokenizer/json_view.h"

namespace nibble::frontends {

// Lets a map of strings be asked with a string_view.
struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>{}(text); }
};

// Text of a token to its id, one to one.
using Vocabulary = std::unordered_map<std::string, int32_t, StringHash, std::equal_to<>>;

// The ids of words met before in the same text. Bounded: past some number of words no more are
// kept. Not for use by two threads, so every call of encode() has its own.
class WordCache {
 public:
  // Appends the ids of `word`; false when it is not kept.
  bool append(std::string_view word, std::vector<int32_t>& ids) const;
  void add(std::string_view word, std::span<const int32_t> ids);

 private:
  struct Slice {
    uint32_t begin, count;
  };
  std::unordered_map<std::string, Slice, StringHash, std::equal_to<>> words_;
  std::vector<int32_t> ids_;
};

class Model {
 public:
  virtual ~Model() = default;
  // Appends the ids of a word (not empty, valid UTF-8). Throws Error when a character has no token
  // and what should stand for it is missing.
  virtual void tokenize(std::string_view word, std::vector<int32_t>& ids, WordCache& cache) const;

  const Vocabulary& vocabulary() const { return vocabulary_; }

 protected:
  virtual void tokenize_word(std::string_view word, std::vector<int32_t>& ids) const = 0;

  // -1 when there is no such token.
  int32_t id_of(std::string_view token) const {
    auto it = vocabulary_.find(token);
    return it == vocabulary_.end() ? -1 : it->second;
  }
  // Looks up the tokens "<0xXX>"; once, when the vocabulary is complete.
  void find_byte_tokens();
  // Appends those of a text's bytes; false (and nothing) when one is missing.
  bool append_byte_tokens(std::string_view text, std::vector<int32_t>& ids) const;

  Vocabulary vocabulary_;
  std::array<int32_t, 256> byte_ids_{};
};

// An id as a file may state it: not negative and not absurd.
int32_t read_id(const JsonView& json);
constexpr int64_t kMostIds = 1 << 24;  // a hundred times the largest vocabulary in use
// {"token": id, ...}
Vocabulary read_vocabulary(const JsonView& json);

// What makes a BPE, wherever it is read from.
struct BpeParts {
  std::string origin;
  Vocabulary vocabulary;
  std::vector<std::pair<std::string, std::string>> merges;  // from the first to be made on
  std::string prefix, suffix;  // of characters that continue a word, of its last character
  std::string unknown;         // the token of characters that have none; empty: they vanish
  bool fuse_unknown = false, byte_fallback = false, ignore_merges = false;
};

std::unique_ptr<Model> make_bpe(BpeParts parts);
std::unique_ptr<Model> make_bpe(const JsonView& json);
std::unique_ptr<Model> make_unigram(const JsonView& json);
std::unique_ptr<Model> make_word_level(const JsonView& json);
std::unique_ptr<Model> make_word_piece(const JsonView& json);
// By "type"; throws Error naming one that is not known.
std::unique_ptr<Model> make_model(const JsonView& json);

}  // namespace nibble::frontends
