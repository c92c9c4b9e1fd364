#include "frontends/tokenizer/added_tokens.h"

#include <algorithm>

#include "frontends/tokenizer/unicode.h"

namespace nibble::frontends {
namespace {

AddedToken read_token(const JsonView& json) {
  json.allow_only({"id", "content", "single_word", "lstrip", "rstrip", "normalized", "special"});
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

std::vector<AddedToken> read_added_tokens(const JsonView& json) {
  std::vector<AddedToken> tokens;
  for (const JsonView& item : json.items()) tokens.push_back(read_token(item));
  return tokens;
}

AddedTokens::AddedTokens(const std::string& origin, std::vector<AddedToken> tokens,
                         const Vocabulary& vocabulary, const Normalizer& normalizer)
    : tokens_(std::move(tokens)) {
  std::unordered_map<int32_t, std::string_view> by_id;
  for (const auto& [text, id] : vocabulary) by_id.emplace(id, text);
  Vocabulary added;
  for (const AddedToken& token : tokens_) {
    auto where = [&] {
      return fmt::format("{}: the field \"added_tokens[{}]\"", origin, &token - tokens_.data());
    };
    if (token.content.empty()) fail("{} has empty content.", where());
    auto [other, fresh] = by_id.emplace(token.id, "");
    if (!fresh && other->second != token.content) {
      fail("{} gives the id {} to \"{}\", but that is the id of \"{}\".", where(), token.id,
           token.content, other->second);
    }
    auto known = vocabulary.find(token.content);
    if (known != vocabulary.end() && known->second != token.id) {
      fail("{} gives \"{}\" the id {}, but the vocabulary gives it {}.", where(), token.content,
           token.id, known->second);
    }
    if (!added.emplace(token.content, token.id).second) {
      fail("{} repeats \"{}\".", where(), token.content);
    }
    other->second = token.content;
  }
  // Special tokens first: of two that normalize to the same text, the special one wins.
  std::vector<std::pair<std::string, int32_t>> before, after;
  for (bool special : {true, false}) {
    for (size_t i = 0; i < tokens_.size(); ++i) {
      const AddedToken& token = tokens_[i];
      if (token.special != special) continue;
      const auto place = static_cast<int32_t>(i);
      if (token.normalized) {
        after.emplace_back(normalizer.apply(token.content), place);
      } else {
        before.emplace_back(token.content, place);
      }
    }
  }
  before_ = ByteTrie(std::move(before));
  after_ = ByteTrie(std::move(after));
}

std::vector<TextPiece> AddedTokens::cut(std::string_view text, bool normalized) const {
  const ByteTrie& finder = normalized ? after_ : before_;
  std::vector<TextPiece> pieces;
  size_t done = 0;  // everything before is in `pieces`
  for (size_t at = 0; !finder.empty() && at < text.size();) {
    const ByteTrie::Match match = finder.longest(text.substr(at));
    if (match.length == 0) {
      ++at;
      continue;
    }
    const AddedToken& token = tokens_[static_cast<size_t>(match.value)];
    size_t begin = at, end = at + match.length;
    at = end;
    if (token.single_word && !stands_alone(text, begin, end)) continue;
    if (token.lstrip) begin = std::max(spaces_before(text, begin), done);
    if (token.rstrip) end = spaces_after(text, end);
    if (begin >= end) continue;  // spaces alone, which the token before took
    if (done < begin) pieces.push_back({text.substr(done, begin - done), -1});
    pieces.push_back({text.substr(begin, end - begin), token.id});
    done = end;
  }
  if (done < text.size()) pieces.push_back({text.substr(done), -1});
  return pieces;
}

}  // namespace nibble::frontends
