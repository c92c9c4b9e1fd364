// UTF-8 and the few character classes that tokenizers and chat templates ask for. Private to the
// frontends.
#pragma once

#include <array>
#include <cstdint>
#include <string>
#include <string_view>

namespace nibble::frontends {

// Offset of the first byte that is not valid UTF-8 (shortest form, no surrogates), or npos.
size_t find_invalid_utf8(std::string_view text);

// The code point at `offset` of valid UTF-8; advances the offset past it.
char32_t next_code_point(std::string_view text, size_t& offset);
// The code point that ends at `end` (> 0) of valid UTF-8.
char32_t previous_code_point(std::string_view text, size_t end);
void append_utf8(std::string& out, char32_t code_point);
// Valid UTF-8 without the characters at its ends of which belongs(code_point) says so.
template <typename Belongs>
std::string_view strip_if(std::string_view text, bool left, bool right, const Belongs& belongs) {
  size_t first = 0, past = text.size();
  while (left && first < past) {
    size_t at = first;
    if (!belongs(next_code_point(text, at))) break;
    first = at;
  }
  while (right && past > first) {
    const char32_t c = previous_code_point(text, past);
    if (!belongs(c)) break;
    --past;
    while (past > first && (static_cast<unsigned char>(text[past]) & 0xC0U) == 0x80U) --past;
  }
  return text.substr(first, past - first);
}

// Bytes of the character that starts with this lead byte of valid UTF-8.
inline size_t utf8_length(char lead) {
  auto byte = static_cast<unsigned char>(lead);
  return byte < 0x80 ? 1 : byte < 0xE0 ? 2 : byte < 0xF0 ? 3 : 4;
}

// Removes from the front of `bytes` all that is decided: whole characters as they are, malformed
// ones as U+FFFD, one for each longest prefix of a well-formed character. With `last` a character
// that is cut off at the end counts as malformed, otherwise it stays in `bytes`. each_byte: every
// byte that is no part of a whole character becomes a U+FFFD of its own.
std::string take_utf8(std::string& bytes, bool last, bool each_byte = false);

bool is_white_space(char32_t c);      // Unicode property White_Space
bool is_numeric(char32_t c);          // categories Nd, Nl, No
bool is_punctuation(char32_t c);      // categories P*, and the ASCII punctuation that are symbols
bool is_word(char32_t c);             // letters, marks, decimal and letter numbers, connectors
bool is_nonspacing_mark(char32_t c);  // category Mn
bool is_mark(char32_t c);             // categories M*
bool is_other(char32_t c);            // categories Cc, Cf and Co
// The number of the script that c belongs to, the same for Han and kana; 0 for the space and for
// characters that Unicode 10 does not know.
int script_of(char32_t c);
// Bytes of the grapheme cluster (what a reader takes for one character) at `offset` of valid UTF-8,
// the whole text having been cut into clusters up to there.
size_t grapheme_length(std::string_view text, size_t offset);
void append_lowercase(std::string& out, char32_t c);

enum class NormalForm : uint8_t { nfc, nfd, nfkc, nfkd };
std::string normalize_form(std::string_view text, NormalForm form);

// GPT-2's byte alphabet: every byte as one printable character.
const std::array<char32_t, 256>& byte_characters();
std::string bytes_to_characters(std::string_view bytes);
// The byte that a character stands for, or -1.
int character_to_byte(char32_t c);

}  // namespace nibble::frontends
