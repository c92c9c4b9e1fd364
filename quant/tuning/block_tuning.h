// Tuning a whole block (a layer) by gradients through it: what its Linears are quantized to is
// chosen so that the block's output stays what the float block's was, not each matrix for itself.
// The machinery is block_objective.h; who collects the data, block after block, and who writes the
// results into the graph, is not here. Results are the same bits on any number of threads.
#pragma once

#include <cstdint>
#include <map>
#include <span>
#include <vector>

#include "graph/graph.h"
#include "quant/folds/folds.h"
#include "quant/formats/rtn.h"
#include "quant/solvers/solved_matrix.h"
#include "quant/tuning/block_objective.h"

namespace nibble::quant {

// The format of each weight that will be quantized, by its value; others stay as they are.
using Formats = std::map<graph::ValueId, jit::WeightFormat>;

struct TuningOptions {
  int iterations = 200;
  int64_t batch_sequences = 8;  // a step
  uint64_t seed = 1;            // of the choice of sequences
  Steps steps = {};
};

// The loss (BlockObjective::loss over all sequences) of round-to-nearest, and of what was found,
// which is never worse.
struct TuningLoss {
  double before = 0, after = 0;
};

// --- trainable equivalent transformation (Cheng et al., arXiv 2310.10944) ---

struct TunedFactors {
  std::vector<std::vector<float>> factors;  // by fold; all 1 where nothing better was found
  TuningLoss loss;
};

// Factors a for which the block computes best with its weights rounded to nearest as Q(W a) / a.
// They begin at 1 and follow the gradient of the loss, rounding passed straight through
// (fake_quantize.h), by Adam with betas of 0.9, after a warm-up of 5% of the iterations with
// linear decay. Throws Error when the folds are not all of this block.
struct FactorOptions : TuningOptions {
  float learning_rate = 1e-2F;
  RtnRange range = RtnRange::full;
};
TunedFactors tune_factors(const graph::Graph& graph, runtime::ThreadPool& pool, const Block& block,
                          const TuningData& data, const Formats& formats,
                          std::span<const Fold> folds, const FactorOptions& options);

// --- SignRound (Cheng et al., arXiv 2309.05516) ---

struct TunedRounding {
  std::map<graph::ValueId, SolvedMatrix> weights;  // by the value of the weight
  TuningLoss loss;
};

// Roundings and ranges (sign_round.h) of all weights of the block at once, for which it
// computes best: they follow the signs of the gradients, at a rate of (1 - t / iterations) /
// iterations. Taken is the best of the start (RtnRange::full in 4 bits), the last step, and the
// step with the least loss on its own minibatch.
TunedRounding tune_rounding(const graph::Graph& graph, runtime::ThreadPool& pool,
                            const Block& block, const TuningData& data, const Formats& formats,
                            const TuningOptions& options);

}  // namespace nibble::quant
