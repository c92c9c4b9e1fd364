#include "frontends/chat/string_literal.h"

#include "frontends/chat/budget.h"
#include "frontends/tokenizer/unicode.h"

namespace nibble::frontends::chat {
namespace {

int hex_digit(char c) {
  if (c >= '0' && c <= '9') return c - '0';
  const char lower = static_cast<char>(c | 0x20);
  return lower >= 'a' && lower <= 'f' ? lower - 'a' + 10 : -1;
}

// The number of `count` digits after a "\x", "\u" or "\U".
char32_t hex_escape(std::string_view text, size_t& at, size_t count) {
  const char* shape = count == 2 ? "\\xXX" : count == 4 ? "\\uXXXX" : "\\UXXXXXXXX";
  uint64_t value = 0;
  for (size_t i = 0; i < count; ++i, ++at) {
    const int digit = at < text.size() ? hex_digit(text[at]) : -1;
    if (digit < 0) raise("truncated {} escape", shape);
    value = value * 16 + static_cast<uint64_t>(digit);
  }
  if (value > 0x10FFFF) raise("illegal Unicode character");
  if (value >= 0xD800 && value < 0xE000) {
    fail("The chat template has a string with half of a surrogate pair, \\u{:04x}.", value);
  }
  return static_cast<char32_t>(value);
}

char32_t octal_escape(std::string_view text, size_t& at) {
  char32_t value = 0;
  for (int i = 0; i < 3 && at < text.size() && text[at] >= '0' && text[at] <= '7'; ++i, ++at) {
    value = value * 8 + static_cast<char32_t>(text[at] - '0');
  }
  return value;
}

}  // namespace

std::string unescape(std::string_view text) {
  std::string out;
  for (size_t at = 0; at < text.size();) {
    if (text[at] != '\\') {
      out += text[at++];
      continue;
    }
    const char kind = ++at < text.size() ? text[at] : '\0';
    constexpr std::string_view kLetters = "\\'\"abfnrtv";
    constexpr std::string_view kMeanings = "\\'\"\a\b\f\n\r\t\v";
    if (const size_t letter = kLetters.find(kind); letter != std::string_view::npos) {
      out += kMeanings[letter];
      ++at;
    } else if (kind == '\n') {
      ++at;
    } else if (kind == 'x' || kind == 'u' || kind == 'U') {
      append_utf8(out, hex_escape(text, ++at, kind == 'x' ? 2 : kind == 'u' ? 4 : 8));
    } else if (kind >= '0' && kind <= '7') {
      append_utf8(out, octal_escape(text, at));
    } else if (kind == 'N') {
      fail("The chat template names a character as \\N{{...}}, which is not supported.");
    } else {
      out += '\\';
    }
  }
  return out;
}

}  // namespace nibble::frontends::chat
