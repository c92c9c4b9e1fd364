// What every tokenizer is made of, wherever it was read from: the readers of tokenizer.json,
// tokenizer.model and GGUF vocabularies fill it in. Private to the tokenizer.
#pragma once

#include <memory>
#include <string>
#include <vector>

#include "frontends/tokenizer/added_tokens.h"
#include "frontends/tokenizer/model.h"
#include "frontends/tokenizer/normalizer.h"
#include "frontends/tokenizer/post_processor.h"
#include "frontends/tokenizer/pre_tokenizer.h"
#include "frontends/tokenizer/token_decoder.h"
#include "frontends/tokenizer/tokenizer.h"

namespace nibble::frontends {

struct TokenizerParts {
  std::string origin;  // names the file in messages
  std::unique_ptr<Model> model;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  PostProcessor post_processor;
  TokenDecoder decoder;
  std::vector<AddedToken> added;
  // Added tokens are found by encode_markup() alone: SentencePiece takes "<s>" in a text for three
  // characters.
  bool added_in_markup_only = false;
};

// Throws Error when the parts do not fit together.
Tokenizer make_tokenizer(TokenizerParts parts);

}  // namespace nibble::frontends
