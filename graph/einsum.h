// The equation of an Einsum, such as "bhqd,bhkd->bhqk". For the interpreter and expand_operators.
#pragma once

#include <string>
#include <string_view>
#include <vector>

namespace nibble::graph {

struct Einsum {
  std::vector<std::string> operands;  // one letter a dimension
  std::string out;
};

// Without "->" the output has the letters that stand once, in alphabetical order. Throws Error
// where the equation is none or has an ellipsis, which is not supported.
Einsum parse_einsum(std::string_view equation);

}  // namespace nibble::graph
