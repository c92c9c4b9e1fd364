// What `x.name` and `x[key]` give in the sandbox: attributes, items and methods, without those that
// change a value or start with an underscore.
#pragma once

#include <string>

#include "frontends/chat/value.h"

namespace nibble::frontends::chat {

using Method = Value (*)(Interpreter&, const Value& self, Arguments& arguments);

Value get_attribute(const Value& value, const std::string& name);
Value get_item(const Value& value, const Value& key);
// "a.b.0" as filters take it: each part an item or an attribute.
Value get_path(const Value& value, const Value& path);

// nullptr when str, or list, tuple and dict, have no such method.
Method find_text_method(std::string_view name);
Method find_container_method(const Value& value, std::string_view name);

}  // namespace nibble::frontends::chat
