#include "frontends/tokenizer/unicode.h"

#include <utf8proc.h>

#include <cstdlib>
#include <memory>

#include "jit/error.h"

namespace nibble::frontends {
namespace {

// One step over a possibly malformed character: how many bytes belong to it.
struct Scan {
  size_t length = 1;
  bool valid = false;
  bool cut = false;  // what is there may become valid when more bytes come
};

// The ranges of the second byte are those of the Unicode Standard's table of well-formed sequences.
Scan scan_character(std::string_view text, size_t at) {
  auto byte = [&](size_t i) { return static_cast<unsigned char>(text[i]); };
  unsigned char lead = byte(at);
  if (lead < 0x80) return {1, true, false};
  if (lead < 0xC2 || lead > 0xF4) return {1, false, false};
  size_t need = lead < 0xE0 ? 2 : lead < 0xF0 ? 3 : 4;
  unsigned char low = 0x80, high = 0xBF;
  if (lead == 0xE0) low = 0xA0;
  if (lead == 0xED) high = 0x9F;
  if (lead == 0xF0) low = 0x90;
  if (lead == 0xF4) high = 0x8F;
  for (size_t i = 1; i < need; ++i) {
    if (at + i >= text.size()) return {i, false, true};
    if (byte(at + i) < low || byte(at + i) > high) return {i, false, false};
    low = 0x80;
    high = 0xBF;
  }
  return {need, true, false};
}

utf8proc_category_t category(char32_t c) {
  return utf8proc_category(static_cast<utf8proc_int32_t>(c));
}

}  // namespace

size_t find_invalid_utf8(std::string_view text) {
  for (size_t at = 0; at < text.size();) {
    Scan scan = scan_character(text, at);
    if (!scan.valid) return at;
    at += scan.length;
  }
  return std::string_view::npos;
}

char32_t next_code_point(std::string_view text, size_t& offset) {
  size_t length = utf8_length(text[offset]);
  auto lead = static_cast<unsigned char>(text[offset]);
  char32_t c = length == 1 ? lead : lead & (0xFFU >> (length + 1));
  for (size_t i = 1; i < length && offset + i < text.size(); ++i) {
    c = (c << 6) | (static_cast<unsigned char>(text[offset + i]) & 0x3FU);
  }
  offset += length;
  return c;
}

char32_t previous_code_point(std::string_view text, size_t end) {
  size_t start = end - 1;
  while (start > 0 && (static_cast<unsigned char>(text[start]) & 0xC0U) == 0x80U) --start;
  return next_code_point(text, start);
}

void append_utf8(std::string& out, char32_t c) {
  if (c < 0x80) {
    out += static_cast<char>(c);
  } else if (c < 0x800) {
    out += static_cast<char>(0xC0 | (c >> 6));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else if (c < 0x10000) {
    out += static_cast<char>(0xE0 | (c >> 12));
    out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  } else {
    out += static_cast<char>(0xF0 | (c >> 18));
    out += static_cast<char>(0x80 | ((c >> 12) & 0x3F));
    out += static_cast<char>(0x80 | ((c >> 6) & 0x3F));
    out += static_cast<char>(0x80 | (c & 0x3F));
  }
}

std::string take_utf8(std::string& bytes, bool last, bool each_byte) {
  std::string out;
  size_t at = 0;
  while (at < bytes.size()) {
    Scan scan = scan_character(bytes, at);
    if (scan.cut && !last) break;
    if (scan.valid) {
      out.append(bytes, at, scan.length);
    } else {
      append_utf8(out, 0xFFFD);
      if (each_byte) scan.length = 1;
    }
    at += scan.length;
  }
  bytes.erase(0, at);
  return out;
}

bool is_white_space(char32_t c) {
  return (c >= 0x09 && c <= 0x0D) || c == 0x20 || c == 0x85 || c == 0xA0 || c == 0x1680 ||
         (c >= 0x2000 && c <= 0x200A) || c == 0x2028 || c == 0x2029 || c == 0x202F || c == 0x205F ||
         c == 0x3000;
}

bool is_numeric(char32_t c) {
  utf8proc_category_t kind = category(c);
  return kind == UTF8PROC_CATEGORY_ND || kind == UTF8PROC_CATEGORY_NL ||
         kind == UTF8PROC_CATEGORY_NO;
}

bool is_punctuation(char32_t c) {
  if (c < 0x80) {
    return (c >= 0x21 && c <= 0x2F) || (c >= 0x3A && c <= 0x40) || (c >= 0x5B && c <= 0x60) ||
           (c >= 0x7B && c <= 0x7E);
  }
  utf8proc_category_t kind = category(c);
  return kind >= UTF8PROC_CATEGORY_PC && kind <= UTF8PROC_CATEGORY_PO;
}

bool is_word(char32_t c) {
  utf8proc_category_t kind = category(c);
  bool letter = kind >= UTF8PROC_CATEGORY_LU && kind <= UTF8PROC_CATEGORY_LO;
  bool mark = kind >= UTF8PROC_CATEGORY_MN && kind <= UTF8PROC_CATEGORY_ME;
  bool enclosed_letter = (c >= 0x24B6 && c <= 0x24E9) || (c >= 0x1F130 && c <= 0x1F149) ||
                         (c >= 0x1F150 && c <= 0x1F169) || (c >= 0x1F170 && c <= 0x1F189);
  return letter || mark || enclosed_letter || kind == UTF8PROC_CATEGORY_ND ||
         kind == UTF8PROC_CATEGORY_NL || kind == UTF8PROC_CATEGORY_PC || c == 0x200C || c == 0x200D;
}

bool is_nonspacing_mark(char32_t c) { return category(c) == UTF8PROC_CATEGORY_MN; }

bool is_mark(char32_t c) {
  utf8proc_category_t kind = category(c);
  return kind >= UTF8PROC_CATEGORY_MN && kind <= UTF8PROC_CATEGORY_ME;
}

bool is_other(char32_t c) {
  utf8proc_category_t kind = category(c);
  return kind == UTF8PROC_CATEGORY_CC || kind == UTF8PROC_CATEGORY_CF ||
         kind == UTF8PROC_CATEGORY_CO;
}

size_t grapheme_length(std::string_view text, size_t offset) {
  utf8proc_int32_t state = 0;
  size_t at = offset;
  auto before = static_cast<utf8proc_int32_t>(next_code_point(text, at));
  while (at < text.size()) {
    size_t next = at;
    auto c = static_cast<utf8proc_int32_t>(next_code_point(text, next));
    if (utf8proc_grapheme_break_stateful(before, c, &state)) break;
    before = c;
    at = next;
  }
  return at - offset;
}

void append_lowercase(std::string& out, char32_t c) {
  if (c == 0x130) {  // the one capital whose small form is two characters
    out += "i\xCC\x87";
    return;
  }
  append_utf8(out, static_cast<char32_t>(utf8proc_tolower(static_cast<utf8proc_int32_t>(c))));
}

namespace {

// Decompose in today's Unicode, but not in the tables of Hugging Face's library, whose normal forms
// leave them alone.
bool left_alone(char32_t c, NormalForm form) {
  if (form == NormalForm::nfc) return false;
  if (form != NormalForm::nfkc && c == 0x11938) return true;
  if (form == NormalForm::nfd || c < 0x32FF) return false;
  return c == 0x32FF || (c >= 0xA7F2 && c <= 0xA7F4) || c == 0xAB69 ||
         (c >= 0x10780 && c <= 0x107BA) || c == 0x1F16C || (c >= 0x1FBF0 && c <= 0x1FBF9);
}

bool is_ascii(char c) { return static_cast<unsigned char>(c) < 0x80; }

void append_form(std::string& out, std::string_view text, utf8proc_option_t options) {
  if (text.empty()) return;
  utf8proc_uint8_t* mapped = nullptr;
  utf8proc_ssize_t length =
      utf8proc_map(reinterpret_cast<const utf8proc_uint8_t*>(text.data()),
                   static_cast<utf8proc_ssize_t>(text.size()), &mapped, options);
  std::unique_ptr<utf8proc_uint8_t, decltype(&std::free)> owner(mapped, &std::free);
  if (length < 0) {
    fail("A text of {} bytes could not be brought to a Unicode normal form: {}.", text.size(),
         utf8proc_errmsg(length));
  }
  out.append(reinterpret_cast<const char*>(mapped), static_cast<size_t>(length));
}

}  // namespace

std::string normalize_form(std::string_view text, NormalForm form) {
  int options = UTF8PROC_STABLE;
  bool compose = form == NormalForm::nfc || form == NormalForm::nfkc;
  options |= compose ? UTF8PROC_COMPOSE : UTF8PROC_DECOMPOSE;
  if (form == NormalForm::nfkc || form == NormalForm::nfkd) options |= UTF8PROC_COMPAT;
  std::string out;
  out.reserve(text.size());
  // ASCII stays as it is, and nothing composes across the left edge of an ASCII character: what has
  // to be mapped are the runs of other characters, each with the character before it.
  for (size_t at = 0; at < text.size();) {
    size_t end = at;
    while (end < text.size() && is_ascii(text[end])) ++end;
    size_t run = end > at && end < text.size() ? end - 1 : end;
    out += text.substr(at, run - at);
    size_t alone = 0;
    while (end < text.size() && !is_ascii(text[end]) && alone == 0) {
      size_t next = end;
      if (left_alone(next_code_point(text, next), form)) {
        alone = next - end;
      } else {
        end = next;
      }
    }
    append_form(out, text.substr(run, end - run), static_cast<utf8proc_option_t>(options));
    out += text.substr(end, alone);
    at = end + alone;
  }
  return out;
}

const std::array<char32_t, 256>& byte_characters() {
  // Printable Latin-1 bytes stand for themselves, the others follow from U+0100 on.
  static const std::array<char32_t, 256> by_byte = [] {
    std::array<char32_t, 256> table{};
    char32_t next = 0x100;
    for (char32_t b = 0; b < 256; ++b) {
      bool printable = (b >= 0x21 && b <= 0x7E) || (b >= 0xA1 && b <= 0xAC) || b >= 0xAE;
      table[b] = printable ? b : next++;
    }
    return table;
  }();
  return by_byte;
}

std::string bytes_to_characters(std::string_view bytes) {
  const auto& table = byte_characters();
  std::string out;
  out.reserve(bytes.size() * 2);
  for (char c : bytes) append_utf8(out, table[static_cast<unsigned char>(c)]);
  return out;
}

int character_to_byte(char32_t c) {
  static const std::array<int16_t, 0x180> by_character = [] {
    std::array<int16_t, 0x180> inverse{};
    inverse.fill(-1);
    const auto& table = byte_characters();
    for (int b = 0; b < 256; ++b) inverse[table[static_cast<size_t>(b)]] = static_cast<int16_t>(b);
    return inverse;
  }();
  return c < by_character.size() ? by_character[c] : -1;
}

}  // namespace nibble::frontends
