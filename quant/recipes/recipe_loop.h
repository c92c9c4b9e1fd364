// The search for the cheapest recipe that is good enough: recipes in the order of what they cost
// are tried one after another until one loses no more than it may. What a trial does is the
// caller's; here is only when to stop and what is best.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

#include "quant/recipes/recipe.h"
#include "quant/recipes/recipe_score.h"

namespace nibble::quant {

struct Trial {
  Recipe recipe;  // as it was carried out
  RecipeScore score;
};

struct LoopResult {
  std::vector<Trial> trials;  // in the order they were made
  size_t best = 0;            // of trials: the one that met the mark, else that of the least loss
  bool met = false;
};

// Whether a is the better of two: the one of less loss; KL decides between losses that are the
// same.
bool better(const RecipeScore& a, const RecipeScore& b);

// run(recipe, n) makes trial n of the recipe, or gives nothing when the recipe would do what one
// before it does: then there is no such trial. The mark is met when the loss itself is no more than
// it: the estimate, whose interval is reported beside it. Among those that miss it the least loss
// is best. What a trial throws ends the search.
using RunTrial = std::function<std::optional<Trial>(const Recipe& recipe, size_t trial)>;
LoopResult run_recipe_loop(std::span<const Recipe> recipes, double max_loss, const RunTrial& run);

// What is tried for these formats, in order of cost: roundings, scalings and both, then training,
// then mixed formats where `mixed_bits` a weight (0: none) are more than the plain format takes,
// then smaller groups, and in the end 8 bits.
std::vector<Recipe> automatic_recipes(const QuantizeOptions& formats, double mixed_bits);

}  // namespace nibble::quant
