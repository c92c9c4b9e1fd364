// What escapes of HTML stand for, and text without its tags.
#include <algorithm>
#include <array>
#include <charconv>

#include "frontends/chat/filters.h"
#include "frontends/chat/unicode_text.h"

namespace nibble::frontends::chat {
namespace {

struct Entity {
  std::string_view name;
  char32_t character;
};

// The names that HTML also knows without a ';' at their end, in order.
constexpr Entity kOldNames[] = {
    {"AElig", 0xC6},  {"AMP", 0x26},    {"Aacute", 0xC1}, {"Acirc", 0xC2},  {"Agrave", 0xC0},
    {"Aring", 0xC5},  {"Atilde", 0xC3}, {"Auml", 0xC4},   {"COPY", 0xA9},   {"Ccedil", 0xC7},
    {"ETH", 0xD0},    {"Eacute", 0xC9}, {"Ecirc", 0xCA},  {"Egrave", 0xC8}, {"Euml", 0xCB},
    {"GT", 0x3E},     {"Iacute", 0xCD}, {"Icirc", 0xCE},  {"Igrave", 0xCC}, {"Iuml", 0xCF},
    {"LT", 0x3C},     {"Ntilde", 0xD1}, {"Oacute", 0xD3}, {"Ocirc", 0xD4},  {"Ograve", 0xD2},
    {"Oslash", 0xD8}, {"Otilde", 0xD5}, {"Ouml", 0xD6},   {"QUOT", 0x22},   {"REG", 0xAE},
    {"THORN", 0xDE},  {"Uacute", 0xDA}, {"Ucirc", 0xDB},  {"Ugrave", 0xD9}, {"Uuml", 0xDC},
    {"Yacute", 0xDD}, {"aacute", 0xE1}, {"acirc", 0xE2},  {"acute", 0xB4},  {"aelig", 0xE6},
    {"agrave", 0xE0}, {"amp", 0x26},    {"aring", 0xE5},  {"atilde", 0xE3}, {"auml", 0xE4},
    {"brvbar", 0xA6}, {"ccedil", 0xE7}, {"cedil", 0xB8},  {"cent", 0xA2},   {"copy", 0xA9},
    {"curren", 0xA4}, {"deg", 0xB0},    {"divide", 0xF7}, {"eacute", 0xE9}, {"ecirc", 0xEA},
    {"egrave", 0xE8}, {"eth", 0xF0},    {"euml", 0xEB},   {"frac12", 0xBD}, {"frac14", 0xBC},
    {"frac34", 0xBE}, {"gt", 0x3E},     {"iacute", 0xED}, {"icirc", 0xEE},  {"iexcl", 0xA1},
    {"igrave", 0xEC}, {"iquest", 0xBF}, {"iuml", 0xEF},   {"laquo", 0xAB},  {"lt", 0x3C},
    {"macr", 0xAF},   {"micro", 0xB5},  {"middot", 0xB7}, {"nbsp", 0xA0},   {"not", 0xAC},
    {"ntilde", 0xF1}, {"oacute", 0xF3}, {"ocirc", 0xF4},  {"ograve", 0xF2}, {"ordf", 0xAA},
    {"ordm", 0xBA},   {"oslash", 0xF8}, {"otilde", 0xF5}, {"ouml", 0xF6},   {"para", 0xB6},
    {"plusmn", 0xB1}, {"pound", 0xA3},  {"quot", 0x22},   {"raquo", 0xBB},  {"reg", 0xAE},
    {"sect", 0xA7},   {"shy", 0xAD},    {"sup1", 0xB9},   {"sup2", 0xB2},   {"sup3", 0xB3},
    {"szlig", 0xDF},  {"thorn", 0xFE},  {"times", 0xD7},  {"uacute", 0xFA}, {"ucirc", 0xFB},
    {"ugrave", 0xF9}, {"uml", 0xA8},    {"uuml", 0xFC},   {"yacute", 0xFD}, {"yen", 0xA5},
    {"yuml", 0xFF}};
// Some of the names that need one.
constexpr Entity kNames[] = {{"apos", 0x27},     {"bull", 0x2022},  {"euro", 0x20AC},
                             {"hellip", 0x2026}, {"ldquo", 0x201C}, {"lsquo", 0x2018},
                             {"mdash", 0x2014},  {"ndash", 0x2013}, {"rdquo", 0x201D},
                             {"rsquo", 0x2019},  {"trade", 0x2122}};
constexpr size_t kLongestName = 32;
// What browsers take the numbers 0x80 to 0x9F for.
constexpr std::array<char32_t, 32> kWindows = {
    0x20AC, 0x81,   0x201A, 0x192,  0x201E, 0x2026, 0x2020, 0x2021, 0x2C6,  0x2030, 0x160,
    0x2039, 0x152,  0x8D,   0x17D,  0x8F,   0x90,   0x2018, 0x2019, 0x201C, 0x201D, 0x2022,
    0x2013, 0x2014, 0x2DC,  0x2122, 0x161,  0x203A, 0x153,  0x9D,   0x17E,  0x178};

char32_t character_named(std::string_view name) {
  const auto* const found = std::lower_bound(
      std::begin(kOldNames), std::end(kOldNames), name,
      [](const Entity& each, std::string_view wanted) { return each.name < wanted; });
  return found != std::end(kOldNames) && found->name == name ? found->character : 0;
}

// The character of a number; 0 for one that stands for nothing.
char32_t character_numbered(uint32_t number) {
  if (number == 0 || number > 0x10FFFF || (number >= 0xD800 && number <= 0xDFFF)) return 0xFFFD;
  if (number >= 0x80 && number < 0xA0) return kWindows[number - 0x80];
  const bool control =
      number < 0x20 && number != 0x09 && number != 0x0A && number != 0x0C && number != 0x0D;
  const bool none = control || number == 0x7F || (number >= 0xFDD0 && number <= 0xFDEF) ||
                    (number & 0xFFFE) == 0xFFFE;
  return none ? 0 : number;
}

// "&#123;" from the '#' on. Returns the bytes taken, 0 when it is none.
size_t append_number(std::string& out, std::string_view text) {
  const bool hexadecimal = text.size() > 1 && (text[1] == 'x' || text[1] == 'X');
  const size_t first = hexadecimal ? 2 : 1;
  const char* const digits = hexadecimal ? "0123456789abcdefABCDEF" : "0123456789";
  const size_t past = std::min(text.find_first_not_of(digits, first), text.size());
  if (past <= first) return 0;
  uint32_t number = 0;
  const auto read =
      std::from_chars(text.data() + first, text.data() + past, number, hexadecimal ? 16 : 10);
  if (read.ec != std::errc()) number = UINT32_MAX;
  if (const char32_t c = character_numbered(number); c != 0) append_utf8(out, c);
  return past + (past < text.size() && text[past] == ';' ? 1 : 0);
}

// "&amp;" from the 'a' on. Returns the bytes taken, 0 when it stands for itself.
size_t append_name(std::string& out, std::string_view text) {
  size_t past = 0;
  for (size_t i = 0; i < kLongestName && past < text.size(); ++i) {
    if (std::string_view("\t\n\f <&#;").find(text[past]) != std::string_view::npos) break;
    next_code_point(text, past);
  }
  const std::string_view name = text.substr(0, past);
  const bool ended = past < text.size() && text[past] == ';';
  char32_t c = character_named(name);
  for (const Entity& each : kNames) c = ended && each.name == name ? each.character : c;
  if (c != 0) {
    append_utf8(out, c);
    return past + (ended ? 1 : 0);
  }
  if (ended && past > 1) {
    fail("The chat template has text with the HTML entity '&{};', which is not known here.", name);
  }
  for (size_t length = past; length-- > 2;) {
    if (c = character_named(name.substr(0, length)); c == 0) continue;
    append_utf8(out, c);
    return length;
  }
  return 0;
}

std::string without(std::string text, std::string_view open, std::string_view close) {
  std::string out;
  size_t at = 0;
  while (true) {
    const size_t begin = text.find(open, at);
    const size_t end = begin == std::string::npos ? begin : text.find(close, begin);
    if (end == std::string::npos) break;
    out += text.substr(at, begin - at);
    at = end + close.size();
  }
  return out + text.substr(at);
}

}  // namespace

std::string unescape_html(std::string_view text) {
  std::string out;
  spend_bytes(text.size());
  for (size_t at = 0; at < text.size();) {
    const size_t mark = std::min(text.find('&', at), text.size());
    out += text.substr(at, mark - at);
    at = mark;
    if (at == text.size()) break;
    const std::string_view rest = text.substr(++at);
    const size_t taken = rest.starts_with('#') ? append_number(out, rest) : append_name(out, rest);
    if (taken == 0) out += '&';
    at += taken;
  }
  return out;
}

std::string strip_tags(std::string_view text) {
  const std::string bare = without(without(std::string(text), "<!--", "-->"), "<", ">");
  std::string out;
  for (const std::string_view word : split_white(bare, -1, false)) {
    if (!out.empty()) out += ' ';
    out += word;
  }
  return unescape_html(out);
}

}  // namespace nibble::frontends::chat
