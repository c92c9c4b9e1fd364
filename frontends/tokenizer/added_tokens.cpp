#include "frontends/tokenizer/added_tokens.h"

#include <algorithm>

#include "frontends/tokenizer/unicode.h"

namespace nibble::frontends {
namespace {

AddedToken read_token(const JsonView& json) {
  AddedToken token;
  token.content = json.at("content").string();
  token.id = read_id(json.at("id"));
  token.special = json.boolean_or("special", false);
  token.normalized = json.boolean_or("normalized", !token.special);
  token.single_word = json.boolean_or("single_word", false);
  token.lstrip = json.boolean_or("lstrip", false);
  token.rstrip = json.boolean_or("rstrip", false);
  return token;
}

// Neither neighbour of [begin, end) is part of a word.
bool stands_alone(std::string_view text, size_t begin, size_t end) {
  if (begin > 0 && is_word(previous_code_point(text, begin))) return false;
  return end >= text.size() || !is_word(next_code_point(text, end));
}

size_t spaces_before(std::string_view text, size_t end) {
  while (end > 0 && is_white_space(previous_code_point(text, end))) {
    do --end;
    while ((static_cast<unsigned char>(text[end]) & 0xC0U) == 0x80U);
  }
  return end;
}

size_t spaces_after(std::string_view text, size_t begin) {
  while (begin < text.size()) {
    size_t next = begin;
    if (!is_white_space(next_code_point(text, next))) break;
    begin = next;
  }
  return begin;
}

}  // namespace

void AddedTokens::Finder::add(std::string text, size_t token) {
  if (text.empty()) return;
  auto& list = by_first_byte[static_cast<unsigned char>(text[0])];
  auto shorter = [&](const Entry& entry) { return entry.text.size() < text.size(); };
  auto place = std::find_if(list.begin(), list.end(), shorter);
  list.insert(place, Entry{std::move(text), token});
  empty = false;
}

const AddedTokens::Finder::Entry* AddedTokens::Finder::match(std::string_view text,
                                                             size_t at) const {
  for (const Entry& entry : by_first_byte[static_cast<unsigned char>(text[at])]) {
    if (text.substr(at).starts_with(entry.text)) return &entry;
  }
  return nullptr;
}

void AddedTokens::read(const JsonView& json, const Vocabulary& vocabulary,
                       const Normalizer& normalizer) {
  std::unordered_map<int32_t, std::string_view> by_id;
  for (const auto& [text, id] : vocabulary) by_id.emplace(id, text);
  Vocabulary added;
  for (const JsonView& item : json.items()) {
    AddedToken token = read_token(item);
    if (token.content.empty()) fail("{} has empty content.", item.where());
    auto [other, fresh] = by_id.emplace(token.id, "");
    if (!fresh && other->second != token.content) {
      fail("{} gives the id {} to \"{}\", but that is the id of \"{}\".", item.where(), token.id,
           token.content, other->second);
    }
    auto known = vocabulary.find(token.content);
    if (known != vocabulary.end() && known->second != token.id) {
      fail("{} gives \"{}\" the id {}, but the vocabulary gives it {}.", item.where(),
           token.content, token.id, known->second);
    }
    auto [entry, first] = added.emplace(token.content, token.id);
    if (!first) fail("{} repeats \"{}\".", item.where(), token.content);
    other->second = entry->first;
    tokens_.push_back(std::move(token));
  }
  // Special tokens first: of two that normalize to the same text, the special one wins.
  for (bool special : {true, false}) {
    for (size_t i = 0; i < tokens_.size(); ++i) {
      if (tokens_[i].special != special) continue;
      if (tokens_[i].normalized) {
        after_.add(normalizer.apply(tokens_[i].content), i);
      } else {
        before_.add(tokens_[i].content, i);
      }
    }
  }
}

std::vector<TextPiece> AddedTokens::cut(std::string_view text, bool normalized) const {
  const Finder& finder = normalized ? after_ : before_;
  std::vector<TextPiece> pieces;
  size_t done = 0;  // everything before is in `pieces`
  for (size_t at = 0; !finder.empty && at < text.size();) {
    const Finder::Entry* entry = finder.match(text, at);
    if (entry == nullptr) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[entry->token];
    size_t begin = at, end = at + entry->text.size();
    at = end;
    if (token.single_word && !stands_alone(text, begin, end)) continue;
    if (token.lstrip) begin = std::max(spaces_before(text, begin), done);
    if (token.rstrip) end = spaces_after(text, end);
    if (done < begin) pieces.push_back({text.substr(done, begin - done), -1});
    pieces.push_back({text.substr(begin, end - begin), token.id});
    done = end;
  }
  if (done < text.size()) pieces.push_back({text.substr(done), -1});
  return pieces;
}

}  // namespace nibble::frontends
