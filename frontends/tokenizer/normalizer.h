// The "normalizer" of tokenizer.json: text to text, before it is split. Private to the tokenizer.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "frontends/tokenizer/json_view.h"

namespace nibble::frontends {

// Steps in order; no steps: the text as it is.
struct Normalizer {
  using Step = std::function<void(std::string&)>;
  std::vector<Step> steps;
  bool strips_left = false;  // a step takes white space away from the front

  // Appends the steps of a component (a Sequence: those of its members). Throws Error naming a type
  // that is not known.
  void add(const JsonView& json, int depth = 0);
  std::string apply(std::string text) const {
    for (const Step& step : steps) step(text);
    return text;
  }
};

}  // namespace nibble::frontends
