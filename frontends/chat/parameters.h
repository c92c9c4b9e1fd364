// The arguments of a call under the names of the function's parameters, with Python's messages for
// those that do not fit. Filters, methods and globals read their arguments through it.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "frontends/chat/value.h"

namespace nibble::frontends::chat {

class Parameters {
 public:
  // `signature`: as Python writes it, an optional parameter with "=" behind its name.
  //   "do_replace(eval_ctx, s; old, new, count=)"  what precedes ';' is given already
  //   "str.zfill(width, /)", "len(obj; /)"         of C: what precedes '/' has no name to callers
  //   "split(sep=, maxsplit=)"                     of C, as there is no ';'
  // Raises a TypeError in Python's words on arguments that do not fit.
  Parameters(std::string_view signature, Arguments& arguments);
  bool given(size_t i) const { return values_[i].has_value(); }
  const Value& need(size_t i) const { return *values_[i]; }  // of a parameter without "="
  Value value_or(size_t i, Value otherwise) const;
  Value value_or_none(size_t i) const { return i < values_.size() ? value_or(i, {}) : Value(); }
  int64_t integer_or(size_t i, int64_t otherwise) const;
  bool truth_or(size_t i, bool otherwise) const;
  std::string text_or(size_t i, const char* otherwise) const;  // str() of it

 private:
  std::vector<std::optional<Value>> values_;
};

}  // namespace nibble::frontends::chat
