// The trials of `nibble quantize`: each recipe is carried out, and the model that comes of it is
// compared with the same model in fp32 on text that it was not calibrated on. What is finished lies
// in a folder beside the output, so that a run that was killed goes on where it was.
#pragma once

#include <cstdint>
#include <memory>
#include <string>
#include <vector>

#include "graph/graph.h"
#include "quant/recipes/quantize_model.h"
#include "quant/recipes/recipe_loop.h"
#include "quant/scores/windows.h"
#include "runtime/thread_pool.h"
#include "tools/cli/output.h"

namespace nibble::cli {

// What all trials share.
struct TrialSetup {
  const graph::Graph& graph;  // fused, not packed
  quant::Calibration calibration;
  std::vector<int32_t> held_out;  // what is scored
  quant::Protocol protocol;
  std::string compute;   // of the quantized models: "int8", "bf16" or "f32"
  std::string folder;    // of what is finished
  std::string identity;  // of all that results depend on but the recipe; another one's folder is
                         // emptied. Blocks and scores know the recipe that made them.
};

struct TrialOutcome {
  quant::LoopResult loop;
  quant::QuantizedModel model;                             // by the best recipe
  std::vector<std::vector<quant::WeightOutcome>> weights;  // of each trial
};

// Tries the recipes in order until the mark is met. Says what comes of each on standard error.
// Throws Error, also when interrupted by Ctrl-C; what is finished stays in the folder then.
TrialOutcome run_trials(const TrialSetup& setup, const std::vector<quant::Recipe>& recipes,
                        double max_loss, const std::shared_ptr<runtime::ThreadPool>& pool);

// Empties and removes the folder of finished work.
void forget_trials(const TrialSetup& setup);

// {"perplexity", "base_perplexity", "loss", "loss_interval": [low, high], "kl", ...}
Json score_json(const quant::RecipeScore& score);
// [{"name", "layer", "error", "nearest_error", "seconds"}]
Json outcomes_json(const std::vector<quant::WeightOutcome>& weights);
// "perplexity 41.90 (+0.83%, 95% within 0.61..1.05%), KL 0.0031, ..."
std::string score_text(const quant::RecipeScore& score);

}  // namespace nibble::cli
