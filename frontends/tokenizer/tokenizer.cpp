#include "frontends/tokenizer/tokenizer.h"

#include "frontends/tokenizer/parts.h"
#include "frontends/tokenizer/unicode.h"

namespace nibble::frontends {

struct Tokenizer::Impl : TokenizerParts {
  AddedTokens added_tokens;
  std::vector<std::string> tokens;  // by id; empty: no token has this id
  std::vector<bool> special;        // by id
  Vocabulary added_ids;

  explicit Impl(TokenizerParts parts);
  void list_tokens();
  void check_special_ids() const;
  std::vector<int32_t> encode(std::string_view text, bool find_added) const;
  void tokenize(std::string_view text, bool at_start, std::vector<int32_t>& ids,
                WordCache& cache) const;
  const std::string& token(int32_t id) const;
};

Tokenizer::Impl::Impl(TokenizerParts parts) : TokenizerParts(std::move(parts)) {
  added_tokens = AddedTokens(origin, std::move(added), model->vocabulary(), normalizer);
  list_tokens();
  check_special_ids();
}

void Tokenizer::Impl::list_tokens() {
  // Ids may have gaps, but a few tokens must not make a table of millions.
  constexpr size_t kMostUnused = size_t{1} << 19;
  const size_t most = kMostUnused + 2 * (model->vocabulary().size() + added_tokens.tokens().size());
  auto place = [&](const std::string& text, int32_t id) {
    auto index = static_cast<size_t>(id);
    if (index >= most) {
      fail(
          "{}: the token \"{}\" has the id {}, but ids up to {} are expected of a vocabulary of "
          "{}.",
          origin, text, id, most - 1, model->vocabulary().size());
    }
    if (index >= tokens.size()) tokens.resize(index + 1);
    if (!tokens[index].empty() && tokens[index] != text) {
      fail("{}: the tokens \"{}\" and \"{}\" have the same id {}.", origin, tokens[index], text,
           id);
    }
    tokens[index] = text;
  };
  for (const auto& [text, id] : model->vocabulary()) place(text, id);
  for (const AddedToken& token : added_tokens.tokens()) {
    place(token.content, token.id);
    added_ids.emplace(token.content, token.id);
  }
  if (tokens.empty()) fail("{}: the vocabulary is empty.", origin);
  special.assign(tokens.size(), false);
  for (const AddedToken& token : added_tokens.tokens()) {
    if (token.special) special[static_cast<size_t>(token.id)] = true;
  }
}

void Tokenizer::Impl::check_special_ids() const {
  for (const auto* ids : {&post_processor.before, &post_processor.after}) {
    for (int32_t id : *ids) {
      if (static_cast<size_t>(id) >= tokens.size()) {
        fail("{}: the post-processor adds the id {}, but the ids end at {}.", origin, id,
             tokens.size() - 1);
      }
    }
  }
}

void Tokenizer::Impl::tokenize(std::string_view text, bool at_start, std::vector<int32_t>& ids,
                               WordCache& cache) const {
  if (text.empty()) return;
  std::string normalized = normalizer.apply(std::string(text));
  // What was stripped counts: behind it nothing is at the start.
  size_t skip = 0;
  if (normalizer.strips_left && is_white_space(next_code_point(text, skip))) at_start = false;
  for (const TextPiece& piece : added_tokens.cut(normalized, true)) {
    if (piece.id >= 0) {
      ids.push_back(piece.id);
      continue;
    }
    bool first = at_start && piece.text.data() == normalized.data();
    for (const Word& word : pre_tokenizer.apply({std::string(piece.text), first})) {
      model->tokenize(word.text, ids, cache);
    }
  }
}

std::vector<int32_t> Tokenizer::Impl::encode(std::string_view text, bool find_added) const {
  size_t invalid = find_invalid_utf8(text);
  if (invalid != std::string_view::npos) {
    fail("The text to tokenize is not valid UTF-8: byte {} is 0x{:02X}.", invalid,
         static_cast<unsigned char>(text[invalid]));
  }
  std::vector<int32_t> ids;
  WordCache cache;
  if (!find_added) {
    tokenize(text, true, ids, cache);
    return ids;
  }
  for (const TextPiece& piece : added_tokens.cut(text, false)) {
    if (piece.id >= 0) {
      ids.push_back(piece.id);
    } else {
      tokenize(piece.text, piece.text.data() == text.data(), ids, cache);
    }
  }
  return ids;
}

const std::string& Tokenizer::Impl::token(int32_t id) const {
  if (id < 0 || static_cast<size_t>(id) >= tokens.size() ||
      tokens[static_cast<size_t>(id)].empty()) {
    fail("{}: no token has the id {}; the ids are 0..{}.", origin, id, tokens.size() - 1);
  }
  return tokens[static_cast<size_t>(id)];
}

Tokenizer::Tokenizer(std::unique_ptr<Impl> impl) : impl_(std::move(impl)) {}
Tokenizer::Tokenizer(Tokenizer&&) noexcept = default;
Tokenizer& Tokenizer::operator=(Tokenizer&&) noexcept = default;
Tokenizer::~Tokenizer() = default;

Tokenizer make_tokenizer(TokenizerParts parts) {
  return Tokenizer(std::make_unique<Tokenizer::Impl>(std::move(parts)));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special) const {
  std::vector<int32_t> ids = impl_->encode(text, !impl_->added_in_markup_only);
  if (!add_special) return ids;
  const PostProcessor& around = impl_->post_processor;
  ids.insert(ids.begin(), around.before.begin(), around.before.end());
  ids.insert(ids.end(), around.after.begin(), around.after.end());
  return ids;
}

std::vector<int32_t> Tokenizer::encode_markup(std::string_view text) const {
  return impl_->encode(text, true);
}

std::string Tokenizer::decode(const std::vector<int32_t>& ids, bool skip_special) const {
  StreamDecoder decoder(*this, skip_special);
  std::string text;
  for (int32_t id : ids) text += decoder.push(id);
  return text + decoder.finish();
}

int64_t Tokenizer::vocab_size() const { return static_cast<int64_t>(impl_->tokens.size()); }

int32_t Tokenizer::id_of(std::string_view token) const {
  if (auto it = impl_->added_ids.find(token); it != impl_->added_ids.end()) return it->second;
  auto it = impl_->model->vocabulary().find(token);
  return it == impl_->model->vocabulary().end() ? -1 : it->second;
}

std::string Tokenizer::token_of(int32_t id) const { return impl_->token(id); }

struct StreamDecoder::State {
  const Tokenizer::Impl* tokenizer;
  bool skip_special;
  TokenDecoder::Chain chain;
};

StreamDecoder::StreamDecoder(const Tokenizer& tokenizer, bool skip_special)
    : state_(new State{tokenizer.impl_.get(), skip_special, tokenizer.impl_->decoder.start()}) {}
StreamDecoder::StreamDecoder(StreamDecoder&&) noexcept = default;
StreamDecoder& StreamDecoder::operator=(StreamDecoder&&) noexcept = default;
StreamDecoder::~StreamDecoder() = default;

std::string StreamDecoder::push(int32_t id) {
  const std::string& token = state_->tokenizer->token(id);
  if (state_->skip_special && state_->tokenizer->special[static_cast<size_t>(id)]) return {};
  return state_->chain.push(token);
}

std::string StreamDecoder::finish() {
  std::string text = state_->chain.finish();
  state_->chain = state_->tokenizer->decoder.start();
  return text;
}

}  // namespace nibble::frontends
