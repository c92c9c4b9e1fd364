// The "post_processor" of tokenizer.json: the special tokens around one text. Private to the
// tokenizer.
#pragma once

#include <cstdint>
#include <vector>

#include "frontends/tokenizer/json_view.h"

namespace nibble::frontends {

struct PostProcessor {
  std::vector<int32_t> before, after;

  // Throws Error naming a type or a form of template that is not known.
  void add(const JsonView& json);
};

}  // namespace nibble::frontends
