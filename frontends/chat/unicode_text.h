// Text as Python sees it: code points of UTF-8, Python's white space, case and classes. Positions
// and lengths are in code points unless a name says bytes.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "frontends/tokenizer/unicode.h"

namespace nibble::frontends::chat {

bool is_space(char32_t c);      // str.isspace
bool is_printable(char32_t c);  // as repr() decides what to escape
bool is_letter(char32_t c);
bool is_decimal(char32_t c);
bool is_digit(char32_t c);
bool is_numeral(char32_t c);
bool is_upper(char32_t c);
bool is_lower(char32_t c);
bool is_title(char32_t c);
bool is_word_character(char32_t c);  // \w of Python's re

int64_t count_characters(std::string_view text);
// The byte where the character at `position` starts; text.size() past the end.
size_t byte_of(std::string_view text, int64_t position);
std::vector<char32_t> characters_of(std::string_view text);
std::string text_of(const std::vector<char32_t>& characters);

// Whether there are letters with case and all of them are upper, or lower.
bool is_cased(std::string_view text, bool upper);
// False when the upper (or title) case of c is one character.
bool append_special_case(std::string& out, char32_t c, bool title);
std::string to_upper(std::string_view text);
std::string to_lower(std::string_view text);
std::string to_title(std::string_view text);  // str.title
std::string capitalize(std::string_view text);
std::string swap_case(std::string_view text);
std::string fold_case(std::string_view text);  // str.casefold

// Which ends to strip; `characters` empty and `white` true: Python's white space.
std::string_view strip(std::string_view text, bool left, bool right);
std::string_view strip(std::string_view text, bool left, bool right, std::string_view characters);

// str.splitlines: at \n, \r\n, \r, \v, \f, \x1c-\x1e, \x85, U+2028, U+2029.
std::vector<std::string_view> split_lines(std::string_view text, bool keep_ends);
// str.split and str.rsplit without a separator. limit < 0: none.
std::vector<std::string_view> split_white(std::string_view text, int64_t limit, bool from_right);
// With one, that is not empty.
std::vector<std::string_view> split_at(std::string_view text, std::string_view separator,
                                       int64_t limit, bool from_right);
std::string replace_all(std::string_view text, std::string_view old, std::string_view with,
                        int64_t limit);
std::string escape_html(std::string_view text);

}  // namespace nibble::frontends::chat
