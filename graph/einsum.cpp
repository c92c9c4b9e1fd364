#include "graph/einsum.h"

#include <algorithm>
#include <cctype>

#include "jit/error.h"

namespace nibble::graph {

Einsum parse_einsum(std::string_view equation) {
  Einsum result;
  std::string all;
  std::string* part = &result.operands.emplace_back();
  bool arrow = false;
  for (size_t i = 0; i < equation.size(); ++i) {
    const char c = equation[i];
    if (c == ' ') continue;
    if (c == ',' && !arrow) {
      part = &result.operands.emplace_back();
    } else if (c == '-' && !arrow && equation.substr(i, 2) == "->") {
      arrow = true;
      part = &result.out;
      ++i;
    } else if (std::isalpha(static_cast<unsigned char>(c)) != 0) {
      part->push_back(c);
      if (!arrow) all.push_back(c);
    } else {
      fail("The equation \"{}\" has a '{}', but letters, commas and one arrow are expected.",
           equation, c);
    }
  }
  if (!arrow) {
    std::sort(all.begin(), all.end());
    std::copy_if(all.begin(), all.end(), std::back_inserter(result.out),
                 [&](char c) { return std::count(all.begin(), all.end(), c) == 1; });
  }
  for (const char c : result.out) {
    if (all.find(c) == std::string::npos ||
        std::count(result.out.begin(), result.out.end(), c) != 1) {
      fail("The equation \"{}\" has the output dimension '{}' twice, or it is of no operand.",
           equation, c);
    }
  }
  return result;
}

}  // namespace nibble::graph
