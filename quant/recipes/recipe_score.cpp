#include "quant/recipes/recipe_score.h"

#include <algorithm>
#include <cmath>

#include "jit/error.h"

namespace nibble::quant {

const LossEstimate& RecipeScore::deciding() const {
  if (estimates.empty()) fail("A score without any estimate of the loss decides nothing.");
  return *std::max_element(
      estimates.begin(), estimates.end(),
      [](const LossEstimate& a, const LossEstimate& b) { return a.loss < b.loss; });
}

RecipeScore score_of(const Comparison& compared) {
  RecipeScore score;
  score.perplexity = compared.perplexity();
  score.base_perplexity = compared.base_perplexity();
  score.top1 = compared.top1();
  const Interval ratio = compared.perplexity_ratio();
  score.estimates.push_back({"perplexity",
                             score.perplexity / score.base_perplexity - 1,
                             {ratio.low - 1, ratio.high - 1}});
  const Mean kl = compared.mean_kl();
  const Interval around = interval_of(kl);
  score.kl = kl.value;
  score.estimates.push_back(
      {"KL", std::expm1(kl.value), {std::expm1(around.low), std::expm1(around.high)}});
  return score;
}

namespace {

int64_t count_right(std::span<const uint8_t> answers) {
  return std::ssize(answers) - std::count(answers.begin(), answers.end(), uint8_t{0});
}

}  // namespace

void check_task(const std::string& name, std::span<const uint8_t> base) {
  if (count_right(base) > 0) return;
  fail("{}: in fp32 the model answers none of the {} questions, so that no loss can be measured.",
       name, base.size());
}

void add_task(RecipeScore& score, const std::string& name, std::span<const uint8_t> model,
              std::span<const uint8_t> base) {
  check_task(name, base);
  score.tasks.push_back({.name = name,
                         .items = std::ssize(base),
                         .right = count_right(model),
                         .base_right = count_right(base),
                         .test = mcnemar(model, base)});
  const PairedRatio ratio = paired_ratio(model, base);
  score.estimates.push_back(
      {name, 1 - ratio.value, {1 - ratio.interval.high, 1 - ratio.interval.low}});
}

}  // namespace nibble::quant
