// What a SentencePiece model says, read from a tokenizer.model or put together from a GGUF
// vocabulary, and the parts of a tokenizer made from it. Source of the format:
// sentencepiece_model.proto; of the meaning: the SentencePiece library. Private to the tokenizer.
#pragma once

#include <cstdint>
#include <functional>
#include <memory>
#include <string>
#include <string_view>
#include <vector>

#include "frontends/tokenizer/charsmap.h"
#include "frontends/tokenizer/model.h"
#include "frontends/tokenizer/normalizer.h"
#include "frontends/tokenizer/parts.h"

namespace nibble::frontends {

// Numbered as in the file; GGUF's token types are the same.
enum class PieceType : uint8_t {
  normal = 1,
  unknown = 2,
  control = 3,
  user_defined = 4,
  unused = 5,
  byte = 6
};

struct SentencePieceModel {
  enum class Kind : uint8_t { unigram = 1, bpe = 2 };
  struct Piece {
    std::string text;
    float score = 0;
    PieceType type = PieceType::normal;
  };
  std::string origin;
  Kind kind = Kind::unigram;
  std::vector<Piece> pieces;  // by id
  bool byte_fallback = false;
  bool whitespace_as_suffix = false;
  bool add_dummy_prefix = true, remove_extra_whitespaces = true, escape_whitespaces = true;
  int64_t bos_id = 1, eos_id = 2;  // -1: there is none
  Charsmap charsmap;

  int32_t unknown_id() const;  // -1: there is none
};

// Throws Error on damage.
SentencePieceModel parse_sentencepiece(std::string_view bytes, const std::string& origin);

// Throw Error when the pieces contradict each other.
void check_pieces(const SentencePieceModel& model);
std::unique_ptr<Model> make_sentencepiece_bpe(const SentencePieceModel& model);
std::unique_ptr<Model> make_sentencepiece_unigram(const SentencePieceModel& model);
Normalizer::Step sentencepiece_normalizer(const SentencePieceModel& model);
// All but what stands around a text.
TokenizerParts sentencepiece_parts(const SentencePieceModel& model);

}  // namespace nibble::frontends
