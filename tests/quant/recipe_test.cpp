#include "quant/recipes/recipe.h"

#include <gtest/gtest.h>

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
  EXPECT_EQ(message(R"({"lm_head": {"weights": "int3"}})"),
            "r.json: \"lm_head.weights\" is \"int3\", expected \"int4\", \"int8\" or \"f32\".");
  EXPECT_EQ(message(R"({"damping": 2})"),
            "r.json: \"damping\" is 2, expected a number from 0 to 1.");
  EXPECT_EQ(message("[1]"), "r.json: \"\" is [1], expected an object.");
  EXPECT_NE(message("{").find("r.json: this is no JSON"), std::string::npos);
}

RecipeScore scored(double loss, double kl = 0) {
  RecipeScore score;
  score.loss = loss;
  score.kl = kl;
  return score;
}

LoopResult run_script(const std::vector<RecipeScore>& scores, double max_loss) {
  const std::vector<Recipe> recipes(scores.size());
  return run_recipe_loop(recipes, max_loss,
                         [&](const Recipe&, size_t trial) { return scores[trial]; });
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
  EXPECT_THROW(
      run_recipe_loop(recipes, 0.01,
                      [](const Recipe&, size_t) -> RecipeScore { fail("The disk is full."); }),
      Error);
  EXPECT_THROW(run_recipe_loop({}, 0.01, [](const Recipe&, size_t) { return RecipeScore{}; }),
               Error);
}

TEST(RecipeLoopTest, AutomaticRecipesGrowInCost) {
  const auto recipes = automatic_recipes(int4(128));
  EXPECT_EQ(method_name(recipes.front()), "rtn");
  EXPECT_EQ(recipes.back().formats.linear.type, jit::WeightType::u8);
  EXPECT_EQ(recipes[recipes.size() - 2].formats.linear.group, 32);
  // What is 8 bits wide already is rounded to nearest and that is that.
  EXPECT_EQ(automatic_recipes(default_options("int8", 32, false, jit::ScaleType::f16)).size(), 1U);
}

}  // namespace
}  // namespace nibble::quant
