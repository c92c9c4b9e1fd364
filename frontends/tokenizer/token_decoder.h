// The "decoder" of tokenizer.json: tokens back to text, as a chain of stages through which pieces
// of text flow. Each stage passes on what is decided and keeps what is not, so that the same chain
// serves whole sequences and streams. Private to the tokenizer.
#pragma once

#include <functional>
#include <memory>
#include <string>
#include <vector>

#include "frontends/tokenizer/json_view.h"

namespace nibble::frontends {

// A token, or a part of one that is still being made.
struct TokenPart {
  std::string text;
  bool begins = true, ends = true;
};

class DecodeStage {
 public:
  using Emit = std::function<void(TokenPart)>;
  virtual ~DecodeStage() = default;
  virtual void push(TokenPart part, const Emit& emit) = 0;
  virtual void finish(const Emit& emit) = 0;
};

// What a file says; start() makes a chain in its initial state.
class TokenDecoder {
 public:
  using Factory = std::function<std::unique_ptr<DecodeStage>()>;

  void add(const JsonView& json, int depth = 0);
  // For files without a decoder: tokens with spaces between.
  void add_join_by_space();
  // add_byte_level: byte characters to bytes. add_sentencepiece: as SentencePiece writes text: the
  // space in front of the first piece, which is not in the text, is dropped (drop_first), or all
  // spaces in front (drop_all).
  void add_byte_level();
  void add_sentencepiece(bool drop_first, bool drop_all);

  class Chain {
   public:
    std::string push(const std::string& token);
    std::string finish();

   private:
    friend class TokenDecoder;
    void feed(size_t stage, TokenPart part, std::string& out);
    std::vector<std::unique_ptr<DecodeStage>> stages_;
  };
  Chain start() const;

 private:
  std::vector<Factory> factories_;
};

}  // namespace nibble::frontends
