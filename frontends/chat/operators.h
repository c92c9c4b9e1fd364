// Python's operators and protocols on values: arithmetic, comparison, membership, length,
// iteration, subscripts. Failures are raised in Python's words.
#pragma once

#include "frontends/chat/value.h"

namespace nibble::frontends::chat {

enum class Operator : uint8_t { add, subtract, multiply, divide, floor_divide, modulo, power };
enum class Comparison : uint8_t { eq, ne, lt, le, gt, ge, in, not_in };

Value apply(Operator op, const Value& left, const Value& right);
Value negate(const Value& value);
Value plus(const Value& value);
bool compare(Comparison op, const Value& left, const Value& right);
bool equal(const Value& left, const Value& right);
bool contains(const Value& container, const Value& item);

int64_t length(const Value& value);
std::optional<int64_t> length_if_any(const Value& value);
// Null when the value cannot be iterated; iterate() raises instead.
Next iterate_if_any(const Value& value);
Next iterate(const Value& value);
Items to_items(const Value& value);  // all that iterate() gives

// value[key] of the built-in types; nullopt where Python raises a TypeError or a LookupError.
std::optional<Value> item_of(const Value& value, const Value& key);
// value[key] where Python's errors are wanted.
Value need_item(const Value& value, const Value& key);
// value[start:stop:step], None where a part is missing. nullopt when it cannot be sliced.
std::optional<Value> slice_of(const Value& value, const Value& start, const Value& stop,
                              const Value& step);

// An int where Python wants an index; raises its TypeError otherwise.
int64_t to_index(const Value& value);
// The texts of all, which are escaped as soon as one of them is markup.
Value join_escaped(const Items& items, const Value& between);
// text + text or text ~ text, minding markup.
Value join_texts(const Value& left, const Value& right);
// Markup as it is, anything else as text with its HTML escaped.
Value escaped(const Value& value);
// Text made from `from`: markup where that is.
Value like(const Value& from, std::string text);

}  // namespace nibble::frontends::chat
