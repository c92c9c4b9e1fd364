// From a SentencePiece model to a tokenizer.
#include <array>
#include <unordered_set>

#include "frontends/tokenizer/sentencepiece_model.h"

namespace nibble::frontends {

int32_t SentencePieceModel::unknown_id() const {
  for (size_t i = 0; i < pieces.size(); ++i) {
    if (pieces[i].type == PieceType::unknown) return static_cast<int32_t>(i);
  }
  return -1;
}

void check_pieces(const SentencePieceModel& model) {
  const std::string& origin = model.origin;
  if (model.pieces.empty()) fail("{}: the model has no pieces.", origin);
  std::unordered_set<std::string_view> seen;
  int64_t unknown = 0, bytes = 0;
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    const auto& piece = model.pieces[i];
    if (piece.text.empty()) fail("{}: the piece {} is empty.", origin, i);
    if (!seen.insert(piece.text).second) {
      fail("{}: the piece {} repeats \"{}\".", origin, i, piece.text);
    }
    if (!(piece.score >= -1e30F && piece.score <= 1e30F)) {
      fail("{}: the piece {} (\"{}\") has the score {}, expected a finite number.", origin, i,
           piece.text, piece.score);
    }
    unknown += piece.type == PieceType::unknown ? 1 : 0;
    bytes += piece.type == PieceType::byte ? 1 : 0;
  }
  if (unknown != 1) fail("{}: {} pieces are the unknown one, expected 1.", origin, unknown);
  if (!model.byte_fallback) return;
  for (int byte = 0; byte < 256; ++byte) {
    const std::string text = fmt::format("<0x{:02X}>", byte);
    if (!seen.contains(text)) {
      fail("{}: unknown characters become bytes, but there is no piece \"{}\".", origin, text);
    }
  }
  if (bytes != 256) fail("{}: {} pieces are bytes, expected 256.", origin, bytes);
}

TokenizerParts sentencepiece_parts(const SentencePieceModel& model) {
  check_pieces(model);
  TokenizerParts parts;
  parts.origin = model.origin;
  parts.model = model.kind == SentencePieceModel::Kind::bpe ? make_sentencepiece_bpe(model)
                                                            : make_sentencepiece_unigram(model);
  parts.normalizer.steps.push_back(sentencepiece_normalizer(model));
  parts.decoder.add_sentencepiece(model.add_dummy_prefix, model.remove_extra_whitespaces);
  parts.added_in_markup_only = true;
  for (size_t i = 0; i < model.pieces.size(); ++i) {
    const auto& piece = model.pieces[i];
    if (piece.type != PieceType::control && piece.type != PieceType::unknown) continue;
    AddedToken token;
    token.content = piece.text;
    token.id = static_cast<int32_t>(i);
    token.special = true;
    parts.added.push_back(std::move(token));
  }
  return parts;
}

Tokenizer Tokenizer::from_sentencepiece(std::string_view model, const std::string& origin) {
  const SentencePieceModel parsed = parse_sentencepiece(model, origin);
  TokenizerParts parts = sentencepiece_parts(parsed);
  // As transformers does for these models: a text begins with the bos piece, where there is one.
  const int64_t bos = parsed.bos_id;
  if (bos >= 0 && bos < static_cast<int64_t>(parsed.pieces.size()) &&
      parsed.pieces[static_cast<size_t>(bos)].type == PieceType::control) {
    parts.post_processor.before.push_back(static_cast<int32_t>(bos));
  }
  return make_tokenizer(std::move(parts));
}

}  // namespace nibble::frontends
