// One weight by one recipe: which solver with which options, and how well it did.
#pragma once

#include <cstdint>
#include <span>

#include "jit/packed_layout.h"
#include "quant/products/steps.h"
#include "quant/recipes/recipe.h"
#include "quant/solvers/input_stats.h"
#include "quant/solvers/solved_matrix.h"
#include "runtime/thread_pool.h"

namespace nibble::quant {

// W [n][k] in fp32 and what is known of its inputs.
struct WeightProblem {
  std::span<const float> w;
  int64_t n = 0, k = 0;
  jit::WeightFormat format;
  const InputStats& inputs;
};

// By the recipe's rounding, which is not one of whole blocks. Throws Error as the solvers do.
SolvedMatrix solve_weight(const Recipe& recipe, const WeightProblem& problem,
                          runtime::ThreadPool& pool, const Steps& steps = {});

// |X W'^T - X W^T| / |X W^T| (Frobenius norms) of a solution, and of rounding to nearest.
struct WeightErrors {
  double error = 0, nearest = 0;
};
WeightErrors weight_errors(const WeightProblem& problem, const SolvedMatrix& solved, RtnRange range,
                           runtime::ThreadPool& pool, const Steps& steps = {});

}  // namespace nibble::quant
