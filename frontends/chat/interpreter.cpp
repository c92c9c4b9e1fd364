#include "frontends/chat/interpreter.h"

#include <algorithm>

#include "frontends/chat/filters.h"
#include "frontends/chat/loop.h"
#include "frontends/chat/macro.h"
#include "frontends/chat/operators.h"

namespace nibble::frontends::chat {

void Scope::set(const std::string& name, Value value) {
  for (auto& [known, old] : variables) {
    if (known == name) {
      old = std::move(value);
      return;
    }
  }
  variables.emplace_back(name, std::move(value));
}

const Value* Scope::find(const std::string& name) const {
  for (const Scope* scope = this; scope != nullptr; scope = scope->parent.get()) {
    for (const auto& [known, value] : scope->variables) {
      if (known == name) return &value;
    }
  }
  return nullptr;
}

// Makes `scope` the current one for as long as this lives.
class Interpreter::InScope {
 public:
  InScope(Interpreter& interpreter, ScopePtr scope) : interpreter_(interpreter) {
    before_ = std::exchange(interpreter.scope_, std::move(scope));
  }
  ~InScope() { interpreter_.scope_ = std::move(before_); }
  InScope(const InScope&) = delete;
  InScope& operator=(const InScope&) = delete;

 private:
  Interpreter& interpreter_;
  ScopePtr before_;
};

Interpreter::Interpreter(const Template& parsed, const Dict& variables, const std::tm& now,
                         size_t output_bytes)
    : parsed_(parsed),
      variables_(variables),
      now_(now),
      output_limit_(output_bytes),
      scope_(std::make_shared<Scope>(nullptr)),
      context_(scope_),
      globals_(make_globals()) {}

// Namespaces may hold each other, and macros the scope that holds them.
Interpreter::~Interpreter() {
  for (const auto& space : namespaces_) space->attributes.clear();
  for (const auto& scope : kept_scopes_) scope->variables.clear();
}

std::string Interpreter::render() {
  std::string out;
  out_ = &out;
  run(parsed_.body);
  out_ = nullptr;
  return out;
}

void Interpreter::emit(std::string_view text) {
  output_bytes_ += text.size();
  if (output_bytes_ > output_limit_) {
    fail("The chat template writes more than the {} bytes that it may.", output_limit_);
  }
  spend_bytes(text.size());
  *out_ += text;
}

template <typename Write>
std::string Interpreter::captured(const Write& write) {
  std::string text;
  std::string* before = std::exchange(out_, &text);
  try {
    write();
  } catch (...) {
    out_ = before;
    throw;
  }
  out_ = before;
  output_bytes_ -= text.size();
  return text;
}

std::string Interpreter::captured(const Body& body, const ScopePtr& scope) {
  const InScope inside(*this, scope);
  return captured([&] { run(body); });
}

Interpreter::Flow Interpreter::run(const Body& body) {
  for (const Statement& statement : body) {
    const Flow flow = run(statement);
    if (flow != Flow::normal) return flow;
  }
  return Flow::normal;
}

Interpreter::Flow Interpreter::run(const Statement& statement) {
  using Kind = Statement::Kind;
  const Deeper deeper;
  spend();
  switch (statement.kind) {
    case Kind::data:
      emit(statement.text);
      break;
    case Kind::output:
      for (const auto& expression : statement.expressions) {
        const Value value = evaluate(*expression);
        emit(escapes(statement.escape) ? escaped(value).text() : to_text(value));
      }
      break;
    case Kind::branch:
      return run_branch(statement);
    case Kind::loop:
      return run_loop(statement, evaluate(*statement.expressions[0]), scope_, 0);
    case Kind::set:
      expect_namespaces(*statement.target);
      assign(*statement.target, evaluate(*statement.expressions[0]));
      break;
    case Kind::set_block: {
      Value text = captured_text(statement);
      const auto& filter = statement.expressions[0];
      if (filter) text = filter_text(*filter, text);
      assign(*statement.target, autoescape_ ? Value::markup(to_text(text)) : text);
      break;
    }
    case Kind::macro:
      run_macro(statement);
      break;
    case Kind::call:
      run_call(statement);
      break;
    case Kind::filter_block:
      emit_text(filter_text(*statement.expressions[0], captured_text(statement)));
      break;
    case Kind::with:
      run_with(statement);
      break;
    case Kind::scope:
      return run_scoped(statement.bodies[0]);
    case Kind::autoescape:
      return run_autoescape(statement);
    case Kind::block:
      run_block(statement);
      break;
    case Kind::load:
      load(statement);
      break;
    case Kind::leave:
      return Flow::leave;
    case Kind::next:
      return Flow::next;
  }
  return Flow::normal;
}

Interpreter::Flow Interpreter::run_branch(const Statement& statement) {
  const size_t count = statement.expressions.size();
  for (size_t i = 0; i < count; ++i) {
    if (truth(evaluate(*statement.expressions[i]))) return run(statement.bodies[i]);
  }
  return statement.bodies.size() > count ? run(statement.bodies[count]) : Flow::normal;
}

Interpreter::Flow Interpreter::run_scoped(const Body& body) {
  const InScope inside(*this, std::make_shared<Scope>(scope_));
  return run(body);
}

// Only the items for which the loop's condition holds.
Next Interpreter::filtered(const Statement& loop, Next next, const ScopePtr& around) {
  return [this, &loop, next = std::move(next), around](Value& item) {
    while (next(item)) {
      const InScope inside(*this, std::make_shared<Scope>(around));
      assign(*loop.target, item);
      if (truth(evaluate(*loop.expressions[1]))) return true;
    }
    return false;
  };
}

Interpreter::Flow Interpreter::run_loop(const Statement& statement, const Value& iterable,
                                        const ScopePtr& around, int depth) {
  Next next = iterate(iterable);
  std::optional<int64_t> size;
  if (statement.expressions[1]) {
    next = filtered(statement, std::move(next), around);
  } else if (!iterable.is_undefined()) {
    size = length_if_any(iterable);
  }
  const auto loop = std::make_shared<Loop>(std::move(next), size, statement, around, depth);
  const Value variable = Value::object(loop);
  bool any = false;
  Value item;
  while (loop->advance(item)) {
    any = true;
    const InScope inside(*this, std::make_shared<Scope>(around));
    scope_->set("loop", variable);
    assign(*statement.target, item);
    if (run(statement.bodies[0]) == Flow::leave) break;
  }
  if (any || statement.bodies.size() < 2) return Flow::normal;
  const InScope inside(*this, std::make_shared<Scope>(around));
  return run(statement.bodies[1]);
}

Value Interpreter::run_loop_again(const Statement& loop, const Value& iterable,
                                  const ScopePtr& around, int depth) {
  const Deeper deeper;
  std::string text = captured([&] { run_loop(loop, iterable, around, depth); });
  return text_of(std::move(text), escapes(loop.escape));
}

void Interpreter::run_with(const Statement& statement) {
  const auto scope = std::make_shared<Scope>(scope_);
  Items values;
  for (const auto& expression : statement.expressions) values.push_back(evaluate(*expression));
  const InScope inside(*this, scope);
  for (size_t i = 0; i < values.size(); ++i) assign(*statement.targets[i], values[i]);
  run(statement.bodies[0]);
}

void Interpreter::run_macro(const Statement& statement) {
  if (!scope_->kept) {
    scope_->kept = true;
    kept_scopes_.push_back(scope_);
  }
  scope_->set(statement.signature->name,
              Value::object(std::make_shared<Macro>(statement.signature, scope_)));
}

void Interpreter::run_call(const Statement& statement) {
  const Value caller = Value::object(std::make_shared<Macro>(statement.signature, scope_));
  emit_text(evaluate_call(*statement.expressions[0], &caller));
}

Value Interpreter::captured_text(const Statement& statement) {
  std::string text = captured(statement.bodies[0], std::make_shared<Scope>(scope_));
  return text_of(std::move(text), escapes(statement.escape));
}

void Interpreter::emit_text(const Value& value) {
  if (!value.is_text()) {
    raise("sequence item 0: expected str instance, {} found", type_name(value));
  }
  emit(value.text());
}

// Whoever leaves the loop around from within leaves the escaping as it is, as in Jinja.
Interpreter::Flow Interpreter::run_autoescape(const Statement& statement) {
  const bool before = std::exchange(autoescape_, truth(evaluate(*statement.expressions[0])));
  const Flow flow = run_scoped(statement.bodies[0]);
  if (flow == Flow::normal) autoescape_ = before;
  return flow;
}

const Signature* Interpreter::find_block(std::string_view name) const {
  for (const auto& block : parsed_.blocks) {
    if (block->name == name) return block.get();
  }
  return nullptr;
}

void Interpreter::run_block(const Statement& statement) {
  const Signature& block = *statement.signature;
  if (statement.required) raise("Required block {} not found", repr_of_text(block.name));
  run_block(block, statement.scoped ? scope_ : context_);
}

void Interpreter::run_block(const Signature& block, ScopePtr around) {
  const Deeper deeper;
  const InScope inside(*this, std::make_shared<Scope>(around));
  const ScopePtr before = std::exchange(context_, std::move(around));
  scope_->set("super", Value::undefined(fmt::format("there is no parent block called {}.",
                                                    repr_of_text(block.name))));
  run(*block.body);
  context_ = before;
}

Value Interpreter::render_block(const Signature& block, const ScopePtr& around) {
  return text_of(captured([&] { run_block(block, around); }), autoescape_);
}

// There are no other templates.
void Interpreter::load(const Statement& statement) {
  const Value name = evaluate(*statement.expressions[0]);
  if (statement.text == "include" && !name.is_text()) {
    require_defined(name);
    if (!truth(name)) {
      if (statement.ignore_missing) return;
      raise("Tried to select from an empty list of templates.");
    }
    iterate(name);
  }
  raise("no loader for this environment specified");
}

Value Interpreter::call_macro(const Signature& signature, const ScopePtr& around,
                              Arguments& arguments) {
  const Deeper deeper;
  const auto scope = std::make_shared<Scope>(around);
  const InScope inside(*this, scope);
  bind_macro_arguments(signature, arguments, *scope);
  const size_t required = signature.parameters.size() - signature.defaults.size();
  for (size_t i = 0; i < signature.parameters.size(); ++i) {
    const std::string& name = signature.parameters[i];
    const auto given = [&](const auto& variable) { return variable.first == name; };
    if (std::any_of(scope->variables.begin(), scope->variables.end(), given)) continue;
    scope->set(name, i >= required ? evaluate(*signature.defaults[i - required])
                                   : Value::undefined(fmt::format("parameter {} was not provided",
                                                                  repr_of_text(name))));
  }
  return text_of(captured(*signature.body, scope), autoescape_);
}

void Interpreter::assign(const Expression& target, Value value) {
  if (target.kind == Expression::Kind::name) {
    scope_->set(target.name, std::move(value));
  } else if (target.kind == Expression::Kind::tuple) {
    assign_tuple(target, value);
  } else {
    find_namespace(target).attributes.set(Value::of(target.attribute_name), std::move(value));
  }
}

Namespace& Interpreter::find_namespace(const Expression& target) {
  const Value space = look_up(target.name);
  auto* object = space.is_object() ? dynamic_cast<Namespace*>(&space.object()) : nullptr;
  if (object == nullptr) raise("cannot assign attribute on non-namespace object");
  return *object;
}

// Jinja looks before it evaluates what is assigned.
void Interpreter::expect_namespaces(const Expression& target) {
  if (target.kind == Expression::Kind::name) return;
  if (target.kind != Expression::Kind::tuple) {
    find_namespace(target);
    return;
  }
  for (const auto& item : target.items) expect_namespaces(*item);
}

void Interpreter::assign_tuple(const Expression& target, const Value& value) {
  const size_t wanted = target.items.size();
  const Next next = iterate_if_any(value);
  if (!next) raise("cannot unpack non-iterable {} object", type_name(value));
  Items items;
  Value item;
  while (items.size() <= wanted && next(item)) items.push_back(item);
  if (items.size() < wanted) {
    raise("not enough values to unpack (expected {}, got {})", wanted, items.size());
  }
  if (items.size() > wanted) {
    const bool counted = value.is_sequence() || value.is_dict();
    raise("too many values to unpack (expected {}{})", wanted,
          counted ? fmt::format(", got {}", length(value)) : "");
  }
  for (size_t i = 0; i < wanted; ++i) assign(*target.items[i], items[i]);
}

Value Interpreter::make_namespace(Arguments& arguments) {
  auto space = std::make_shared<Namespace>();
  if (arguments.positional.size() > 1) {
    raise("dict expected at most 1 argument, got {}", arguments.positional.size());
  }
  if (!arguments.positional.empty()) space->attributes = dict_from(arguments.positional[0]);
  for (auto& [name, value] : arguments.named) {
    space->attributes.set(Value::of(name), std::move(value));
  }
  namespaces_.push_back(space);
  return Value::object(space);
}

}  // namespace nibble::frontends::chat
