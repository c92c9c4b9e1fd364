#include "frontends/chat/lexer.h"

#include <array>
#include <charconv>
#include <cstdlib>

#include "frontends/chat/budget.h"
#include "frontends/chat/string_literal.h"
#include "frontends/chat/unicode_text.h"
#include "frontends/chat/value.h"

namespace nibble::frontends::chat {
namespace {

constexpr std::string_view kNowhere = {};
constexpr size_t kMostTokens = 100'000;  // some 20 times those of the longest real template

// Longest first.
constexpr std::array<std::string_view, 26> kSigns = {
    "//", "**", "==", "!=", ">=", "<=", "+", "-", "/", "*", "%", "~", "[",
    "]",  "(",  ")",  "{",  "}",  ">",  "<", "=", ".", ":", "|", ",", ";"};

std::string one_kind_of_line_end(std::string_view source) {
  std::string out;
  for (size_t i = 0; i < source.size(); ++i) {
    if (source[i] == '\r') {
      out += '\n';
      if (i + 1 < source.size() && source[i + 1] == '\n') ++i;
    } else {
      out += source[i];
    }
  }
  if (!out.empty() && out.back() == '\n') out.pop_back();
  return out;
}

class Lexer {
 public:
  explicit Lexer(std::string_view source) : source_(one_kind_of_line_end(source)) {}

  std::vector<Token> run() {
    while (at_ < source_.size()) {
      data_and_tag();
      check_size();
    }
    add(TokenType::end, "");
    return std::move(tokens_);
  }

 private:
  void check_size() const {
    if (tokens_.size() > kMostTokens) {
      fail("The chat template has more than the {} tokens that it may have.", kMostTokens);
    }
  }
  std::string_view rest() const { return std::string_view(source_).substr(at_); }
  bool starts(std::string_view text) const { return rest().starts_with(text); }
  void add(TokenType type, std::string text) { tokens_.push_back({type, std::move(text), line_}); }
  void advance(size_t bytes) {
    for (size_t i = 0; i < bytes; ++i) line_ += source_[at_ + i] == '\n' ? 1 : 0;
    if (bytes > 0) line_starting_ = source_[at_ + bytes - 1] == '\n';
    at_ += bytes;
  }
  void skip_space() {
    const std::string_view text = rest();
    advance(text.size() - strip(text, true, false).size());
  }
  char sign_at(size_t offset) const {
    const size_t i = at_ + offset;
    return i < source_.size() && (source_[i] == '-' || source_[i] == '+') ? source_[i] : '\0';
  }

  // The data before a tag, less what the tag takes away.
  void add_data(std::string_view data, char sign, bool lstrip) {
    if (sign == '-') {
      data = strip(data, false, true);
    } else if (sign != '+' && lstrip) {
      const size_t line = data.rfind('\n') + 1;
      if ((line > 0 || line_starting_) && strip(data.substr(line), true, false).empty()) {
        data = data.substr(0, line);
      }
    }
    if (!data.empty()) add(TokenType::data, std::string(data));
  }

  void data_and_tag() {
    size_t tag = at_;
    while (true) {
      tag = source_.find('{', tag);
      if (tag == std::string::npos || tag + 1 >= source_.size()) {
        add(TokenType::data, std::string(rest()));
        at_ = source_.size();
        return;
      }
      const char kind = source_[tag + 1];
      if (kind == '{' || kind == '%' || kind == '#') break;
      ++tag;
    }
    const std::string_view data = std::string_view(source_).substr(at_, tag - at_);
    const char kind = source_[tag + 1];
    const char sign = sign_at(tag + 2 - at_);
    add_data(data, sign, kind != '{');
    advance(data.size());
    if (kind == '%' && raw_block()) return;
    advance(2 + (sign != '\0' ? 1 : 0));
    if (kind == '#') {
      comment();
    } else {
      tokens_.push_back(
          {kind == '{' ? TokenType::variable_begin : TokenType::block_begin, "", line_});
      inside(kind == '%');
    }
  }

  // Past the end of a block tag or comment, `sign` already known: "%}" or "#}".
  void close(char sign, size_t length) {
    advance(length);
    if (sign == '-') {
      skip_space();
    } else if (sign != '+' && starts("\n")) {
      advance(1);
    }
  }

  void comment() {
    const size_t end = source_.find("#}", at_);
    if (end == std::string::npos) raise("Missing end of comment tag");
    const char sign = end > at_ ? source_[end - 1] : '\0';
    close(sign, end + 2 - at_);
  }

  // The length of "{% raw %}" or "{% endraw %}" at `at`, 0 when it is not there; the sign before
  // its end.
  size_t raw_tag(size_t at, std::string_view word, char& sign) const {
    const std::string_view text = std::string_view(source_).substr(at);
    size_t i = 2;
    if (i < text.size() && (text[i] == '-' || text[i] == '+')) ++i;
    const auto space = [&] { i = text.size() - strip(text.substr(i), true, false).size(); };
    if (i > text.size()) return 0;
    space();
    if (!text.substr(i).starts_with(word)) return 0;
    i += word.size();
    space();
    sign = '\0';
    if (i < text.size() && (text[i] == '-' || text[i] == '+')) sign = text[i++];
    return text.substr(i).starts_with("%}") ? i + 2 : 0;
  }

  bool raw_block() {
    char sign = '\0';
    const size_t begin = raw_tag(at_, "raw", sign);
    if (begin == 0 || sign == '+') return false;
    advance(begin);
    if (sign == '-') skip_space();
    for (size_t tag = source_.find("{%", at_); tag != std::string::npos;
         tag = source_.find("{%", tag + 1)) {
      const size_t end = raw_tag(tag, "endraw", sign);
      if (end == 0) continue;
      const std::string_view data = std::string_view(source_).substr(at_, tag - at_);
      add_data(data, sign_at(tag + 2 - at_), true);
      advance(data.size());
      close(sign, end);
      return true;
    }
    raise("Missing end of raw directive");
  }

  bool end_of_tag(bool block) {
    if (!brackets_.empty()) return false;
    if (!block) {
      const bool minus = starts("-}}");
      if (!minus && !starts("}}")) return false;
      add(TokenType::variable_end, "");
      advance(minus ? 3 : 2);
      if (minus) skip_space();
      return true;
    }
    const char sign = sign_at(0);
    if (!starts("%}") && !(sign != '\0' && rest().substr(1).starts_with("%}"))) return false;
    add(TokenType::block_end, "");
    close(sign, sign != '\0' ? 3 : 2);
    return true;
  }

  void inside(bool block) {
    while (at_ < source_.size()) {
      check_size();
      if (end_of_tag(block)) return;
      const std::string_view text = rest();
      const size_t space = text.size() - strip(text, true, false).size();
      if (space > 0) {
        advance(space);
      } else if (!number() && !name() && !string() && !sign()) {
        size_t at = at_;
        next_code_point(source_, at);
        raise("unexpected char {} at {}", repr_of_text(text.substr(0, at - at_)),
              count_characters(std::string_view(source_).substr(0, at_)));
      }
    }
  }

  // The digits from `i` on, single underscores between them.
  size_t digits(size_t i, bool (*digit)(char)) const {
    const std::string_view text = rest();
    while (i < text.size() &&
           (digit(text[i]) || (text[i] == '_' && i + 1 < text.size() && digit(text[i + 1])))) {
      ++i;
    }
    return i;
  }
  static bool decimal(char c) { return c >= '0' && c <= '9'; }

  bool number() {
    const std::string_view text = rest();
    if (!decimal(text[0])) return false;
    const size_t whole = digits(0, decimal);
    size_t end = whole;
    if (end + 1 < text.size() && text[end] == '.' && decimal(text[end + 1])) {
      end = digits(end + 1, decimal);
    }
    if (end < text.size() && (text[end] == 'e' || text[end] == 'E')) {
      size_t power = end + 1;
      if (power < text.size() && (text[power] == '+' || text[power] == '-')) ++power;
      if (power < text.size() && decimal(text[power])) end = digits(power, decimal);
    }
    const bool after_point = at_ > 0 && source_[at_ - 1] == '.';
    if (end > whole && !after_point) {
      add(TokenType::real, std::string(text.substr(0, end)));
      std::string plain = tokens_.back().text;
      std::erase(plain, '_');
      tokens_.back().real = std::strtod(plain.c_str(), nullptr);
      advance(end);
      return true;
    }
    integer(whole);
    return true;
  }

  void integer(size_t whole) {
    const std::string_view text = rest();
    int base = 10;
    size_t end = whole;
    if (text[0] == '0') {
      const char kind = text.size() > 1 ? static_cast<char>(text[1] | 0x20) : '\0';
      bool (*digit)(char) = nullptr;
      if (kind == 'x') digit = [](char c) { return std::isxdigit(c) != 0; };
      if (kind == 'o') digit = [](char c) { return c >= '0' && c <= '7'; };
      if (kind == 'b') digit = [](char c) { return c == '0' || c == '1'; };
      const size_t past = digit != nullptr ? digits(2, digit) : 2;
      if (past > 2) {
        base = kind == 'x' ? 16 : kind == 'o' ? 8 : 2;
        end = past;
      } else {  // a zero does not begin another number
        end = digits(0, [](char c) { return c == '0'; });
      }
    }
    add(TokenType::integer, std::string(text.substr(0, end)));
    std::string plain = tokens_.back().text.substr(base == 10 ? 0 : 2);
    std::erase(plain, '_');
    const auto [past, error] =
        std::from_chars(plain.data(), plain.data() + plain.size(), tokens_.back().integer, base);
    if (error != std::errc()) {
      fail("The chat template has a number that does not fit into 64 bits: {}.",
           tokens_.back().text);
    }
    advance(end);
  }

  bool name() {
    size_t end = at_;
    bool first = true;
    while (end < source_.size()) {
      size_t past = end;
      const char32_t c = next_code_point(source_, past);
      if (!is_word_character(c)) break;
      if (first && !is_letter(c) && c != U'_') raise("Invalid character in identifier");
      first = false;
      end = past;
    }
    if (end == at_) return false;
    add(TokenType::name, source_.substr(at_, end - at_));
    advance(end - at_);
    return true;
  }

  bool string() {
    const char quote = source_[at_];
    if (quote != '\'' && quote != '"') return false;
    size_t end = at_ + 1;
    while (end < source_.size() && source_[end] != quote) end += source_[end] == '\\' ? 2 : 1;
    if (end >= source_.size()) return false;
    add(TokenType::string, unescape(std::string_view(source_).substr(at_ + 1, end - at_ - 1)));
    advance(end + 1 - at_);
    return true;
  }

  bool sign() {
    std::string_view found = kNowhere;
    for (const std::string_view candidate : kSigns) {
      if (starts(candidate)) {
        found = candidate;
        break;
      }
    }
    if (found == "!" || found.empty()) return false;
    if (found == "{") brackets_ += '}';
    if (found == "(") brackets_ += ')';
    if (found == "[") brackets_ += ']';
    if (found == "}" || found == ")" || found == "]") {
      if (brackets_.empty()) raise("unexpected '{}'", found);
      if (brackets_.back() != found[0]) {
        raise("unexpected '{}', expected '{}'", found, brackets_.back());
      }
      brackets_.pop_back();
    }
    add(TokenType::sign, std::string(found));
    advance(found.size());
    return true;
  }

  std::string source_;
  size_t at_ = 0;
  int line_ = 1;
  bool line_starting_ = true;
  std::string brackets_;  // the closing ones that are awaited
  std::vector<Token> tokens_;
};

}  // namespace

std::string describe_type(TokenType type) {
  switch (type) {
    case TokenType::data:
      return "template data / text";
    case TokenType::variable_begin:
      return "begin of print statement";
    case TokenType::variable_end:
      return "end of print statement";
    case TokenType::block_begin:
      return "begin of statement block";
    case TokenType::block_end:
      return "end of statement block";
    case TokenType::name:
      return "name";
    case TokenType::string:
      return "string";
    case TokenType::integer:
      return "integer";
    case TokenType::real:
      return "float";
    case TokenType::sign:
      return "operator";
    case TokenType::end:
      return "end of template";
  }
  return "";
}

std::string describe(const Token& token) {
  const bool own = token.type == TokenType::name || token.type == TokenType::sign;
  return own ? token.text : describe_type(token.type);
}

std::vector<Token> tokenize(std::string_view source) { return Lexer(source).run(); }

}  // namespace nibble::frontends::chat
