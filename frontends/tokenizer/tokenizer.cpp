#include "frontends/tokenizer/tokenizer.h"

#include <algorithm>
#include <exception>

#include "frontends/tokenizer/added_tokens.h"
#include "frontends/tokenizer/json_view.h"
#include "frontends/tokenizer/model.h"
#include "frontends/tokenizer/normalizer.h"
#include "frontends/tokenizer/post_processor.h"
#include "frontends/tokenizer/pre_tokenizer.h"
#include "frontends/tokenizer/token_decoder.h"
#include "frontends/tokenizer/unicode.h"

namespace nibble::frontends {

struct Tokenizer::Impl {
  std::string origin;
  std::unique_ptr<Model> model;
  Normalizer normalizer;
  PreTokenizer pre_tokenizer;
  PostProcessor post_processor;
  TokenDecoder decoder;
  AddedTokens added;
  std::vector<std::string> tokens;  // by id; empty: no token has this id
  std::vector<bool> special;        // by id
  std::unordered_map<std::string, int32_t> added_ids;

  explicit Impl(const JsonView& json);
  void list_tokens();
  void check_special_ids() const;
  void tokenize(std::string_view text, bool at_start, std::vector<int32_t>& ids) const;
  const std::string& token(int32_t id) const;
};

Tokenizer::Impl::Impl(const JsonView& json) : origin(json.origin()) {
  model = make_model(json.at("model"));
  if (auto part = json.find("normalizer")) normalizer.add(*part);
  if (auto part = json.find("pre_tokenizer")) pre_tokenizer.add(*part);
  if (auto part = json.find("post_processor")) post_processor.add(*part);
  if (auto part = json.find("decoder")) {
    decoder.add(*part);
  } else {
    decoder.add_join_by_space();
  }
  if (auto part = json.find("added_tokens")) {
    added.read(*part, model->vocabulary(), normalizer);
  }
  list_tokens();
  check_special_ids();
}

void Tokenizer::Impl::list_tokens() {
  auto place = [&](const std::string& text, int32_t id) {
    auto index = static_cast<size_t>(id);
    if (index >= tokens.size()) tokens.resize(index + 1);
    if (!tokens[index].empty() && tokens[index] != text) {
      fail("{}: the tokens \"{}\" and \"{}\" have the same id {}.", origin, tokens[index], text,
           id);
    }
    tokens[index] = text;
  };
  for (const auto& [text, id] : model->vocabulary()) place(text, id);
  for (const AddedToken& token : added.tokens()) {
    place(token.content, token.id);
    added_ids.emplace(token.content, token.id);
  }
  if (tokens.empty()) fail("{}: the vocabulary is empty.", origin);
  special.assign(tokens.size(), false);
  for (const AddedToken& token : added.tokens()) {
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

void Tokenizer::Impl::tokenize(std::string_view text, bool at_start,
                               std::vector<int32_t>& ids) const {
  std::string normalized = normalizer.apply(std::string(text));
  for (const TextPiece& piece : added.cut(normalized, true)) {
    if (piece.id >= 0) {
      ids.push_back(piece.id);
      continue;
    }
    bool first = at_start && piece.text.data() == normalized.data();
    for (const Word& word : pre_tokenizer.apply({std::string(piece.text), first})) {
      if (!word.text.empty()) model->tokenize(word.text, ids);
    }
  }
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

Tokenizer Tokenizer::from_json(std::string_view json, const std::string& origin) {
  nlohmann::json root;
  try {
    root = nlohmann::json::parse(json);
  } catch (const nlohmann::json::exception& error) {
    fail("{}: not valid JSON: {}.", origin, error.what());
  }
  return Tokenizer(std::make_unique<Impl>(JsonView(root, "", origin)));
}

std::vector<int32_t> Tokenizer::encode(std::string_view text, bool add_special) const {
  size_t invalid = find_invalid_utf8(text);
  if (invalid != std::string_view::npos) {
    fail("The text to tokenize is not valid UTF-8: byte {} is 0x{:02X}.", invalid,
         static_cast<unsigned char>(text[invalid]));
  }
  std::vector<int32_t> ids;
  const PostProcessor& around = impl_->post_processor;
  if (add_special) ids = around.before;
  for (const TextPiece& piece : impl_->added.cut(text, false)) {
    if (piece.id >= 0) {
      ids.push_back(piece.id);
    } else {
      impl_->tokenize(piece.text, piece.text.data() == text.data(), ids);
    }
  }
  if (add_special) ids.insert(ids.end(), around.after.begin(), around.after.end());
  return ids;
}

std::string Tokenizer::decode(const std::vector<int32_t>& ids, bool skip_special) const {
  StreamDecoder decoder(*this, skip_special);
  std::string text;
  for (int32_t id : ids) text += decoder.push(id);
  return text + decoder.finish();
}

int64_t Tokenizer::vocab_size() const { return static_cast<int64_t>(impl_->tokens.size()); }

int32_t Tokenizer::id_of(std::string_view token) const {
  std::string text(token);
  if (auto it = impl_->added_ids.find(text); it != impl_->added_ids.end()) return it->second;
  auto it = impl_->model->vocabulary().find(text);
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
