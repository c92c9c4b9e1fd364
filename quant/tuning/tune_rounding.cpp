// SignRound of a block: see block_tuning.h.
#include <limits>
#include <utility>

#include "quant/solvers/sign_round.h"
#include "quant/tuning/block_tuning.h"
#include "quant/tuning/block_weights.h"

namespace nibble::quant {
namespace {

using Solved = std::map<graph::ValueId, SolvedMatrix>;

class RoundingTuning {
 public:
  RoundingTuning(const graph::Graph& graph, runtime::ThreadPool& pool, const Block& block,
                 const TuningData& data, const Formats& formats, const TuningOptions& options)
      : pool_(pool),
        options_(options),
        weights_(read_tuned_weights(graph, pool, block, formats)),
        objective_(graph, pool, block, data, options.batch_sequences, options.steps),
        current_(current_weights(weights_)),
        gradients_(weight_gradients(weights_)) {
    for (const auto& [node, weight] : weights_) {
      params_[node] = make_sign_round(weight.w, weight.n, weight.k, weight.format, pool);
    }
  }

  TunedRounding run() {
    objective_.expect(3, options_.iterations);
    round();
    TunedRounding found{store(), {}};
    found.loss.before = found.loss.after = objective_.loss_of_all(current_);
    Minibatches batches(objective_.sequences(), options_.batch_sequences, options_.seed);
    Solved best = found.weights;
    double least = std::numeric_limits<double>::infinity();
    for (int step = 0; step < options_.iterations; ++step) {
      clear_gradients(weights_);
      const double loss = objective_.add_gradients(batches.next(), current_, gradients_);
      if (loss < least) {
        least = loss;
        best = store();
      }
      move(step);
      round();
    }
    // A minibatch may flatter: all sequences decide.
    consider(found, store());
    for (auto& [node, weight] : weights_) {
      weight.current = dequantize(best.at(weight.node->input(1)), pool_);
    }
    consider(found, std::move(best));
    return found;
  }

 private:
  void round() {
    for (auto& [node, weight] : weights_) {
      sign_round_forward(weight.w, params_.at(node), weight.current, pool_);
    }
  }

  void move(int step) {
    const auto all = static_cast<float>(options_.iterations);
    const float rate = (1 - static_cast<float>(step) / all) / all;
    for (auto& [node, weight] : weights_) {
      SignRoundParams& params = params_.at(node);
      SignRoundGradients gradients{.v = std::move(weight.gradient),
                                   .alpha = std::vector<float>(params.alpha.size()),
                                   .beta = std::vector<float>(params.beta.size())};
      sign_round_backward(weight.w, params, gradients.v, gradients, pool_);
      sign_round_step(params, gradients, rate, true, pool_);
      weight.gradient = std::move(gradients.v);
    }
  }

  Solved store() const {
    Solved solved;
    for (const auto& [node, weight] : weights_) {
      solved[weight.node->input(1)] = sign_round_matrix(weight.w, params_.at(node), pool_);
    }
    return solved;
  }

  // Takes `solved`, which is what the weights currently are, if it is better.
  void consider(TunedRounding& found, Solved solved) const {
    const double loss = objective_.loss_of_all(current_);
    if (loss >= found.loss.after) return;
    found.loss.after = loss;
    found.weights = std::move(solved);
  }

  runtime::ThreadPool& pool_;
  TuningOptions options_;
  std::map<size_t, TunedWeight> weights_;
  BlockObjective objective_;
  WeightOf current_;
  GradientOf gradients_;
  std::map<size_t, SignRoundParams> params_;  // by node
};

}  // namespace

TunedRounding tune_rounding(const graph::Graph& graph, runtime::ThreadPool& pool,
                            const Block& block, const TuningData& data, const Formats& formats,
                            const TuningOptions& options) {
  return RoundingTuning(graph, pool, block, data, formats, options).run();
}

}  // namespace nibble::quant
