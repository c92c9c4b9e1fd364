// Expressions of the interpreter.
#include "frontends/chat/attributes.h"
#include "frontends/chat/blocks.h"
#include "frontends/chat/filters.h"
#include "frontends/chat/interpreter.h"
#include "frontends/chat/macro.h"
#include "frontends/chat/operators.h"

namespace nibble::frontends::chat {

Value Interpreter::look_up(const std::string& name) {
  if (const Value* found = scope_->find(name)) return *found;
  if (name == "self") return Value::object(std::make_shared<TemplateReference>(*this, context_));
  if (const Value* found = variables_.find(name)) return *found;
  if (const Value* found = globals_.find(name)) return *found;
  return Value::undefined(fmt::format("{} is undefined", repr_of_text(name)));
}

Value Interpreter::evaluate(const Expression& node) {
  using Kind = Expression::Kind;
  const Deeper deeper;
  spend();
  switch (node.kind) {
    case Kind::constant:
      return node.value;
    case Kind::name:
      return look_up(node.name);
    case Kind::list:
    case Kind::tuple:
    case Kind::dict:
      return evaluate_container(node);
    case Kind::attribute:
      return get_attribute(evaluate(*node.first), node.name);
    case Kind::space:
      return get_attribute(look_up(node.name), node.attribute_name);
    case Kind::subscript: {
      const Value value = evaluate(*node.first);
      return get_item(value, evaluate(*node.second));
    }
    case Kind::slice:
      return evaluate_slice(node);
    case Kind::call:
      return evaluate_call(node, nullptr);
    case Kind::filter:
      return apply_filter(node, evaluate(*node.first));
    case Kind::test:
      return evaluate_test(node);
    case Kind::logical_not:
      return Value::of(!truth(evaluate(*node.first)));
    case Kind::negative:
      return negate(evaluate(*node.first));
    case Kind::positive:
      return plus(evaluate(*node.first));
    case Kind::binary: {
      const Value left = evaluate(*node.first);
      return apply(node.op, left, evaluate(*node.second));
    }
    case Kind::concat:
      return evaluate_concat(node);
    case Kind::compare:
      return evaluate_compare(node);
    case Kind::logical_and: {
      Value left = evaluate(*node.first);
      return truth(left) ? evaluate(*node.second) : left;
    }
    case Kind::logical_or: {
      Value left = evaluate(*node.first);
      return truth(left) ? left : evaluate(*node.second);
    }
    case Kind::conditional:
      if (truth(evaluate(*node.items[1]))) return evaluate(*node.items[0]);
      if (node.items[2]) return evaluate(*node.items[2]);
      return Value::undefined(fmt::format(
          "the inline if-expression on line {} evaluated to false and no else section was defined.",
          node.line));
  }
  return {};
}

Value Interpreter::evaluate_container(const Expression& node) {
  Items items;
  items.reserve(node.items.size());
  for (const auto& item : node.items) items.push_back(evaluate(*item));
  if (node.kind == Expression::Kind::dict) {
    Dict out;
    for (size_t i = 0; i + 1 < items.size(); i += 2) out.set(items[i], std::move(items[i + 1]));
    return Value::dict(std::move(out));
  }
  return node.kind == Expression::Kind::tuple ? Value::tuple(std::move(items))
                                              : Value::list(std::move(items));
}

Value Interpreter::evaluate_slice(const Expression& node) {
  if (node.first == nullptr) return {};  // among several indices, which find nothing
  const Value value = evaluate(*node.first);
  Value parts[3];
  for (size_t i = 0; i < 3; ++i) {
    if (node.items[i]) parts[i] = evaluate(*node.items[i]);
  }
  require_defined(value);
  if (auto slice = slice_of(value, parts[0], parts[1], parts[2])) return *slice;
  // Jinja leaves slices to Python.
  if (!value.is_dict()) raise("'{}' object is not subscriptable", type_name(value));
  raise("slice({}, {}, {})", to_repr(parts[0]), to_repr(parts[1]), to_repr(parts[2]));
}

Value Interpreter::evaluate_compare(const Expression& node) {
  Value left = evaluate(*node.items[0]);
  for (size_t i = 0; i < node.comparisons.size(); ++i) {
    Value right = evaluate(*node.items[i + 1]);
    if (!compare(node.comparisons[i], left, right)) return Value::of(false);
    left = std::move(right);
  }
  return Value::of(true);
}

// Plain text even of markup, unless the source says that it is escaped: then markup escapes the
// rest.
Value Interpreter::evaluate_concat(const Expression& node) {
  std::string out;
  if (node.escape == Escape::on) {
    Items items;
    for (const auto& item : node.items) items.push_back(evaluate(*item));
    return join_escaped(items, Value::of(""));
  }
  for (const auto& item : node.items) {
    out += to_text(evaluate(*item));
    foresee(out.size());
  }
  spend_bytes(out.size());
  return Value::of(std::move(out));
}

Arguments Interpreter::evaluate_arguments(const CallArguments& arguments, const Value* caller) {
  Arguments out;
  for (const auto& item : arguments.positional) out.positional.push_back(evaluate(*item));
  for (const auto& [name, item] : arguments.named) out.named.emplace_back(name, evaluate(*item));
  if (caller != nullptr) out.named.emplace_back("caller", *caller);
  if (arguments.star) {
    const Items more = to_items(evaluate(*arguments.star));
    out.positional.insert(out.positional.end(), more.begin(), more.end());
  }
  if (arguments.double_star) {
    const Value more = evaluate(*arguments.double_star);
    require_defined(more);
    if (!more.is_dict()) raise("argument after ** must be a mapping, not {}", type_name(more));
    for (const auto& [name, value] : more.dict().entries()) {
      if (!name.is_text()) raise("keywords must be strings");
      out.named.emplace_back(name.text(), value);
    }
  }
  return out;
}

Value Interpreter::evaluate_call(const Expression& node, const Value* caller) {
  const Value function = evaluate(*node.first);
  Arguments arguments = evaluate_arguments(node.arguments, caller);
  return call(function, arguments);
}

Value Interpreter::call(const Value& function, Arguments& arguments) {
  require_defined(function);
  if (!function.is_object()) raise("'{}' object is not callable", type_name(function));
  spend(4);
  return function.object().call(*this, arguments);
}

Value Interpreter::apply_filter(const Expression& node, const Value& value) {
  Arguments arguments = evaluate_arguments(node.arguments);
  const Filter* filter = find_filter(node.name);
  if (filter == nullptr) raise("No filter named {} found.", repr_of_text(node.name));
  return (*filter)(*this, value, arguments);
}

// A chain of filters that begins with the text of a block.
Value Interpreter::filter_text(const Expression& node, const Value& text) {
  return apply_filter(node, node.first ? filter_text(*node.first, text) : text);
}

Value Interpreter::evaluate_test(const Expression& node) {
  const Value value = evaluate(*node.first);
  Arguments arguments = evaluate_arguments(node.arguments);
  const Test* test = find_test(node.name);
  if (test == nullptr) raise("No test named {} found.", repr_of_text(node.name));
  return Value::of((*test)(value, arguments));
}

Value Interpreter::call_filter(const Value& name, const Value& value, Arguments& arguments) {
  require_hashable(name, "a dict key");
  const Filter* filter = name.is_text() ? find_filter(name.text()) : nullptr;
  if (filter == nullptr) raise("No filter named {}.", to_repr(name));
  return (*filter)(*this, value, arguments);
}

bool Interpreter::call_test(const Value& name, const Value& value, Arguments& arguments) {
  require_hashable(name, "a dict key");
  const Test* test = name.is_text() ? find_test(name.text()) : nullptr;
  if (test == nullptr) raise("No test named {}.", to_repr(name));
  return (*test)(value, arguments);
}

}  // namespace nibble::frontends::chat
