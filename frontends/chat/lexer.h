// Cuts a template into tokens as Jinja does with trim_blocks and lstrip_blocks: data between tags,
// with the white space that tags take away already gone, and what is within {{ }} and {% %}.
#pragma once

#include <cstdint>
#include <string>
#include <string_view>
#include <vector>

namespace nibble::frontends::chat {

enum class TokenType : uint8_t {
  data,
  variable_begin,
  variable_end,
  block_begin,
  block_end,
  name,
  string,
  integer,
  real,
  sign,  // an operator or a bracket
  end,
};

struct Token {
  TokenType type;
  std::string text;  // of a string: unescaped; of a sign: as written
  int line;
  int64_t integer = 0;
  double real = 0;

  bool is(TokenType wanted, std::string_view value) const {
    return type == wanted && text == value;
  }
  bool is_name(std::string_view value) const { return is(TokenType::name, value); }
  bool is_sign(std::string_view value) const { return is(TokenType::sign, value); }
};

// As Jinja's messages describe a token, or one of a type.
std::string describe(const Token& token);
std::string describe_type(TokenType type);

// Throws TemplateError in Jinja's words. The last token is of type `end`.
std::vector<Token> tokenize(std::string_view source);

}  // namespace nibble::frontends::chat
