#include "frontends/chat/unicode_text.h"

#include <utf8proc.h>

#include <algorithm>

#include "frontends/chat/budget.h"

namespace nibble::frontends::chat {
namespace {

utf8proc_category_t category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

char32_t raised(char32_t c) {
  return static_cast<char32_t>(utf8proc_toupper(static_cast<utf8proc_int32_t>(c)));
}
char32_t lowered(char32_t c) {
  return static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c)));
}
char32_t titled(char32_t c) {
  return static_cast<char32_t>(utf8proc_totitle(static_cast<utf8proc_int32_t>(c)));
}

void append_upper(std::string& out, char32_t c) {
  if (!append_special_case(out, c, false)) append_utf8(out, raised(c));
}

void append_lower(std::string& out, const std::vector<char32_t>& all, size_t at) {
  const char32_t c = all[at];
  if (c == U'İ') {
    out += "i\xCC\x87";
  } else if (c == U'Σ') {  // at the end of a word it has another form
    const bool after = at > 0 && is_letter(all[at - 1]);
    const bool before = at + 1 < all.size() && is_letter(all[at + 1]);
    append_utf8(out, after && !before ? U'ς' : U'σ');
  } else {
    append_utf8(out, lowered(c));
  }
}

void append_title(std::string& out, char32_t c) {
  if (!append_special_case(out, c, true)) append_utf8(out, titled(c));
}

struct CharacterRange {
  char32_t first, last;
};

// Of the few characters that have a property beside those of its category.
template <size_t count>
bool among(const CharacterRange (&ranges)[count], char32_t c) {
  return std::any_of(std::begin(ranges), std::end(ranges), [&](const CharacterRange& range) {
    return c >= range.first && c <= range.last;
  });
}

bool is_line_end(char32_t c) {
  return (c >= 0x0A && c <= 0x0D) || (c >= 0x1C && c <= 0x1E) || c == 0x85 || c == 0x2028 ||
         c == 0x2029;
}

}  // namespace

bool is_space(char32_t c) {
  if (c < 0x80) return c == U' ' || (c >= 0x09 && c <= 0x0D) || (c >= 0x1C && c <= 0x1F);
  return is_white_space(c);
}

bool is_printable(char32_t c) {
  if (c < 0x7F) return c >= 0x20;
  switch (category(c)) {
    case UTF8PROC_CATEGORY_CC:
    case UTF8PROC_CATEGORY_CF:
    case UTF8PROC_CATEGORY_CS:
    case UTF8PROC_CATEGORY_CO:
    case UTF8PROC_CATEGORY_CN:
    case UTF8PROC_CATEGORY_ZL:
    case UTF8PROC_CATEGORY_ZP:
    case UTF8PROC_CATEGORY_ZS:
      return false;
    default:
      return true;
  }
}

bool is_letter(char32_t c) {
  const auto kind = category(c);
  return kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_LO;
}
bool is_decimal(char32_t c) { return category(c) == UTF8PROC_CATEGORY_ND; }
bool is_digit(char32_t c) {
  return is_decimal(c) || c == 0xB2 || c == 0xB3 || c == 0xB9 || c == 0x2070 ||
         (c >= 0x2074 && c <= 0x2079) || (c >= 0x2080 && c <= 0x2089) ||
         (c >= 0x2460 && c <= 0x2468);
}
bool is_numeral(char32_t c) { return is_numeric(c); }
bool is_upper(char32_t c) {
  static constexpr CharacterRange kOthers[] = {{0x2160, 0x216F},
                                               {0x24B6, 0x24CF},
                                               {0x1F130, 0x1F149},
                                               {0x1F150, 0x1F169},
                                               {0x1F170, 0x1F189}};
  return category(c) == UTF8PROC_CATEGORY_LU || among(kOthers, c);
}
bool is_lower(char32_t c) {
  static constexpr CharacterRange kOthers[] = {
      {0xAA, 0xAA},       {0xBA, 0xBA},       {0x2B0, 0x2B8},    {0x2C0, 0x2C1},
      {0x2E0, 0x2E4},     {0x345, 0x345},     {0x37A, 0x37A},    {0x10FC, 0x10FC},
      {0x1D2C, 0x1D6A},   {0x1D78, 0x1D78},   {0x1D9B, 0x1DBF},  {0x2071, 0x2071},
      {0x207F, 0x207F},   {0x2090, 0x209C},   {0x2170, 0x217F},  {0x24D0, 0x24E9},
      {0x2C7C, 0x2C7D},   {0xA69C, 0xA69D},   {0xA770, 0xA770},  {0xA7F2, 0xA7F4},
      {0xA7F8, 0xA7F9},   {0xAB5C, 0xAB5F},   {0xAB69, 0xAB69},  {0x10780, 0x10780},
      {0x10783, 0x10785}, {0x10787, 0x107B0}, {0x107B2, 0x107BA}};
  return category(c) == UTF8PROC_CATEGORY_LL || among(kOthers, c);
}
bool is_title(char32_t c) { return category(c) == UTF8PROC_CATEGORY_LT; }
bool is_word_character(char32_t c) { return c == U'_' || is_letter(c) || is_numeral(c); }

int64_t count_characters(std::string_view text) {
  spend_bytes(text.size());
  return std::count_if(text.begin(), text.end(),
                       [](char c) { return (static_cast<unsigned char>(c) & 0xC0U) != 0x80U; });
}

size_t byte_of(std::string_view text, int64_t position) {
  size_t at = 0;
  for (; position > 0 && at < text.size(); --position) at += utf8_length(text[at]);
  spend_bytes(at);
  return std::min(at, text.size());
}

std::vector<char32_t> characters_of(std::string_view text) {
  foresee(text.size(), sizeof(char32_t));
  std::vector<char32_t> out;
  out.reserve(text.size());
  for (size_t at = 0; at < text.size();) out.push_back(next_code_point(text, at));
  return out;
}

std::string text_of(const std::vector<char32_t>& characters) {
  std::string out;
  for (const char32_t c : characters) append_utf8(out, c);
  return out;
}

std::string to_upper(std::string_view text) {
  std::string out;
  for (const char32_t c : characters_of(text)) append_upper(out, c);
  return out;
}

std::string to_lower(std::string_view text) {
  std::string out;
  const auto all = characters_of(text);
  for (size_t i = 0; i < all.size(); ++i) append_lower(out, all, i);
  return out;
}

std::string to_title(std::string_view text) {
  std::string out;
  bool inside = false;
  const auto all = characters_of(text);
  for (size_t i = 0; i < all.size(); ++i) {
    if (inside) {
      append_lower(out, all, i);
    } else {
      append_title(out, all[i]);
    }
    inside = is_upper(all[i]) || is_lower(all[i]) || is_title(all[i]);
  }
  return out;
}

std::string capitalize(std::string_view text) {
  std::string out;
  const auto all = characters_of(text);
  for (size_t i = 0; i < all.size(); ++i) {
    if (i == 0) {
      append_title(out, all[i]);
    } else {
      append_lower(out, all, i);
    }
  }
  return out;
}

std::string swap_case(std::string_view text) {
  std::string out;
  const auto all = characters_of(text);
  for (size_t i = 0; i < all.size(); ++i) {
    if (is_upper(all[i])) {
      append_lower(out, all, i);
    } else if (is_lower(all[i])) {
      append_upper(out, all[i]);
    } else {
      append_utf8(out, all[i]);
    }
  }
  return out;
}

std::string fold_case(std::string_view text) {
  std::string out;
  foresee(text.size(), 3);
  for (const char32_t c : characters_of(text)) {
    utf8proc_int32_t parts[4];
    int boundary = 0;
    const auto count = utf8proc_decompose_char(static_cast<utf8proc_int32_t>(c), parts, 4,
                                               UTF8PROC_CASEFOLD, &boundary);
    for (utf8proc_ssize_t i = 0; i < count; ++i) {
      append_utf8(out, static_cast<char32_t>(parts[i]));
    }
  }
  return out;
}

bool is_cased(std::string_view text, bool upper) {
  bool any = false;
  for (const char32_t c : characters_of(text)) {
    if (is_title(c) || (upper ? is_lower(c) : is_upper(c))) return false;
    any = any || is_upper(c) || is_lower(c);
  }
  return any;
}

std::string_view strip(std::string_view text, bool left, bool right) {
  const std::string_view kept = strip_if(text, left, right, is_space);
  spend_bytes(text.size() - kept.size());
  return kept;
}

std::string_view strip(std::string_view text, bool left, bool right, std::string_view characters) {
  const auto set = characters_of(characters);
  const std::string_view kept = strip_if(text, left, right, [&](char32_t c) {
    return std::find(set.begin(), set.end(), c) != set.end();
  });
  spend_bytes((text.size() - kept.size()) * (1 + set.size() / 4));
  return kept;
}

std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends) {
  std::vector<std::string_view> out;
  size_t start = 0;
  for (size_t at = 0; at < text.size();) {
    const size_t end = at;
    const char32_t c = next_code_point(text, at);
    if (!is_line_end(c)) continue;
    if (c == U'\r' && at < text.size() && text[at] == '\n') ++at;
    out.push_back(text.substr(start, (keep_ends ? at : end) - start));
    foresee(out.size() * sizeof(std::string_view));
    start = at;
  }
  if (start < text.size()) out.push_back(text.substr(start));
  spend_bytes(text.size());
  return out;
}

std::vector<std::string_view> split_white(std::string_view text, int64_t limit, bool from_right) {
  std::vector<std::string_view> out;
  spend_bytes(text.size());
  while (true) {
    text = strip_if(text, !from_right, from_right, is_space);
    if (text.empty()) break;
    foresee(out.size() * sizeof(std::string_view));
    if (limit >= 0 && static_cast<int64_t>(out.size()) >= limit) {
      out.push_back(text);
      break;
    }
    const auto word = [](char32_t c) { return !is_space(c); };
    const std::string_view rest = strip_if(text, !from_right, from_right, word);
    out.push_back(from_right ? text.substr(rest.size())
                             : text.substr(0, text.size() - rest.size()));
    text = rest;
  }
  if (from_right) std::reverse(out.begin(), out.end());
  return out;
}

std::vector<std::string_view> split_at(std::string_view text, std::string_view separator,
                                       int64_t limit, bool from_right) {
  std::vector<std::string_view> out;
  spend_bytes(text.size());
  while (limit < 0 || static_cast<int64_t>(out.size()) < limit) {
    const size_t at = from_right ? text.rfind(separator) : text.find(separator);
    if (at == std::string_view::npos) break;
    foresee(out.size() * sizeof(std::string_view));
    const std::string_view after = text.substr(at + separator.size());
    out.push_back(from_right ? after : text.substr(0, at));
    text = from_right ? text.substr(0, at) : after;
  }
  out.push_back(text);
  if (from_right) std::reverse(out.begin(), out.end());
  return out;
}

std::string replace_all(std::string_view text, std::string_view old, std::string_view with,
                        int64_t limit) {
  std::string out;
  spend_bytes(text.size());
  if (old.empty()) {  // before every character and at the end
    size_t at = 0;
    while (limit != 0) {
      out += with;
      --limit;
      foresee(out.size());
      if (at == text.size()) return out;
      const size_t start = at;
      next_code_point(text, at);
      out += text.substr(start, at - start);
    }
    return out += text.substr(at);
  }
  while (limit != 0) {
    const size_t at = text.find(old);
    if (at == std::string_view::npos) break;
    out += text.substr(0, at);
    out += with;
    foresee(out.size());
    text.remove_prefix(at + old.size());
    --limit;
  }
  out += text;
  spend_bytes(out.size());
  return out;
}

std::string escape_html(std::string_view text) {
  std::string out;
  for (const char c : text) {
    switch (c) {
      case '&':
        out += "&amp;";
        break;
      case '<':
        out += "&lt;";
        break;
      case '>':
        out += "&gt;";
        break;
      case '"':
        out += "&#34;";
        break;
      case '\'':
        out += "&#39;";
        break;
      default:
        out += c;
    }
  }
  foresee(out.size(), 1);
  return out;
}

}  // namespace nibble::frontends::chat
