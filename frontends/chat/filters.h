// The filters and tests of Jinja, by name, and how their arguments are found.
#pragma once

#include <string_view>

#include "frontends/chat/parameters.h"
#include "frontends/chat/value.h"

namespace nibble::frontends::chat {

// `signature`: of one that takes no arguments (Parameters checks that there are none), otherwise
// null, and the function looks at its arguments itself.
struct Filter {
  using Function = Value (*)(Interpreter&, const Value& value, Arguments& arguments);
  Function function;
  const char* signature = nullptr;

  Value operator()(Interpreter& interpreter, const Value& value, Arguments& arguments) const {
    if (signature != nullptr) Parameters(signature, arguments);
    return function(interpreter, value, arguments);
  }
};

// A test has at most one argument, None where it has none.
struct Test {
  using Function = bool (*)(const Value& value, const Value& other);
  Function function;
  const char* signature;

  bool operator()(const Value& value, Arguments& arguments) const {
    return function(value, Parameters(signature, arguments).value_or_none(0));
  }
};

// nullptr when there is none of this name.
const Filter* find_filter(std::string_view name);
const Test* find_test(std::string_view name);

// The rooms that find_filter looks into: text, numbers and the rest; and sequences.
const Filter* find_text_filter(std::string_view name);
const Filter* find_sequence_filter(std::string_view name);

// Filters that are a file each.
Value urlize(Interpreter& interpreter, const Value& value, Arguments& arguments);
Value wrap_words(Interpreter& interpreter, const Value& value, Arguments& arguments);

// Filters on text that Markup also has as methods, and what escapes stand for.
std::string strip_tags(std::string_view text);
std::string unescape_html(std::string_view text);

// json.dumps as transformers calls it. `indent`: None, an int or a text.
struct JsonStyle {
  bool ensure_ascii = false;
  Value indent, separators;
  bool sort_keys = false;
};
std::string to_json(const Value& value, const JsonStyle& style);

}  // namespace nibble::frontends::chat
