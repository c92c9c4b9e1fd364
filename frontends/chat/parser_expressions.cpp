// The expressions of the parser, from the loosest binding to the tightest.
#include <algorithm>

#include "frontends/chat/filters.h"
#include "frontends/chat/parser.h"

namespace nibble::frontends::chat {
namespace {

constexpr int kMostHeight = 400;  // of an expression's tree

int height_of(const ExpressionPtr& node) { return node ? node->height : 0; }

const char* kind_name(Expression::Kind kind) {
  switch (kind) {
    case Expression::Kind::constant:
      return "const";
    case Expression::Kind::list:
      return "list";
    case Expression::Kind::dict:
      return "dict";
    case Expression::Kind::attribute:
      return "getattr";
    case Expression::Kind::subscript:
      return "getitem";
    case Expression::Kind::call:
      return "call";
    case Expression::Kind::filter:
      return "filter";
    default:
      return "expression";
  }
}

void check_target(const Expression& target) {
  if (target.kind == Expression::Kind::tuple) {
    for (const ExpressionPtr& part : target.items) check_target(*part);
  } else if (target.kind != Expression::Kind::name && target.kind != Expression::Kind::space) {
    raise("can't assign to '{}'", kind_name(target.kind));
  }
}

}  // namespace

ExpressionPtr Parser::node(Kind kind, int line) const {
  auto out = std::make_unique<Expression>();
  out->kind = kind;
  out->line = line;
  return out;
}

ExpressionPtr Parser::done(ExpressionPtr node) const {
  int height = std::max(height_of(node->first), height_of(node->second));
  for (const auto& item : node->items) height = std::max(height, height_of(item));
  for (const auto& item : node->arguments.positional) height = std::max(height, height_of(item));
  for (const auto& item : node->arguments.named) height = std::max(height, height_of(item.second));
  height =
      std::max({height, height_of(node->arguments.star), height_of(node->arguments.double_star)});
  if (height >= kMostHeight) {
    fail("The chat template has an expression of more than {} levels in line {}.", kMostHeight,
         node->line);
  }
  node->height = height + 1;
  return node;
}

ExpressionPtr Parser::pair(Kind kind, ExpressionPtr first, ExpressionPtr second, int line) {
  ExpressionPtr out = node(kind, line);
  out->first = std::move(first);
  out->second = std::move(second);
  return done(std::move(out));
}

ExpressionPtr Parser::binary(Operator op, ExpressionPtr left, ExpressionPtr right, int line) {
  ExpressionPtr out = pair(Kind::binary, std::move(left), std::move(right), line);
  out->op = op;
  return out;
}

ExpressionPtr Parser::expression(bool conditional) {
  return conditional ? conditional_expression() : logical_or();
}

ExpressionPtr Parser::conditional_expression() {
  const Deeper deeper;
  const int line = current().line;
  const std::string before = assertion_;
  ExpressionPtr out = logical_or();
  // A branch after all, so what is not known there is no error yet.
  if (current().is_name("if")) assertion_ = before;
  while (skip_name("if")) {
    const bool soft = std::exchange(soft_, true);
    ExpressionPtr choice = node(Kind::conditional, line);
    ExpressionPtr condition = logical_or();
    choice->items.push_back(std::move(out));
    choice->items.push_back(std::move(condition));
    choice->items.push_back(skip_name("else") ? conditional_expression() : nullptr);
    soft_ = soft;
    out = done(std::move(choice));
  }
  return out;
}

ExpressionPtr Parser::logical_or() {
  const int line = current().line;
  ExpressionPtr left = logical_and();
  while (skip_name("or")) left = pair(Kind::logical_or, std::move(left), logical_and(), line);
  return left;
}

ExpressionPtr Parser::logical_and() {
  const int line = current().line;
  ExpressionPtr left = logical_not();
  while (skip_name("and")) left = pair(Kind::logical_and, std::move(left), logical_not(), line);
  return left;
}

ExpressionPtr Parser::logical_not() {
  if (!current().is_name("not")) return comparison();
  const Deeper deeper;
  const int line = take().line;
  return pair(Kind::logical_not, logical_not(), nullptr, line);
}

ExpressionPtr Parser::comparison() {
  const int line = current().line;
  ExpressionPtr left = sum();
  ExpressionPtr out;
  const auto add = [&](Comparison op) {
    if (!out) {
      out = node(Kind::compare, line);
      out->items.push_back(std::move(left));
    }
    out->comparisons.push_back(op);
    out->items.push_back(sum());
  };
  while (true) {
    if (skip_sign("==")) {
      add(Comparison::eq);
    } else if (skip_sign("!=")) {
      add(Comparison::ne);
    } else if (skip_sign("<")) {
      add(Comparison::lt);
    } else if (skip_sign("<=")) {
      add(Comparison::le);
    } else if (skip_sign(">")) {
      add(Comparison::gt);
    } else if (skip_sign(">=")) {
      add(Comparison::ge);
    } else if (skip_name("in")) {
      add(Comparison::in);
    } else if (current().is_name("not") && ahead().is_name("in")) {
      take();
      take();
      add(Comparison::not_in);
    } else {
      return out ? done(std::move(out)) : std::move(left);
    }
  }
}

ExpressionPtr Parser::sum() {
  const int line = current().line;
  ExpressionPtr left = concatenation();
  while (current().is_sign("+") || current().is_sign("-")) {
    const Operator op = take().text == "+" ? Operator::add : Operator::subtract;
    left = binary(op, std::move(left), concatenation(), line);
  }
  return left;
}

ExpressionPtr Parser::concatenation() {
  const int line = current().line;
  ExpressionPtr first = product();
  if (!current().is_sign("~")) return first;
  ExpressionPtr out = node(Kind::concat, line);
  out->escape = escape_;
  out->items.push_back(std::move(first));
  while (skip_sign("~")) out->items.push_back(product());
  return done(std::move(out));
}

ExpressionPtr Parser::product() {
  const int line = current().line;
  ExpressionPtr left = power();
  while (true) {
    if (skip_sign("*")) {
      left = binary(Operator::multiply, std::move(left), power(), line);
    } else if (skip_sign("/")) {
      left = binary(Operator::divide, std::move(left), power(), line);
    } else if (skip_sign("//")) {
      left = binary(Operator::floor_divide, std::move(left), power(), line);
    } else if (skip_sign("%")) {
      left = binary(Operator::modulo, std::move(left), power(), line);
    } else {
      return left;
    }
  }
}

ExpressionPtr Parser::power() {
  const int line = current().line;
  ExpressionPtr left = unary();
  while (skip_sign("**")) left = binary(Operator::power, std::move(left), unary(), line);
  return left;
}

ExpressionPtr Parser::unary(bool with_filter) {
  const Deeper deeper;
  const int line = current().line;
  ExpressionPtr out;
  if (skip_sign("-")) {
    out = pair(Kind::negative, unary(false), nullptr, line);
  } else if (skip_sign("+")) {
    out = pair(Kind::positive, unary(false), nullptr, line);
  } else {
    out = primary();
  }
  out = postfix(std::move(out));
  return with_filter ? filters_and_tests(std::move(out)) : std::move(out);
}

ExpressionPtr Parser::string_constant() {
  ExpressionPtr out = node(Kind::constant, current().line);
  std::string text;
  while (current().type == TokenType::string) text += take().text;
  const BudgetScope uncharged(nullptr);  // it outlives the parser
  out->value = Value::of(std::move(text));
  return out;
}

void Parser::note_name(const std::string& name) {
  for (Signature* macro : macros_) {
    macro->uses_caller |= name == "caller";
    macro->uses_kwargs |= name == "kwargs";
    macro->uses_varargs |= name == "varargs";
  }
}

ExpressionPtr Parser::primary(bool with_namespace) {
  const Token& token = current();
  ExpressionPtr out = node(Kind::constant, token.line);
  if (token.type == TokenType::string) return string_constant();
  if (token.type == TokenType::integer || token.type == TokenType::real) {
    out->value = token.type == TokenType::real ? Value::of(token.real) : Value::of(token.integer);
    take();
    return out;
  }
  if (token.type == TokenType::name) {
    const std::string name = take().text;
    if (name == "true" || name == "True" || name == "false" || name == "False") {
      out->value = Value::of(name == "true" || name == "True");
    } else if (name != "none" && name != "None") {
      out->kind = Kind::name;
      out->name = name;
      if (with_namespace && skip_sign(".")) {
        out->kind = Kind::space;
        out->attribute_name = expect_name();
      }
      note_name(name);
    }
    return out;
  }
  if (skip_sign("(")) {
    out = tuple({.parentheses = true});
    expect_sign(")");
    return out;
  }
  if (token.is_sign("[")) return list();
  if (token.is_sign("{")) return dict();
  raise("unexpected {}", repr_of_text(describe(token)));
}

ExpressionPtr Parser::tuple(const TupleRules& rules) {
  const int line = current().line;
  std::vector<ExpressionPtr> items;
  bool is_tuple = false;
  const auto at_end = [&] {
    return current().type == TokenType::variable_end || current().type == TokenType::block_end ||
           current().is_sign(")") ||
           (rules.end_name != nullptr && current().is_name(rules.end_name));
  };
  while (true) {
    if (!items.empty()) expect_sign(",");
    if (at_end()) break;
    items.push_back(rules.simplified ? primary(rules.with_namespace)
                                     : expression(rules.conditional));
    if (!current().is_sign(",")) break;
    is_tuple = true;
  }
  if (!is_tuple && !items.empty()) return std::move(items[0]);
  if (!is_tuple && !rules.parentheses) {
    raise("Expected an expression, got {}", repr_of_text(describe(current())));
  }
  ExpressionPtr out = node(Kind::tuple, line);
  out->items = std::move(items);
  return done(std::move(out));
}

ExpressionPtr Parser::list() {
  ExpressionPtr out = node(Kind::list, take().line);
  while (!current().is_sign("]")) {
    if (!out->items.empty()) expect_sign(",");
    if (current().is_sign("]")) break;
    out->items.push_back(expression());
  }
  expect_sign("]");
  return done(std::move(out));
}

ExpressionPtr Parser::dict() {
  ExpressionPtr out = node(Kind::dict, take().line);
  while (!current().is_sign("}")) {
    if (!out->items.empty()) expect_sign(",");
    if (current().is_sign("}")) break;
    out->items.push_back(expression());
    expect_sign(":");
    out->items.push_back(expression());
  }
  expect_sign("}");
  return done(std::move(out));
}

ExpressionPtr Parser::postfix(ExpressionPtr node) {
  while (true) {
    if (current().is_sign(".") || current().is_sign("[")) {
      node = subscript(std::move(node));
    } else if (current().is_sign("(")) {
      node = call(std::move(node));
    } else {
      return node;
    }
  }
}

ExpressionPtr Parser::filters_and_tests(ExpressionPtr node) {
  while (true) {
    if (current().is_sign("|")) {
      node = filter(std::move(node));
    } else if (current().is_name("is")) {
      node = test(std::move(node));
    } else if (current().is_sign("(")) {
      node = call(std::move(node));
    } else {
      return node;
    }
  }
}

ExpressionPtr Parser::subscript(ExpressionPtr from) {
  const int line = current().line;
  if (skip_sign(".")) {
    const Token& token = take();
    if (token.type == TokenType::name) {
      ExpressionPtr out = pair(Kind::attribute, std::move(from), nullptr, line);
      out->name = token.text;
      return out;
    }
    if (token.type != TokenType::integer) raise("expected name or number");
    ExpressionPtr index = node(Kind::constant, line);
    index->value = Value::of(token.integer);
    return pair(Kind::subscript, std::move(from), std::move(index), line);
  }
  expect_sign("[");
  std::vector<ExpressionPtr> items;
  while (!current().is_sign("]")) {
    if (!items.empty()) expect_sign(",");
    items.push_back(subscribed());
  }
  expect_sign("]");
  // What is sliced inside the brackets is an index like any other.
  if (items.size() == 1 && items[0]->kind == Kind::slice && items[0]->first == nullptr) {
    items[0]->first = std::move(from);
    return done(std::move(items[0]));
  }
  if (items.size() == 1) return pair(Kind::subscript, std::move(from), std::move(items[0]), line);
  ExpressionPtr key = node(Kind::tuple, line);
  key->items = std::move(items);
  return pair(Kind::subscript, std::move(from), done(std::move(key)), line);
}

ExpressionPtr Parser::subscribed() {
  ExpressionPtr out = node(Kind::slice, current().line);
  if (skip_sign(":")) {
    out->items.push_back(nullptr);
  } else {
    ExpressionPtr index = expression();
    if (!skip_sign(":")) return index;
    out->items.push_back(std::move(index));
  }
  const auto ends = [&] { return current().is_sign("]") || current().is_sign(","); };
  out->items.push_back(current().is_sign(":") || ends() ? nullptr : expression());
  out->items.push_back(skip_sign(":") && !ends() ? expression() : nullptr);
  return done(std::move(out));
}

ExpressionPtr Parser::call(ExpressionPtr function) {
  ExpressionPtr out = node(Kind::call, current().line);
  out->arguments = call_arguments();
  out->first = std::move(function);
  return done(std::move(out));
}

CallArguments Parser::call_arguments() {
  expect_sign("(");
  CallArguments out;
  const auto ensure = [](bool valid) {
    if (!valid) raise("invalid syntax for function call expression");
  };
  bool comma = false;
  while (!current().is_sign(")")) {
    if (comma) {
      expect_sign(",");
      if (current().is_sign(")")) break;
    }
    comma = true;
    if (skip_sign("*")) {
      ensure(!out.star && !out.double_star);
      out.star = expression();
    } else if (skip_sign("**")) {
      ensure(!out.double_star);
      out.double_star = expression();
    } else if (current().type == TokenType::name && ahead().is_sign("=")) {
      ensure(!out.double_star);
      const std::string name = take().text;
      take();
      out.named.emplace_back(name, expression());
    } else {
      ensure(!out.star && !out.double_star && out.named.empty());
      out.positional.push_back(expression());
    }
  }
  expect_sign(")");
  return out;
}

std::string Parser::dotted_name() {
  std::string name = expect_name();
  while (skip_sign(".")) name += "." + expect_name();
  return name;
}

void Parser::check_known(const char* what, const std::string& name, bool known) {
  if (!known && !soft_) assert_later(fmt::format("No {} named {}.", what, repr_of_text(name)));
}

ExpressionPtr Parser::filter(ExpressionPtr from, bool inline_start) {
  while (inline_start || current().is_sign("|")) {
    if (!inline_start) take();
    inline_start = false;
    ExpressionPtr out = node(Kind::filter, current().line);
    out->name = dotted_name();
    check_known("filter", out->name, find_filter(out->name) != nullptr);
    if (current().is_sign("(")) out->arguments = call_arguments();
    out->first = std::move(from);
    from = done(std::move(out));
  }
  return from;
}

ExpressionPtr Parser::test(ExpressionPtr from) {
  ExpressionPtr out = node(Kind::test, take().line);
  const bool negated = skip_name("not");
  out->name = dotted_name();
  check_known("test", out->name, find_test(out->name) != nullptr);
  const Token& token = current();
  const bool operand = token.type == TokenType::name || token.type == TokenType::string ||
                       token.type == TokenType::integer || token.type == TokenType::real ||
                       token.is_sign("[") || token.is_sign("{");
  if (token.is_sign("(")) {
    out->arguments = call_arguments();
  } else if (operand && !token.is_name("else") && !token.is_name("or") && !token.is_name("and")) {
    if (token.is_name("is")) raise("You cannot chain multiple tests with is");
    out->arguments.positional.push_back(postfix(primary()));
  }
  out->first = std::move(from);
  const int line = out->line;
  out = done(std::move(out));
  return negated ? pair(Kind::logical_not, std::move(out), nullptr, line) : std::move(out);
}

ExpressionPtr Parser::target(const TupleRules& rules) {
  ExpressionPtr out = tuple(
      {.simplified = true, .with_namespace = rules.with_namespace, .end_name = rules.end_name});
  check_target(*out);
  return out;
}

}  // namespace nibble::frontends::chat
