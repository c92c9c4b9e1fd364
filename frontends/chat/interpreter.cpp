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

Interpreter::Interpreter(const Dict& variables, const std::tm& now, size_t output_bytes)
    : variables_(variables),
      now_(now),
      output_limit_(output_bytes),
      scope_(std::make_shared<Scope>(nullptr)),
      globals_(make_globals()) {}

// Namespaces may hold each other, and macros the scope that holds them.
Interpreter::~Interpreter() {
  for (const auto& space : namespaces_) space->attributes.clear();
  for (const auto& scope : kept_scopes_) scope->variables.clear();
}

std::string Interpreter::render(const Body& body) {
  std::string out;
  out_ = &out;
  run(body);
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
      for (const auto& expression : statement.expressions) emit(to_text(evaluate(*expression)));
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
      Value text = Value::of(captured(statement.bodies[0], std::make_shared<Scope>(scope_)));
      const auto& filter = statement.expressions[0];
      assign(*statement.target, filter ? filter_text(*filter, text) : text);
      break;
    }
    case Kind::macro:
      run_macro(statement);
      break;
    case Kind::call:
      run_call(statement);
      break;
    case Kind::filter_block: {
      const Value text = Value::of(captured(statement.bodies[0], std::make_shared<Scope>(scope_)));
      emit(to_text(filter_text(*statement.expressions[0], text)));
      break;
    }
    case Kind::with:
      run_with(statement);
      break;
    case Kind::scope:
      return run_scoped(statement.bodies[0]);
    case Kind::refused:
      throw TemplateError(statement.text);
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

std::string Interpreter::run_loop_again(const Statement& loop, const Value& iterable,
                                        const ScopePtr& around, int depth) {
  const Deeper deeper;
  return captured([&] { run_loop(loop, iterable, around, depth); });
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
  emit(to_text(evaluate_call(*statement.expressions[0], &caller)));
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
  return Value::of(captured(*signature.body, scope));
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
