// Tokens to tree, by recursive descent. Accepts and refuses what Jinja does, in its words.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "frontends/chat/ast.h"
#include "frontends/chat/lexer.h"

namespace nibble::frontends::chat {

// Throws TemplateError for what Jinja refuses too, Error for nesting that is too deep.
Template parse(std::string_view source);

class Parser {
 public:
  explicit Parser(std::vector<Token> tokens) : tokens_(std::move(tokens)) {}
  Template run();

 private:
  using Kind = Expression::Kind;

  // Tokens.
  const Token& current() const { return tokens_[at_]; }
  const Token& ahead() const { return tokens_[std::min(at_ + 1, tokens_.size() - 1)]; }
  const Token& take();
  bool skip_name(std::string_view name);
  bool skip_sign(std::string_view sign);
  void expect_sign(std::string_view sign);
  std::string expect_name();
  void expect(TokenType type);
  [[noreturn]] void unexpected(const std::string& wanted) const;

  // Statements (parser.cpp).
  // The end tag's name is the current token then. `top`: it is at the top level if this is.
  Body body_until(std::vector<std::string> ends, bool top = false);
  Body closed_body(const std::string& end, bool top = false);  // the end tag's name is taken
  void body(Body& out, const std::vector<std::string>* ends);
  Statement statement();
  Statement parse_known(const std::string& tag);
  Statement parse_for();
  Statement parse_if();
  Statement parse_set();
  Statement parse_macro();
  Statement parse_call_block();
  Statement parse_generation();
  Statement parse_filter_block();
  Statement parse_with();
  Statement parse_block();
  Statement parse_autoescape();
  Statement parse_print();
  Statement parse_load(const std::string& tag);
  void parse_imported_names();
  bool skip_context();
  Statement start(Statement::Kind kind) const;
  void signature(Signature& out);
  std::shared_ptr<const Signature> macro_body(Signature signature, const std::string& end);
  [[noreturn]] void fail_at_tag(const std::string* name) const;

  // Expressions (parser_expressions.cpp).
  ExpressionPtr expression(bool conditional = true);
  ExpressionPtr conditional_expression();
  ExpressionPtr logical_or();
  ExpressionPtr logical_and();
  ExpressionPtr logical_not();
  ExpressionPtr comparison();
  ExpressionPtr sum();
  ExpressionPtr concatenation();
  ExpressionPtr product();
  ExpressionPtr power();
  ExpressionPtr unary(bool with_filter = true);
  ExpressionPtr primary(bool with_namespace = false);
  ExpressionPtr string_constant();
  struct TupleRules {
    bool simplified = false, conditional = true, parentheses = false, with_namespace = false;
    const char* end_name = nullptr;
  };
  ExpressionPtr tuple(const TupleRules& rules);
  ExpressionPtr list();
  ExpressionPtr dict();
  ExpressionPtr postfix(ExpressionPtr node);
  ExpressionPtr filters_and_tests(ExpressionPtr node);
  ExpressionPtr subscript(ExpressionPtr node);
  ExpressionPtr subscribed();
  ExpressionPtr call(ExpressionPtr node);
  ExpressionPtr filter(ExpressionPtr node, bool inline_start = false);
  ExpressionPtr test(ExpressionPtr node);
  CallArguments call_arguments();
  ExpressionPtr target(const TupleRules& rules);
  ExpressionPtr binary(Operator op, ExpressionPtr left, ExpressionPtr right, int line);
  ExpressionPtr pair(Kind kind, ExpressionPtr first, ExpressionPtr second, int line);
  ExpressionPtr node(Kind kind, int line) const;
  ExpressionPtr done(ExpressionPtr node) const;  // with its height
  std::string dotted_name();
  void assert_later(const std::string& message);
  void check_known(const char* what, const std::string& name, bool known);
  void note_name(const std::string& name);

  std::vector<Token> tokens_;
  size_t at_ = 0;
  std::vector<std::vector<std::string>> ends_;  // of the bodies that are open
  std::vector<std::string> tags_;               // that are open
  std::vector<Signature*> macros_;              // that are open
  // Within a branch an unknown filter is only an error once it is reached.
  bool soft_ = false;
  int loops_ = 0;
  bool top_ = true;  // outside of all bodies but branches
  Escape escape_ = Escape::off;
  std::vector<std::shared_ptr<const Signature>> blocks_;
  std::string assertion_;  // the first error that Jinja finds after parsing
};

}  // namespace nibble::frontends::chat
