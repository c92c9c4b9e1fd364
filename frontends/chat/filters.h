// The filters and tests of Jinja, by name, and how their arguments are found.
#pragma once

#include <initializer_list>
#include <string_view>

#include "frontends/chat/value.h"

namespace nibble::frontends::chat {

using Filter = Value (*)(Interpreter&, const Value& value, Arguments& arguments);
using Test = bool (*)(Interpreter&, const Value& value, Arguments& arguments);

// nullptr when there is none of this name.
Filter find_filter(std::string_view name);
Test find_test(std::string_view name);

// The rooms that find_filter looks into: text, numbers and the rest; and sequences.
Filter find_text_filter(std::string_view name);
Filter find_sequence_filter(std::string_view name);

// The arguments of a call under the names of the function's parameters.
class Parameters {
 public:
  // Raises a TypeError in Python's words on what does not fit.
  Parameters(std::string_view function, Arguments& arguments,
             std::initializer_list<const char*> names);
  bool given(size_t i) const { return values_[i].has_value(); }
  const Value& need(size_t i) const;  // raises when missing
  Value value_or(size_t i, Value otherwise) const;
  int64_t integer_or(size_t i, int64_t otherwise) const;
  bool truth_or(size_t i, bool otherwise) const;
  std::string text_or(size_t i, const char* otherwise) const;  // str() of it

 private:
  std::string function_;
  std::vector<const char*> names_;
  std::vector<std::optional<Value>> values_;
};

// json.dumps as transformers calls it. `indent`: None, an int or a text.
struct JsonStyle {
  bool ensure_ascii = false;
  Value indent, separators;
  bool sort_keys = false;
};
std::string to_json(const Value& value, const JsonStyle& style);

// "{} {name!r:>10}".format(...).
std::string format_braces(Interpreter& interpreter, const std::string& format,
                          Arguments& arguments);
// format(value, spec) of the built-in types.
std::string format_value(const Value& value, std::string_view spec);

}  // namespace nibble::frontends::chat
