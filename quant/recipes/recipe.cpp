#include "quant/recipes/recipe.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <algorithm>
#include <array>

#include "jit/error.h"

namespace nibble::quant {
namespace {

struct Method {
  const char* name;
  Scaling scaling;
  bool clip;
  Rounding rounding;
};

// A scaling by itself rounds as its paper does: AWQ clips, then rounds to nearest.
constexpr std::array<Method, 11> kMethods = {{
    {"rtn", Scaling::none, false, Rounding::nearest},
    {"opt-rtn", Scaling::none, false, Rounding::search},
    {"gptq", Scaling::none, false, Rounding::gptq},
    {"awq", Scaling::awq, true, Rounding::nearest},
    {"awq+gptq", Scaling::awq, false, Rounding::gptq},
    {"teq", Scaling::teq, false, Rounding::nearest},
    {"teq+gptq", Scaling::teq, false, Rounding::gptq},
    {"signround", Scaling::none, false, Rounding::sign_round},
    {"awq+signround", Scaling::awq, false, Rounding::sign_round},
    {"signround-blocks", Scaling::none, false, Rounding::sign_round_blocks},
    {"awq+signround-blocks", Scaling::awq, false, Rounding::sign_round_blocks},
}};

}  // namespace

void set_method(Recipe& recipe, const std::string& method) {
  const auto found = std::find_if(kMethods.begin(), kMethods.end(),
                                  [&](const Method& m) { return method == m.name; });
  if (found == kMethods.end()) {
    fail("There is no method '{}'; there are {}.", method, fmt::join(method_names(), ", "));
  }
  recipe.scaling = found->scaling;
  recipe.clip = found->clip;
  recipe.rounding = found->rounding;
}

std::string method_name(const Recipe& recipe) {
  const auto found = std::find_if(kMethods.begin(), kMethods.end(), [&](const Method& m) {
    return m.scaling == recipe.scaling && m.rounding == recipe.rounding;
  });
  if (found == kMethods.end()) {
    fail("No method has scaling {} and rounding {}.", static_cast<int>(recipe.scaling),
         static_cast<int>(recipe.rounding));
  }
  return found->name;
}

std::vector<std::string> method_names() {
  std::vector<std::string> names;
  for (const Method& method : kMethods) names.emplace_back(method.name);
  return names;
}

std::string recipe_text(const Recipe& recipe) {
  std::string text = method_name(recipe) + " " + format_text(recipe.formats.linear);
  if (!recipe.formats_of.empty()) {
    text += fmt::format(", {} weights in other formats", recipe.formats_of.size());
  }
  return text;
}

}  // namespace nibble::quant
