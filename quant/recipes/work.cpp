#include "quant/recipes/work.h"

#include <algorithm>

namespace nibble::quant {
namespace {

// Rounding a number takes about as long as so many operations of a product.
constexpr double kRounding = 30;
constexpr double kRangeSearch = 2000;
// Products of AWQ's search, in k^2 (awq.h).
constexpr double kAwqRows = 20000;
constexpr double kTrainedIds = 8 * 512;  // a step (TuningOptions)

}  // namespace

int trainings(const Recipe& recipe) {
  return (recipe.scaling == Scaling::teq ? 1 : 0) +
         (recipe.rounding == Rounding::sign_round_blocks ? 1 : 0);
}

double WeightCost::all(const Recipe& recipe) const {
  return scale + trainings(recipe) * train + inputs + solve + errors + forward + target;
}

WeightCost weight_cost(const Recipe& recipe, int64_t n, int64_t k, int64_t ids, bool calibrated) {
  const auto numbers = static_cast<double>(n * k), square = static_cast<double>(k * k);
  const auto rows = static_cast<double>(ids);
  WeightCost cost;
  cost.solve = kRounding * numbers;
  if (recipe.calibrates()) cost.forward = 2 * rows * numbers;
  if (!calibrated) return cost;
  const double product = numbers * static_cast<double>(k);  // symmetric: half of a whole one
  cost.inputs = rows * square;
  cost.errors = 3 * product;
  if (recipe.scaling == Scaling::awq) {
    cost.scale = cost.forward + cost.inputs + kAwqRows * square;
  }
  if (trainings(recipe) > 0) {
    cost.target = cost.forward;
    cost.train =
        3 * cost.forward + recipe.iterations * 3 * 2 * std::min(rows, kTrainedIds) * numbers;
  }
  switch (recipe.rounding) {
    case Rounding::nearest:
    case Rounding::sign_round_blocks:
      break;
    case Rounding::search:
      cost.solve = kRangeSearch * numbers;
      break;
    case Rounding::gptq:
      cost.solve = kRangeSearch * numbers + 1.5 * square * static_cast<double>(k) + product;
      break;
    case Rounding::sign_round:
      cost.solve = recipe.iterations * 2 * product;
      break;
  }
  return cost;
}

void Work::expect(double cost, int64_t weights) {
  total_ += cost;
  weights_ += weights;
}

void Work::begin(std::string what) {
  what_ = std::move(what);
  tell_of(done_);
}

Steps Work::steps(double cost) {
  if (!told_) return {};
  return [this, cost](double share) { tell_of(done_ + share * cost); };
}

void Work::end() {
  what_.clear();
  tell_of(total_);
}

void Work::tell_of(double done) {
  if (!told_) return;
  most_ = std::max(most_, std::min(done, total_));
  const double share = total_ > 0 ? most_ / total_ : 1;
  told_(static_cast<int64_t>(share * static_cast<double>(weights_)), weights_, what_);
}

}  // namespace nibble::quant
