// Text <-> ids as Hugging Face's tokenizer.json, SentencePiece's tokenizer.model or the vocabulary
// of a GGUF describes it. One Tokenizer may be used by many threads.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::frontends {

struct GgufVocabulary;  // gguf_vocabulary.h
struct TokenizerParts;

class Tokenizer {
 public:
  // `json`: the text of a tokenizer.json; `origin` names it in messages. Throws Error on damage or
  // on a component that is not known (named), never tokenizes wrongly in silence.
  static Tokenizer from_json(std::string_view json, const std::string& origin);
  // `model`: the bytes of a tokenizer.model, of type BPE or Unigram.
  static Tokenizer from_sentencepiece(std::string_view model, const std::string& origin);
  static Tokenizer from_gguf(const GgufVocabulary& vocabulary, const std::string& origin);
  Tokenizer(Tokenizer&&) noexcept;
  Tokenizer& operator=(Tokenizer&&) noexcept;
  ~Tokenizer();

  // As the tokenizer's own library does: special tokens written in the text are recognised, save by
  // a tokenizer.model, to which they are plain text. add_special: also what stands around a text.
  std::vector<int32_t> encode(std::string_view text, bool add_special) const;
  // For text that a chat template made: special tokens are recognised whatever the format, and none
  // are added.
  std::vector<int32_t> encode_markup(std::string_view text) const;
  // Whole sequence. skip_special drops special tokens.
  std::string decode(const std::vector<int32_t>& ids, bool skip_special) const;

  int64_t vocab_size() const;
  // The id of a token's exact text, or -1.
  int32_t id_of(std::string_view token) const;
  std::string token_of(int32_t id) const;  // throws Error when out of range

 private:
  friend class StreamDecoder;
  friend Tokenizer make_tokenizer(TokenizerParts parts);
  struct Impl;
  explicit Tokenizer(std::unique_ptr<Impl> impl);
  std::unique_ptr<Impl> impl_;
};

// Turns ids into text as they are made. Text comes out only in whole UTF-8 characters; what push()
// and finish() returned, joined, equals decode() of all ids.
class StreamDecoder {
 public:
  StreamDecoder(const Tokenizer& tokenizer, bool skip_special);
  StreamDecoder(StreamDecoder&&) noexcept;
  StreamDecoder& operator=(StreamDecoder&&) noexcept;
  ~StreamDecoder();
  std::string push(int32_t id);
  // What is left, a cut off character as U+FFFD; then ready for another text.
  std::string finish();

 private:
  struct State;
  std::unique_ptr<State> state_;
};

}  // namespace nibble::frontends
