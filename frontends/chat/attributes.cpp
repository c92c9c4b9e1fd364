#include "frontends/chat/attributes.h"

#include <algorithm>
#include <array>
#include <charconv>

#include "frontends/chat/operators.h"
#include "frontends/chat/parameters.h"
#include "frontends/chat/unicode_text.h"

namespace nibble::frontends::chat {
namespace {

constexpr std::array<std::string_view, 8> kListChanges = {"append", "clear", "pop",    "reverse",
                                                          "insert", "sort",  "extend", "remove"};
constexpr std::array<std::string_view, 5> kDictChanges = {"clear", "pop", "popitem", "setdefault",
                                                          "update"};

bool changes(const Value& value, std::string_view name) {
  const auto among = [&](const auto& names) {
    return std::find(names.begin(), names.end(), name) != names.end();
  };
  return (value.is_list() && among(kListChanges)) || (value.is_dict() && among(kDictChanges));
}

Value unsafe(const Value& value, std::string_view name) {
  return Value::undefined(fmt::format("access to attribute {} of '{}' object is unsafe.",
                                      repr_of_text(name), type_name(value)));
}

Value bound(const Value& self, std::string_view name, const Method& method) {
  return make_function(
      std::string(name),
      [self, &method](Interpreter& interpreter, Arguments& arguments) {
        if (method.signature != nullptr) Parameters(method.signature, arguments);
        return method.function(interpreter, self, arguments);
      },
      self.is_markup() ? "method" : "builtin_function_or_method");
}

std::optional<Value> number_attribute(const Value& value, std::string_view name) {
  if (name == "real") return value.is_bool() ? Value::of(value.integer()) : value;
  if (name == "imag") return value.is_float() ? Value::of(0.0) : Value::of(int64_t{0});
  if (value.is_float()) return std::nullopt;
  if (name == "numerator") return Value::of(value.integer());
  if (name == "denominator") return Value::of(int64_t{1});
  return std::nullopt;
}

const Method* find_method(const Value& value, std::string_view name) {
  if (value.is_number()) return find_number_method(value, name);
  if (!value.is_text()) return find_container_method(value, name);
  const Method* method = value.is_markup() ? find_markup_method(name) : nullptr;
  return method != nullptr ? method : find_text_method(name);
}

// What Python's getattr() finds, as far as the sandbox gives it out.
std::optional<Value> python_attribute(const Value& value, std::string_view name) {
  if (name.size() > 4 && name.starts_with("__") && name.ends_with("__")) {
    return unsafe(value, name);
  }
  if (changes(value, name)) return unsafe(value, name);
  if (value.is_object()) return value.object().attribute(name);
  if (value.is_number()) {
    if (auto found = number_attribute(value, name)) return found;
  }
  if (value.is_group() && name == "grouper") return value.items()[0];
  if (value.is_group() && name == "list") return value.items()[1];
  const Method* method = find_method(value, name);
  if (method == nullptr) return std::nullopt;
  return bound(value, name, *method);
}

}  // namespace

Value get_attribute(const Value& value, const std::string& name) {
  require_defined(value);
  if (auto found = python_attribute(value, name)) return *found;
  if (value.is_dict()) {
    if (const Value* item = value.dict().find(name)) return *item;
  }
  return Value::undefined(
      fmt::format("{} has no attribute {}", repr_of_text(object_name(value)), repr_of_text(name)));
}

Value get_item(const Value& value, const Value& key) {
  require_defined(value);
  if (auto item = item_of(value, key)) return *item;
  if (!key.is_text()) {
    return Value::undefined(fmt::format("{} has no element {}", object_name(value), to_repr(key)));
  }
  if (auto found = python_attribute(value, key.text())) return *found;
  return Value::undefined(fmt::format("{} has no attribute {}", repr_of_text(object_name(value)),
                                      repr_of_text(key.text())));
}

Value get_path(const Value& value, const Value& path) {
  if (path.is_none()) return value;
  if (!path.is_text()) return get_item(value, path);
  Value at = value;
  for (const std::string_view part : split_at(path.text(), ".", -1, false)) {
    int64_t index = 0;
    const auto end = part.data() + part.size();
    const auto parsed = std::from_chars(part.data(), end, index);
    const bool digits =
        !part.empty() && part[0] != '-' && parsed.ptr == end && parsed.ec == std::errc();
    at = get_item(at, digits ? Value::of(index) : Value::of(std::string(part)));
  }
  return at;
}

}  // namespace nibble::frontends::chat
