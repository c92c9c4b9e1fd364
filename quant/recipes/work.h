// How long carrying out a recipe takes, foretold by counting multiplications, so that progress
// moves as time does: over a model's weights, and within one. Nothing is measured here, and no
// result depends on it.
#pragma once

#include <cstdint>
#include <functional>
#include <string>
#include <utility>

#include "quant/products/steps.h"
#include "quant/recipes/recipe.h"

namespace nibble::quant {

// Floating point operations for one weight [n][k], by what they are for.
struct WeightCost {
  double scale = 0;    // its share of the search for its block's scales
  double train = 0;    // ... and of one training of its block
  double inputs = 0;   // the statistics of its inputs
  double solve = 0;    // its rounding
  double errors = 0;   // what that costs
  double forward = 0;  // its outputs, which the weights behind it meet
  double target = 0;   // its outputs in the float model

  double all(const Recipe& recipe) const;
};

// How often a block is trained.
int trainings(const Recipe& recipe);

// `ids`: how many are calibrated on; `calibrated`: the recipe chooses this weight's numbers.
WeightCost weight_cost(const Recipe& recipe, int64_t n, int64_t k, int64_t ids, bool calibrated);

class Work {
 public:
  // told(done, total, what): the share of the cost that is spent, counted in weights; it never
  // falls. May be empty.
  using Told = std::function<void(int64_t done, int64_t total, const std::string& what)>;
  explicit Work(Told told) : told_(std::move(told)) {}

  // First of all: a part of the work, and of the weights that it is counted in.
  void expect(double cost, int64_t weights);
  // What is done from here on.
  void begin(std::string what);
  // To be told how far the next `cost` is. Good as long as this lives.
  Steps steps(double cost);
  void finish(double cost) { done_ += cost; }
  // What was expected of a stretch of the work that is over, whatever was told of it.
  double done() const { return done_; }
  void reach(double done) { done_ = done; }
  void end();

 private:
  void tell_of(double done);
  Told told_;
  std::string what_;
  double total_ = 0, done_ = 0, most_ = 0;
  int64_t weights_ = 0;
};

}  // namespace nibble::quant
