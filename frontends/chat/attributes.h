// What `x.name` and `x[key]` give in the sandbox: attributes, items and methods, without those that
// change a value or start with an underscore.
#pragma once

#include <string>

#include "frontends/chat/value.h"

namespace nibble::frontends::chat {

// `signature`: of one that takes no arguments (Parameters checks that there are none), otherwise
// null, and the function looks at its arguments itself.
struct Method {
  Value (*function)(Interpreter&, const Value& self, Arguments& arguments);
  const char* signature = nullptr;
};

Value get_attribute(const Value& value, const std::string& name);
Value get_item(const Value& value, const Value& key);
// "a.b.0" as filters take it: each part an item or an attribute.
Value get_path(const Value& value, const Value& path);

// nullptr when str, what Markup has beyond it, the numbers, or list, tuple and dict have no such
// method.
const Method* find_text_method(std::string_view name);
const Method* find_markup_method(std::string_view name);
const Method* find_number_method(const Value& value, std::string_view name);
const Method* find_container_method(const Value& value, std::string_view name);

// str.translate and str.maketrans.
Value translate(Interpreter& interpreter, const Value& self, Arguments& arguments);
Value make_translation(Interpreter& interpreter, const Value& self, Arguments& arguments);

}  // namespace nibble::frontends::chat
