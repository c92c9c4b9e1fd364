// The search for the cheapest recipe that is good enough: recipes in the order of what they cost
// are tried one after another until one loses no more than it may. What a trial does is the
// caller's; here is only when to stop and what is best.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "quant/recipes/recipe.h"
#include "quant/scores/statistics.h"

namespace nibble::quant {

// How a quantized model compares with the same model in fp32 on the same ids.
struct RecipeScore {
  double perplexity = 0, base_perplexity = 0;
  double loss = 0;         // perplexity / base_perplexity - 1
  Interval loss_interval;  // of 95% confidence, paired
  double kl = 0;           // mean KL(base || model), nats
  double top1 = 0;         // share of ids before which both have the same likeliest
  double bits = 0;         // stored bits of a quantized weight, scales and zero points included
  double seconds = 0;      // of quantizing
};

struct Trial {
  Recipe recipe;
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

// The mark is met when the loss itself is no more than it: the estimate, whose interval is
// reported beside it. Among those that miss it the least loss is best. What a trial throws ends the
// search.
LoopResult run_recipe_loop(std::span<const Recipe> recipes, double max_loss,
                           const std::function<RecipeScore(const Recipe&, size_t trial)>& run);

// What is tried for these formats, in order of cost: roundings, scalings and both, then training,
// then smaller groups, and in the end 8 bits.
std::vector<Recipe> automatic_recipes(const QuantizeOptions& formats);

}  // namespace nibble::quant
