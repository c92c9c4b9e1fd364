// Trainable equivalent transformation: see block_tuning.h.
#include <algorithm>
#include <cmath>
#include <limits>

#include "jit/error.h"
#include "quant/products/parallel_rows.h"
#include "quant/products/sizes.h"
#include "quant/solvers/fake_quantize.h"
#include "quant/tuning/block_tuning.h"
#include "quant/tuning/block_weights.h"

namespace nibble::quant {
namespace {

constexpr float kFloor = 1e-5F;  // of a factor
constexpr float kBeta = 0.9F;    // both of Adam's
constexpr float kWarmUp = 0.05F;

using Factors = std::vector<std::vector<float>>;  // by fold

class FactorTuning {
 public:
  FactorTuning(const graph::Graph& graph, runtime::ThreadPool& pool, const Block& block,
               const TuningData& data, const Formats& formats, std::span<const Fold> folds,
               const FactorOptions& options)
      : graph_(graph),
        pool_(pool),
        block_(block),
        folds_(folds),
        options_(options),
        weights_(read_tuned_weights(graph, pool, block, formats)),
        objective_(graph, pool, block, data, options.batch_sequences, options.steps),
        current_(current_weights(weights_)),
        gradients_(weight_gradients(weights_)) {
    for (const Fold& fold : folds) {
      check(fold);
      for (auto* values : {&factors_, &first_moment_, &second_moment_, &derivative_}) {
        values->emplace_back(at(fold.factors()), values == &factors_ ? 1.0F : 0.0F);
      }
    }
  }

  TunedFactors run() {
    objective_.expect(3, options_.iterations);
    for (auto& [node, weight] : weights_) quantize(weight, nullptr, nullptr);
    Factors best = factors_;
    double least = objective_.loss_of_all(current_);
    const TuningLoss begin{least, least};
    Minibatches batches(objective_.sequences(), options_.batch_sequences, options_.seed);
    Factors best_of_steps = factors_;
    double least_of_steps = std::numeric_limits<double>::infinity();
    for (int step = 0; step < options_.iterations; ++step) {
      clear_gradients(weights_);
      const double loss = objective_.add_gradients(batches.next(), current_, gradients_);
      if (loss < least_of_steps) {
        least_of_steps = loss;
        best_of_steps = factors_;
      }
      differentiate();
      move(step);
      quantize_folds();
    }
    // A minibatch may flatter: all sequences decide.
    const auto consider = [&] {
      const double loss = objective_.loss_of_all(current_);
      if (loss >= least) return;
      least = loss;
      best = factors_;
    };
    consider();
    factors_ = best_of_steps;
    quantize_folds();
    consider();
    return {best, {begin.before, least}};
  }

 private:
  void check(const Fold& fold) const {
    const auto inside = [&](size_t node) {
      return node >= block_.first_node && node < block_.end_node;
    };
    if (!inside(fold.node) || !std::all_of(fold.consumers.begin(), fold.consumers.end(), inside)) {
      fail("{}: the fold '{}' is not one of layer {}, whose nodes are {} to {}.", graph_.origin,
           fold.name, block_.layer, block_.first_node, block_.end_node);
    }
    const auto in_range = [&](int32_t f) { return f >= 0 && f < fold.factors(); };
    for (const size_t node : fold.consumers) {
      const auto known = weights_.find(node);
      if (known == weights_.end()) continue;  // not quantized: scaling it changes nothing
      if (std::ssize(fold.tied) == known->second.k &&
          std::all_of(fold.tied.begin(), fold.tied.end(), in_range)) {
        continue;
      }
      fail("{}: the fold '{}' of {} channels and {} factors does not fit the {} channels of '{}'.",
           graph_.origin, fold.name, fold.tied.size(), fold.factors(), known->second.k,
           known->second.node->name);
    }
  }

  // current = Q(w a) / a; without a fold a is 1.
  void quantize(TunedWeight& weight, const Fold* fold, const std::vector<float>* a) {
    for_each_row(pool_, weight.n, [&](int64_t r, int) {
      const std::span<const float> w(weight.w.data() + r * weight.k, at(weight.k));
      const std::span<float> out(weight.current.data() + r * weight.k, at(weight.k));
      if (fold == nullptr) return fake_quantize_row(w, weight.format, options_.range, out);
      std::vector<float> scaled(w.begin(), w.end());
      for (size_t c = 0; c < w.size(); ++c) scaled[c] *= (*a)[at(fold->tied[c])];
      fake_quantize_row(scaled, weight.format, options_.range, out);
      for (size_t c = 0; c < w.size(); ++c) out[c] /= (*a)[at(fold->tied[c])];
    });
  }

  template <typename Visit>
  void for_each_consumer(const Visit& visit) {
    for (size_t g = 0; g < folds_.size(); ++g) {
      for (const size_t node : folds_[g].consumers) {
        const auto known = weights_.find(node);
        if (known != weights_.end()) visit(g, known->second);
      }
    }
  }

  void quantize_folds() {
    for_each_consumer(
        [&](size_t g, TunedWeight& weight) { quantize(weight, &folds_[g], &factors_[g]); });
  }

  // derivative_ = d loss / d a, by w' = Q(u) / a and u = w a:
  //   d w' / d a = (dQ/du w - w') / a, summed over the channels and rows that share a factor.
  void differentiate() {
    for (auto& d : derivative_) std::fill(d.begin(), d.end(), 0.0F);
    for_each_consumer([&](size_t g, const TunedWeight& weight) {
      const std::vector<int32_t>& tied = folds_[g].tied;
      const std::vector<float>& a = factors_[g];
      // Rows in chunks of fixed size, whose sums are added in order.
      const int64_t chunk_rows = 64, chunks = (weight.n + chunk_rows - 1) / chunk_rows;
      std::vector<float> sums(at(chunks * weight.k), 0.0F);
      for_each_row(pool_, chunks, [&](int64_t chunk, int) {
        std::vector<float> scaled(at(weight.k)), dq(scaled.size()), du(scaled.size());
        float* sum = sums.data() + chunk * weight.k;
        const int64_t end = std::min(weight.n, (chunk + 1) * chunk_rows);
        for (int64_t r = chunk * chunk_rows; r < end; ++r) {
          const float* w = weight.w.data() + r * weight.k;
          const float* current = weight.current.data() + r * weight.k;
          const float* dw = weight.gradient.data() + r * weight.k;
          for (size_t c = 0; c < scaled.size(); ++c) {
            scaled[c] = w[c] * a[at(tied[c])];
            dq[c] = dw[c] / a[at(tied[c])];
          }
          fake_quantize_row_gradient(scaled, weight.format, options_.range, dq, du);
          for (size_t c = 0; c < scaled.size(); ++c) sum[c] += du[c] * w[c] - dq[c] * current[c];
        }
      });
      for (int64_t i = 0; i < chunks; ++i) {
        for (size_t c = 0; c < tied.size(); ++c) {
          derivative_[g][at(tied[c])] += sums[at(i * weight.k) + c];
        }
      }
    });
  }

  // A step of Adam.
  void move(int step) {
    const auto all = static_cast<float>(options_.iterations);
    const float warm = std::max(1.0F, kWarmUp * all), t = static_cast<float>(step + 1);
    const float rate =
        options_.learning_rate * (t <= warm ? t / warm : (all - t + 1) / (all - warm + 1));
    const float bias = 1 - std::pow(kBeta, t);
    for (size_t g = 0; g < factors_.size(); ++g) {
      for (size_t i = 0; i < factors_[g].size(); ++i) {
        const float d = derivative_[g][i];
        float& m = first_moment_[g][i];
        float& v = second_moment_[g][i];
        m = kBeta * m + (1 - kBeta) * d;
        v = kBeta * v + (1 - kBeta) * d * d;
        const float update = m / bias / (std::sqrt(v / bias) + 1e-12F);
        factors_[g][i] = std::max(kFloor, factors_[g][i] - rate * update);
      }
    }
  }

  const graph::Graph& graph_;
  runtime::ThreadPool& pool_;
  const Block& block_;
  std::span<const Fold> folds_;
  FactorOptions options_;
  std::map<size_t, TunedWeight> weights_;
  BlockObjective objective_;
  WeightOf current_;
  GradientOf gradients_;
  Factors factors_, first_moment_, second_moment_, derivative_;
};

}  // namespace

TunedFactors tune_factors(const graph::Graph& graph, runtime::ThreadPool& pool, const Block& block,
                          const TuningData& data, const Formats& formats,
                          std::span<const Fold> folds, const FactorOptions& options) {
  return FactorTuning(graph, pool, block, data, formats, folds, options).run();
}

}  // namespace nibble::quant
