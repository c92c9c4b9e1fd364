#include "frontends/chat/parser.h"

#include <algorithm>

#include "frontends/chat/budget.h"
#include "frontends/chat/unicode_text.h"

namespace nibble::frontends::chat {
namespace {

constexpr int kMostNesting = 150;  // of statements and brackets in the source

// The names of tags as Jinja lists them: 'a' or 'b'.
std::string list_of(const std::vector<std::string>& names) {
  std::string out;
  for (const std::string& name : names) out += (out.empty() ? "" : " or ") + repr_of_text(name);
  return out;
}

// Sets a variable for as long as this lives.
template <typename T>
class Setting {
 public:
  Setting(T& variable, T value) : variable_(variable), before_(variable) { variable_ = value; }
  ~Setting() { variable_ = before_; }
  Setting(const Setting&) = delete;
  Setting& operator=(const Setting&) = delete;

 private:
  T& variable_;
  T before_;
};

}  // namespace

Template parse(std::string_view source) {
  Limits limits;
  limits.depth = kMostNesting;
  Budget budget(limits);
  const BudgetScope scope(&budget);
  return Parser(tokenize(source)).run();
}

const Token& Parser::take() {
  const Token& token = tokens_[at_];
  if (at_ + 1 < tokens_.size()) ++at_;
  return token;
}

bool Parser::skip_name(std::string_view name) {
  if (!current().is_name(name)) return false;
  take();
  return true;
}

bool Parser::skip_sign(std::string_view sign) {
  if (!current().is_sign(sign)) return false;
  take();
  return true;
}

void Parser::unexpected(const std::string& wanted) const {
  if (current().type == TokenType::end) {
    raise("unexpected end of template, expected {}.", repr_of_text(wanted));
  }
  raise("expected token {}, got {}", repr_of_text(wanted), repr_of_text(describe(current())));
}

void Parser::expect_sign(std::string_view sign) {
  if (!skip_sign(sign)) unexpected(std::string(sign));
}

std::string Parser::expect_name() {
  if (current().type != TokenType::name) unexpected("name");
  return take().text;
}

void Parser::expect(TokenType type) {
  if (current().type != type) unexpected(describe_type(type));
  take();
}

// What Jinja only finds once all is parsed; the first is told.
void Parser::assert_later(const std::string& message) {
  if (assertion_.empty()) assertion_ = message;
}

Template Parser::run() {
  Template out;
  body(out.body, nullptr);
  for (size_t i = 0; i < blocks_.size(); ++i) {
    const auto same = [&](const auto& block) { return block->name == blocks_[i]->name; };
    if (std::any_of(blocks_.begin(), blocks_.begin() + static_cast<int64_t>(i), same)) {
      raise("block {} defined twice", repr_of_text(blocks_[i]->name));
    }
  }
  if (!assertion_.empty()) throw TemplateError(assertion_);
  out.blocks = std::move(blocks_);
  return out;
}

Body Parser::body_until(std::vector<std::string> ends, bool top) {
  const Deeper deeper;
  const Setting<bool> inner(top_, top_ && top);
  skip_sign(":");
  expect(TokenType::block_end);
  Body out;
  ends_.push_back(std::move(ends));
  body(out, &ends_.back());
  if (current().type == TokenType::end) fail_at_tag(nullptr);
  ends_.pop_back();
  return out;
}

Body Parser::closed_body(const std::string& end, bool top) {
  Body out = body_until({end}, top);
  take();
  return out;
}

void Parser::body(Body& out, const std::vector<std::string>* ends) {
  const std::vector<std::string> wanted = ends != nullptr ? *ends : std::vector<std::string>{};
  while (current().type != TokenType::end) {
    if (current().type == TokenType::data) {
      Statement data = start(Statement::Kind::data);
      data.text = take().text;
      out.push_back(std::move(data));
    } else if (current().type == TokenType::variable_begin) {
      take();
      Statement output = start(Statement::Kind::output);
      output.expressions.push_back(tuple({}));
      expect(TokenType::variable_end);
      out.push_back(std::move(output));
    } else {
      take();  // the begin of a block
      if (current().type == TokenType::name &&
          std::find(wanted.begin(), wanted.end(), current().text) != wanted.end()) {
        return;
      }
      out.push_back(statement());
      expect(TokenType::block_end);
    }
  }
}

void Parser::fail_at_tag(const std::string* name) const {
  std::string message = name == nullptr
                            ? "Unexpected end of template."
                            : fmt::format("Encountered unknown tag {}.", repr_of_text(*name));
  if (!ends_.empty()) {
    const bool expected =
        name != nullptr && std::any_of(ends_.begin(), ends_.end(), [&](const auto& ends) {
          return std::find(ends.begin(), ends.end(), *name) != ends.end();
        });
    message += expected ? " You probably made a nesting mistake. Jinja is expecting this tag, but "
                          "currently looking for "
                        : " Jinja was looking for the following tags: ";
    message += list_of(ends_.back()) + ".";
  }
  if (!tags_.empty()) {
    message += fmt::format(" The innermost block that needs to be closed is {}.",
                           repr_of_text(tags_.back()));
  }
  throw TemplateError(message);
}

Statement Parser::start(Statement::Kind kind) const {
  Statement out;
  out.kind = kind;
  out.line = current().line;
  out.escape = escape_;
  return out;
}

Statement Parser::statement() {
  if (current().type != TokenType::name) raise("tag name expected");
  const std::string tag = current().text;
  tags_.push_back(tag);
  Statement out = parse_known(tag);
  tags_.pop_back();
  return out;
}

Statement Parser::parse_known(const std::string& tag) {
  if (tag == "for") return parse_for();
  if (tag == "if") return parse_if();
  if (tag == "set") return parse_set();
  if (tag == "macro") return parse_macro();
  if (tag == "call") return parse_call_block();
  if (tag == "filter") return parse_filter_block();
  if (tag == "with") return parse_with();
  if (tag == "block") return parse_block();
  if (tag == "autoescape") return parse_autoescape();
  if (tag == "print") return parse_print();
  if (tag == "generation") return parse_generation();
  if (tag == "include" || tag == "import" || tag == "from" || tag == "extends") {
    return parse_load(tag);
  }
  if (tag == "break" || tag == "continue") {
    Statement out = start(tag == "break" ? Statement::Kind::leave : Statement::Kind::next);
    if (loops_ == 0) {
      assert_later(tag == "break" ? "'break' outside loop" : "'continue' not properly in loop");
    }
    take();
    return out;
  }
  tags_.pop_back();
  fail_at_tag(&tag);
}

Statement Parser::parse_for() {
  Statement out = start(Statement::Kind::loop);
  take();
  out.target = target({.end_name = "in"});
  if (out.target->kind == Kind::name && out.target->name == "loop") {
    assert_later("Can't assign to special loop variable in for-loop target");
  }
  if (!skip_name("in")) unexpected("in");
  const Setting<bool> hard(soft_, false);
  out.expressions.push_back(tuple({.conditional = false, .end_name = "recursive"}));
  out.expressions.push_back(skip_name("if") ? expression() : nullptr);
  out.recursive = skip_name("recursive");
  {
    const Setting<int> inside(loops_, loops_ + 1);
    out.bodies.push_back(body_until({"endfor", "else"}));
  }
  if (take().text == "else") out.bodies.push_back(closed_body("endfor"));
  return out;
}

Statement Parser::parse_if() {
  Statement out = start(Statement::Kind::branch);
  const Setting<bool> soft(soft_, true);
  do {
    take();  // if, elif
    out.expressions.push_back(tuple({.conditional = false}));
    out.bodies.push_back(body_until({"elif", "else", "endif"}, true));
  } while (current().is_name("elif"));
  if (take().text == "else") out.bodies.push_back(closed_body("endif", true));
  return out;
}

Statement Parser::parse_set() {
  Statement out = start(Statement::Kind::set);
  take();
  out.target = target({.with_namespace = true});
  if (skip_sign("=")) {
    out.expressions.push_back(tuple({}));
    return out;
  }
  out.kind = Statement::Kind::set_block;
  out.expressions.push_back(filter(nullptr));
  out.bodies.push_back(closed_body("endset"));
  return out;
}

void Parser::signature(Signature& out) {
  expect_sign("(");
  while (!current().is_sign(")")) {
    if (!out.parameters.empty()) expect_sign(",");
    out.parameters.push_back(expect_name());
    if (skip_sign("=")) {
      out.defaults.push_back(expression());
    } else if (!out.defaults.empty()) {
      raise("non-default argument follows default argument");
    }
  }
  expect_sign(")");
  const size_t required = out.parameters.size() - out.defaults.size();
  const auto past = out.parameters.begin() + static_cast<int64_t>(required);
  if (std::find(out.parameters.begin(), past, "caller") != past) {
    assert_later(
        "When defining macros or call blocks the special \"caller\" argument must be omitted or be "
        "given a default.");
  }
}

std::shared_ptr<const Signature> Parser::macro_body(Signature given, const std::string& end) {
  const Setting<bool> hard(soft_, false);
  const Setting<int> outside(loops_, 0);
  auto out = std::make_shared<Signature>(std::move(given));
  macros_.push_back(out.get());
  out->body = std::make_shared<const Body>(closed_body(end));
  macros_.pop_back();
  return out;
}

Statement Parser::parse_macro() {
  Statement out = start(Statement::Kind::macro);
  take();
  Signature given;
  given.name = expect_name();
  signature(given);
  out.signature = macro_body(std::move(given), "endmacro");
  return out;
}

Statement Parser::parse_call_block() {
  Statement out = start(Statement::Kind::call);
  take();
  Signature caller;
  caller.name = "";  // None, to Jinja
  if (current().is_sign("(")) signature(caller);
  out.expressions.push_back(expression());
  if (out.expressions[0]->kind != Kind::call) raise("expected call");
  out.signature = macro_body(std::move(caller), "endcall");
  return out;
}

// Marks what the assistant said, for training; renders as its body, in a scope of its own.
Statement Parser::parse_generation() {
  Statement out = start(Statement::Kind::scope);
  take();
  const Setting<int> outside(loops_, 0);
  out.bodies.push_back(closed_body("endgeneration"));
  return out;
}

Statement Parser::parse_filter_block() {
  Statement out = start(Statement::Kind::filter_block);
  take();
  out.expressions.push_back(filter(nullptr, true));
  out.bodies.push_back(closed_body("endfilter"));
  return out;
}

Statement Parser::parse_with() {
  Statement out = start(Statement::Kind::with);
  take();
  while (current().type != TokenType::block_end) {
    if (!out.targets.empty()) expect_sign(",");
    out.targets.push_back(target({}));
    expect_sign("=");
    out.expressions.push_back(expression());
  }
  out.bodies.push_back(closed_body("endwith"));
  return out;
}

Statement Parser::parse_block() {
  Statement out = start(Statement::Kind::block);
  take();
  auto block = std::make_shared<Signature>();
  block->name = expect_name();
  out.scoped = skip_name("scoped");
  out.required = skip_name("required");
  if (current().is_sign("-")) {
    raise(
        "Block names in Jinja have to be valid Python identifiers and may not contain hyphens, use "
        "an underscore instead.");
  }
  const Setting<int> outside(loops_, 0);
  const Setting<bool> hard(soft_, false);
  const Setting<Escape> plain(escape_, Escape::off);
  block->body = std::make_shared<const Body>(closed_body("endblock"));
  for (const Statement& statement : *block->body) {
    const bool blank =
        statement.kind == Statement::Kind::data && strip(statement.text, true, false).empty();
    if (out.required && !blank) {
      raise("Required blocks can only contain comments or whitespace");
    }
  }
  skip_name(block->name);
  blocks_.push_back(block);
  out.signature = std::move(block);
  return out;
}

Statement Parser::parse_autoescape() {
  Statement out = start(Statement::Kind::autoescape);
  take();
  out.expressions.push_back(expression());
  const Expression& wanted = *out.expressions[0];
  const Escape inside = wanted.kind != Kind::constant ? Escape::open
                        : truth(wanted.value)         ? Escape::on
                                                      : Escape::off;
  const Setting<Escape> within(escape_, inside);
  out.bodies.push_back(closed_body("endautoescape"));
  return out;
}

Statement Parser::parse_print() {
  Statement out = start(Statement::Kind::output);
  take();
  while (current().type != TokenType::block_end) {
    if (!out.expressions.empty()) expect_sign(",");
    out.expressions.push_back(expression());
  }
  return out;
}

// "with context" or "without context"
bool Parser::skip_context() {
  const bool found =
      (current().is_name("with") || current().is_name("without")) && ahead().is_name("context");
  if (found) {
    take();
    take();
  }
  return found;
}

void Parser::parse_imported_names() {
  for (bool first = true;; first = false) {
    if (!first) expect_sign(",");
    if (current().type != TokenType::name) unexpected("name");
    if (skip_context()) return;
    if (expect_name().starts_with('_')) {
      raise("names starting with an underline can not be imported");
    }
    if (skip_name("as")) expect_name();
    if (skip_context() || !current().is_sign(",")) return;
  }
}

// Other templates are not to be had: an error once it is reached.
Statement Parser::parse_load(const std::string& tag) {
  Statement out = start(Statement::Kind::load);
  out.text = tag;
  take();
  out.expressions.push_back(expression());
  if (tag == "extends" && !top_) assert_later("cannot use extend from a non top-level scope");
  if (tag == "include") {
    out.ignore_missing = current().is_name("ignore") && ahead().is_name("missing");
    for (int i = 0; out.ignore_missing && i < 2; ++i) take();
    skip_context();
  } else if (tag == "import") {
    if (!skip_name("as")) unexpected("as");
    expect_name();
    skip_context();
  } else if (tag == "from") {
    if (!skip_name("import")) unexpected("import");
    parse_imported_names();
  }
  return out;
}

}  // namespace nibble::frontends::chat
