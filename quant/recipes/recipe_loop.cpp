#include "quant/recipes/recipe_loop.h"

#include <utility>

#include "jit/error.h"

namespace nibble::quant {

bool better(const RecipeScore& a, const RecipeScore& b) {
  if (a.loss() != b.loss()) return a.loss() < b.loss();
  return a.kl < b.kl;
}

LoopResult run_recipe_loop(std::span<const Recipe> recipes, double max_loss, const RunTrial& run) {
  if (recipes.empty()) fail("There are no recipes to try.");
  LoopResult result;
  for (const Recipe& recipe : recipes) {
    const size_t at = result.trials.size();
    std::optional<Trial> trial = run(recipe, at);
    if (!trial) continue;
    result.trials.push_back(std::move(*trial));
    const RecipeScore& score = result.trials.back().score;
    result.met = score.loss() <= max_loss;
    if (result.met || better(score, result.trials[result.best].score)) result.best = at;
    if (result.met) break;
  }
  if (result.trials.empty()) fail("None of the recipes could be tried.");
  return result;
}

namespace {

// Bits of a weight of a wide matrix, padding apart; whole columns have all but no scales.
double nominal_bits(const jit::WeightFormat& format) {
  const auto scale = static_cast<double>(8 * jit::scale_bytes(format.scale));
  const double grid = scale + (format.asym ? 8 : 0);
  const double above = format.scale == jit::ScaleType::q8 ? 16.0 / jit::kSuperBlock : 0;
  return 4 + above + (format.group > 0 ? grid / static_cast<double>(format.group) : 0);
}

}  // namespace

std::vector<Recipe> automatic_recipes(const QuantizeOptions& formats, double mixed_bits) {
  std::vector<Recipe> recipes;
  const auto add = [&](const char* method, const QuantizeOptions& with, double bits = 0) {
    Recipe recipe;
    recipe.formats = with;
    recipe.bits = bits;
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
  if (mixed_bits > nominal_bits(formats.linear)) add("awq+gptq", formats, mixed_bits);
  const int64_t group = formats.linear.group;
  for (const int64_t smaller : {int64_t{128}, int64_t{32}}) {
    if (group != 0 && group <= smaller) continue;
    QuantizeOptions with = formats;
    with.linear.group = smaller;
    add("awq+gptq", with);
  }
  // Shorter groups at little more than 4.5 bits.
  QuantizeOptions nested = formats;
  nested.linear.group = 16;
  nested.linear.asym = false;
  nested.linear.scale = jit::ScaleType::q8;
  if (group == 0 || group > 16) add("gptq", nested);
  for (const jit::WeightType wider : {jit::WeightType::u6, jit::WeightType::u8}) {
    QuantizeOptions with = formats;
    with.linear.type = wider;
    if (with.linear.group == 0 || with.linear.group > 128) with.linear.group = 128;
    add("rtn", with);
  }
  return recipes;
}

}  // namespace nibble::quant
