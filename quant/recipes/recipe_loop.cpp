#include "quant/recipes/recipe_loop.h"

#include "jit/error.h"

namespace nibble::quant {

bool better(const RecipeScore& a, const RecipeScore& b) {
  if (a.loss != b.loss) return a.loss < b.loss;
  return a.kl < b.kl;
}

LoopResult run_recipe_loop(std::span<const Recipe> recipes, double max_loss,
                           const std::function<RecipeScore(const Recipe&, size_t trial)>& run) {
  if (recipes.empty()) fail("There are no recipes to try.");
  LoopResult result;
  for (const Recipe& recipe : recipes) {
    const size_t at = result.trials.size();
    const RecipeScore score = run(recipe, at);
    result.trials.push_back({recipe, score});
    result.met = score.loss <= max_loss;
    if (result.met || better(score, result.trials[result.best].score)) result.best = at;
    if (result.met) break;
  }
  return result;
}

std::vector<Recipe> automatic_recipes(const QuantizeOptions& formats) {
  std::vector<Recipe> recipes;
  const auto add = [&](const char* method, const QuantizeOptions& with) {
    Recipe recipe;
    recipe.formats = with;
    set_method(recipe, method);
    recipes.push_back(std::move(recipe));
  };
  if (formats.linear.type != jit::WeightType::u4) {
    add("rtn", formats);
    return recipes;
  }
  for (const char* method : {"rtn", "opt-rtn", "gptq", "awq", "awq+gptq", "signround",
                             "signround-blocks", "awq+signround-blocks"}) {
    add(method, formats);
  }
  const int64_t group = formats.linear.group;
  for (const int64_t smaller : {int64_t{128}, int64_t{32}}) {
    if (group != 0 && group <= smaller) continue;
    QuantizeOptions with = formats;
    with.linear.group = smaller;
    add("awq+gptq", with);
  }
  QuantizeOptions eight = formats;
  eight.linear.type = jit::WeightType::u8;
  if (eight.linear.group == 0 || eight.linear.group > 128) eight.linear.group = 128;
  add("rtn", eight);
  return recipes;
}

}  // namespace nibble::quant
