// Mixed formats for a recipe: which weights get more bits than the rest under a budget. The layers
// are run once in fp32 over the calibration text, what rounding each weight to nearest in each of
// its candidate formats does to its outputs is found by the Gram matrix of its inputs, and
// mixed_precision.h chooses. What comes of it is a recipe like any other, with Recipe::formats_of.
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <vector>

#include "graph/graph.h"
#include "quant/formats/mixed_precision.h"
#include "quant/recipes/quantize_model.h"
#include "quant/recipes/recipe.h"
#include "runtime/thread_pool.h"

namespace nibble::quant {

// Told before each weight, in weights; what it throws ends the work.
using SensitivityProgress = std::function<void(int64_t done, int64_t total)>;

// The candidates of every Linear weight but the one that makes the logits: the recipe's own format,
// and where that is INT4 groups of 32 (if its own are larger) and INT8. Others keep theirs.
//
// The loss of a candidate is |X W'^T - X W^T|^2 over the square of what the layer's branch adds its
// outputs to: the outputs' own error, relative to |X W^T|^2, times the share that the branch has of
// the activations that go on from it, |branch|^2 / |branch + residual|^2. The branch of a weight
// that adds to no residual itself is that of the next weight on its way that does.
std::vector<WeightCandidates> measure_candidates(const graph::Graph& graph, const Recipe& recipe,
                                                 const Calibration& calibration,
                                                 runtime::ThreadPool& pool,
                                                 const SensitivityProgress& progress);

// The recipe with formats_of in place of its budget, Recipe::bits. None when no weight gets another
// format than the recipe's: nothing is worth it, or the budget is below least_bits.
struct MixedRecipe {
  std::optional<Recipe> recipe;
  double least_bits = 0;  // what the smallest candidates take on average
};
MixedRecipe mix_formats(const graph::Graph& graph, const Recipe& recipe,
                        const Calibration& calibration, runtime::ThreadPool& pool,
                        const SensitivityProgress& progress);

}  // namespace nibble::quant
