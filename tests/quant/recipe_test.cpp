#include "quant/recipes/recipe.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <optional>

#include "jit/error.h"
#include "quant/recipes/recipe_loop.h"
#include "tests/support/error_of.h"

namespace nibble::quant {
namespace {

using test::error_of;

QuantizeOptions int4(int64_t group) {
  return default_options("int4", group, false, jit::ScaleType::f16);
}

TEST(RecipeTest, EveryMethodKeepsItsName) {
  for (const std::string& name : method_names()) {
    Recipe recipe;
    set_method(recipe, name);
    EXPECT_EQ(method_name(recipe), name);
  }
  EXPECT_EQ(error_of([] {
              Recipe recipe;
              set_method(recipe, "gtpq");
            }).substr(0, 39),
            "There is no method 'gtpq'; there are rt");
}

TEST(RecipeTest, JsonGivesTheSameRecipeBack) {
  for (const std::string& name : method_names()) {
    Recipe recipe;
    recipe.formats = int4(128);
    recipe.formats_of["layers.3.mlp.down_proj"] = {jit::WeightType::u8, 32, true,
                                                   jit::ScaleType::f32};
    set_method(recipe, name);
    recipe.bits = 5.25;
    recipe.damping = 0.05;
    recipe.act_order = false;
    recipe.iterations = 7;
    recipe.seed = 99;
    const std::string json = recipe_to_json(recipe);
    Recipe plain;
    plain.formats = int4(32);
    EXPECT_EQ(recipe_to_json(recipe_from_json(json, "r.json", plain)), json);
  }
}

TEST(RecipeTest, AbsentKeysKeepTheDefaultsAndFormatsOfStartFromTheLinearOne) {
  Recipe defaults;
  defaults.formats = int4(32);
  const Recipe recipe = recipe_from_json(
      R"({"formats_of": {"w": {"weights": "int8"}}, "group": 64, "method": "gptq"})", "r.json",
      defaults);
  EXPECT_EQ(method_name(recipe), "gptq");
  EXPECT_EQ(recipe.formats.linear.group, 64);
  EXPECT_EQ(recipe.formats.linear.type, jit::WeightType::u4);
  EXPECT_EQ(recipe.formats_of.at("w").group, 64);
  EXPECT_EQ(recipe.formats_of.at("w").type, jit::WeightType::u8);
  EXPECT_TRUE(recipe.act_order);
}

TEST(RecipeTest, WhatIsWrongIsNamed) {
  const auto message = [](const std::string& json) {
    return error_of([&] { recipe_from_json(json, "r.json", {}); });
  };
  EXPECT_EQ(message(R"({"grup": 32})"), "r.json: \"grup\" is no key of a recipe.");
  EXPECT_EQ(message(R"({"group": 12})"),
            "r.json: \"group\" is 12, expected 0 (a whole column) or a multiple of 8.");
  EXPECT_EQ(message(R"({"group": -8})"),
            "r.json: \"group\" is -8, expected an integer from 0 to 1048576.");
  EXPECT_EQ(
      message(R"({"lm_head": {"weights": "int3"}})"),
      "r.json: \"lm_head.weights\" is \"int3\", expected \"int4\", \"int6\", \"int8\" or \"f32\".");
  EXPECT_EQ(message(R"({"damping": 2})"),
            "r.json: \"damping\" is 2, expected a number from 0 to 1.");
  EXPECT_EQ(message(R"({"bits": -1})"), "r.json: \"bits\" is -1, expected a number from 0 to 32.");
  EXPECT_EQ(message("[1]"), "r.json: \"\" is [1], expected an object.");
  EXPECT_NE(message("{").find("r.json: this is not valid JSON"), std::string::npos);
}

RecipeScore scored(double loss, double kl = 0) {
  RecipeScore score;
  score.estimates = {{"perplexity", loss, {}}};
  score.kl = kl;
  return score;
}

LoopResult run_script(const std::vector<RecipeScore>& scores, double max_loss) {
  const std::vector<Recipe> recipes(scores.size());
  return run_recipe_loop(recipes, max_loss, [&](const Recipe& recipe, size_t trial) {
    return Trial{recipe, scores[trial]};
  });
}

TEST(RecipeTest, TextSaysWhatIsMixed) {
  Recipe recipe;
  recipe.formats = int4(128);
  set_method(recipe, "gptq");
  recipe.bits = 4.75;
  EXPECT_EQ(recipe_text(recipe),
            "gptq mixed int4 in groups of 128, with f16 scales, 4.75 bits a weight");
  recipe.bits = 0;
  recipe.formats_of = {{"a", {jit::WeightType::u8, 128, false, jit::ScaleType::f16}},
                       {"b", {jit::WeightType::u4, 32, false, jit::ScaleType::f16}},
                       {"c", {jit::WeightType::u8, 128, false, jit::ScaleType::f16}}};
  EXPECT_EQ(recipe_text(recipe),
            "gptq mixed int4 in groups of 128, with f16 scales; 1 weight int4 in groups of 32, "
            "with f16 scales; 2 weights int8 in groups of 128, with f16 scales");
}

Comparison compared(const std::vector<double>& nll, const std::vector<double>& base,
                    const std::vector<double>& kl) {
  Comparison out;
  out.model.nll = nll;
  out.base_nll = base;
  out.kl = kl;
  out.same_best = std::ssize(kl) - 1;
  return out;
}

TEST(RecipeScoreTest, TheLargestEstimateDecides) {
  // Perplexity falls, and still the model is another one.
  RecipeScore score = score_of(compared({2.0, 3.0, 1.0}, {2.0, 3.1, 1.1}, {0.01, 0.03, 0.02}));
  ASSERT_EQ(score.estimates.size(), 2U);
  EXPECT_NEAR(score.estimates[0].loss, std::exp(-0.2 / 3) - 1, 1e-12);
  EXPECT_LT(score.estimates[0].interval.low, score.estimates[0].loss);
  EXPECT_EQ(score.deciding().by, "KL");
  EXPECT_NEAR(score.loss(), std::exp(0.02) - 1, 1e-12);
  EXPECT_NEAR(score.deciding().interval.high, std::exp(0.02 + 1.959964 * 0.01 / std::sqrt(3)) - 1,
              1e-7);
  EXPECT_NEAR(score.top1, 2.0 / 3, 1e-12);

  // Perplexity rises by more than KL says.
  EXPECT_EQ(score_of(compared({2.1, 3.1}, {2.0, 3.0}, {0.01, 0.03})).deciding().by, "perplexity");

  // 4 of 5 answers are left: 20% are lost.
  const std::vector<uint8_t> base = {1, 1, 1, 1, 1, 0}, model = {1, 1, 0, 0, 1, 1};
  add_task(score, "words", model, base);
  EXPECT_EQ(score.deciding().by, "words");
  EXPECT_NEAR(score.loss(), 0.2, 1e-12);
  EXPECT_LT(score.deciding().interval.low, 0);
  EXPECT_GT(score.deciding().interval.high, 0.2);
  ASSERT_EQ(score.tasks.size(), 1U);
  EXPECT_EQ(score.tasks[0].right, 4);
  EXPECT_EQ(score.tasks[0].base_right, 5);
  EXPECT_EQ(score.tasks[0].test.only_first, 1);
  EXPECT_EQ(score.tasks[0].test.only_second, 2);
  // One that got better does not hide what the others say.
  add_task(score, "more", base, model);
  EXPECT_EQ(score.deciding().by, "words");
}

TEST(RecipeScoreTest, ATaskThatTheModelCannotDoMeasuresNothing) {
  RecipeScore score;
  const std::vector<uint8_t> base = {0, 0, 0}, model = {0, 1, 0};
  EXPECT_EQ(error_of([&] { add_task(score, "hard.jsonl", model, base); }),
            "hard.jsonl: in fp32 the model answers none of the 3 questions, so that no loss can be "
            "measured.");
  EXPECT_NE(error_of([&] { score.loss(); }), "");
}

TEST(RecipeLoopTest, StopsAtTheFirstThatMeetsTheMark) {
  const LoopResult result = run_script({scored(0.03), scored(0.01), scored(0.002)}, 0.01);
  EXPECT_TRUE(result.met);
  EXPECT_EQ(result.best, 1U);
  EXPECT_EQ(result.trials.size(), 2U);
}

TEST(RecipeLoopTest, KeepsTheBestWhenNoneDoes) {
  const LoopResult result =
      run_script({scored(0.05), scored(0.03, 0.2), scored(0.03, 0.1), scored(0.04)}, 0.01);
  EXPECT_FALSE(result.met);
  EXPECT_EQ(result.best, 2U);
  EXPECT_EQ(result.trials.size(), 4U);
}

TEST(RecipeLoopTest, AModelBetterThanItsBaseMeetsAnyMark) {
  const LoopResult result = run_script({scored(-0.001)}, 0);
  EXPECT_TRUE(result.met);
}

TEST(RecipeLoopTest, ThrowsWhatATrialThrows) {
  const std::vector<Recipe> recipes(2);
  EXPECT_THROW(run_recipe_loop(recipes, 0.01,
                               [](const Recipe&, size_t) -> std::optional<Trial> {
                                 fail("The disk is full.");
                               }),
               Error);
  EXPECT_THROW(run_recipe_loop({}, 0.01, [](const Recipe&, size_t) { return Trial{}; }), Error);
}

TEST(RecipeLoopTest, PassesOverWhatIsNoTrial) {
  const std::vector<Recipe> recipes(4);
  std::vector<size_t> numbers;
  size_t calls = 0;
  const LoopResult result = run_recipe_loop(
      recipes, 0.01, [&](const Recipe& recipe, size_t trial) -> std::optional<Trial> {
        numbers.push_back(trial);
        if (++calls % 2 == 0) return std::nullopt;
        Trial made{recipe, scored(calls == 1 ? 0.05 : 0.03)};
        made.recipe.seed = calls;
        return made;
      });
  EXPECT_EQ(numbers, (std::vector<size_t>{0, 1, 1, 2}));
  ASSERT_EQ(result.trials.size(), 2U);
  EXPECT_EQ(result.best, 1U);
  EXPECT_EQ(result.trials[1].recipe.seed, 3U);  // as it was carried out
  EXPECT_THROW(
      run_recipe_loop(recipes, 0.01,
                      [](const Recipe&, size_t) -> std::optional<Trial> { return std::nullopt; }),
      Error);
}

TEST(RecipeLoopTest, MixedFormatsComeBeforeSmallerGroups) {
  const auto place = [](const std::vector<Recipe>& recipes) {
    return std::find_if(recipes.begin(), recipes.end(),
                        [](const Recipe& recipe) { return recipe.bits > 0; }) -
           recipes.begin();
  };
  const auto recipes = automatic_recipes(int4(128), 4.75);
  const auto mixed = static_cast<size_t>(place(recipes));
  ASSERT_LT(mixed, recipes.size());
  EXPECT_EQ(recipes[mixed].bits, 4.75);
  EXPECT_EQ(recipes[mixed].formats.linear.group, 128);
  EXPECT_EQ(method_name(recipes[mixed - 1]), "awq+signround-blocks");
  EXPECT_EQ(recipes[mixed + 1].formats.linear.group, 32);
  // Only where the budget has room for more than the plain format.
  const auto has = [&](const QuantizeOptions& formats, double bits) {
    const auto all = automatic_recipes(formats, bits);
    return place(all) < std::ssize(all);
  };
  EXPECT_TRUE(has(int4(32), 4.75));
  EXPECT_FALSE(has(int4(32), 4.5));
  EXPECT_FALSE(has(default_options("int4", 32, true, jit::ScaleType::f16), 4.75));
  EXPECT_FALSE(has(int4(16), 4.75));
  EXPECT_FALSE(has(int4(128), 0));
}

TEST(RecipeLoopTest, AutomaticRecipesGrowInCost) {
  const auto recipes = automatic_recipes(int4(128), 0);
  EXPECT_EQ(method_name(recipes.front()), "rtn");
  EXPECT_EQ(recipes.back().formats.linear.type, jit::WeightType::u8);
  EXPECT_EQ(recipes[recipes.size() - 2].formats.linear.type, jit::WeightType::u6);
  const jit::WeightFormat nested{jit::WeightType::u4, 16, false, jit::ScaleType::q8};
  EXPECT_EQ(recipes[recipes.size() - 3].formats.linear, nested);
  EXPECT_EQ(recipes[recipes.size() - 4].formats.linear.group, 32);
  // What is 8 bits wide already is rounded to nearest and that is that.
  EXPECT_EQ(automatic_recipes(default_options("int8", 32, false, jit::ScaleType::f16), 4.75).size(),
            1U);
}

}  // namespace
}  // namespace nibble::quant
