#include "quant/recipes/quantize_model.h"

#include <algorithm>
#include <memory>
#include <set>
#include <span>
#include <utility>

#include "graph/ops.h"
#include "jit/error.h"
#include "quant/blocks/block_split.h"
#include "quant/blocks/linear_node.h"
#include "quant/blocks/measure_inputs.h"
#include "quant/blocks/node_forward.h"
#include "quant/folds/folds.h"
#include "quant/recipes/solve_weight.h"
#include "quant/recipes/work.h"
#include "quant/solvers/awq.h"
#include "quant/tuning/block_tuning.h"
#include "runtime/clock.h"

namespace nibble::quant {
namespace {

using graph::MatrixSource;
using graph::Node;
using graph::ValueId;
using jit::WeightFormat;
using jit::WeightType;

class ModelQuantizer {
 public:
  ModelQuantizer(const graph::Graph& graph, const Recipe& recipe, const Calibration& calibration,
                 runtime::ThreadPool& pool, const QuantizeHooks& hooks)
      : original_(graph),
        graph_(graph),
        recipe_(recipe),
        batch_{calibration.sequences, calibration.length, calibration.ids},
        pool_(pool),
        hooks_(hooks),
        formats_(choose_formats(graph, recipe)),
        forward_(graph_, pool),
        float_forward_(original_, pool),
        work_(hooks.progress) {
    for (const auto& [id, format] : formats_) {
      const MatrixSource* matrix = source(id);
      if (matrix == nullptr) continue;
      const WeightCost cost =
          weight_cost(recipe, matrix->n, matrix->k, batch_.rows(), calibrated(id));
      work_.expect(cost.all(recipe), matrix->n * matrix->k);
      costs_.emplace(id, cost);
    }
  }

  QuantizedModel run() {
    const std::vector<Block> blocks = split_blocks(graph_);
    if (recipe_.scaling != Scaling::none) folds_ = find_folds(graph_);
    for (size_t b = 0; b < blocks.size(); ++b) {
      const bool last = b + 1 == blocks.size();
      std::optional<BlockOutcome> known = hooks_.store ? hooks_.store->load(b) : std::nullopt;
      if (known) {
        adopt(blocks[b], *known);
      } else {
        // Blocks that were known are run only where a later one is not.
        for (; recipe_.calibrates() && reached_ < b; ++reached_) {
          run_again(blocks[reached_]);
        }
        outcome_ = {};
        quantize_block(blocks[b], last);
        reached_ = b + 1;
        if (hooks_.store) hooks_.store->save(b, outcome_);
        known = std::move(outcome_);
      }
      outcomes_.insert(outcomes_.end(), known->outcomes.begin(), known->outcomes.end());
    }
    work_.end();
    return {std::move(graph_), std::move(outcomes_)};
  }

 private:
  static std::map<ValueId, WeightFormat> choose_formats(const graph::Graph& graph,
                                                        const Recipe& recipe) {
    auto formats = quant::choose_formats(graph, recipe.formats);
    std::set<std::string> unknown;
    for (const auto& [name, format] : recipe.formats_of) unknown.insert(name);
    for (auto& [id, format] : formats) {
      const auto own = recipe.formats_of.find(graph.value_name(id));
      if (own == recipe.formats_of.end()) continue;
      unknown.erase(own->first);
      format = own->second;
    }
    if (!unknown.empty()) {
      fail("{}: the recipe gives a format to the weight '{}', which is none of this model's.",
           graph.origin, *unknown.begin());
    }
    return formats;
  }

  const MatrixSource* source(ValueId id) const { return graph_.matrix(id); }
  // The sum of what `part` says of the costs of the block's weights.
  template <typename Part>
  double cost_of(const Block& block, const Part& part) const {
    double sum = 0;
    for (size_t at = block.first_node; at < block.end_node; ++at) {
      const Node& node = graph_.nodes[at];
      const auto known = costs_.find(node.inputs.size() > 1 ? node.input(1) : graph::kNoValue);
      if (known != costs_.end()) sum += part(known->second);
    }
    return sum;
  }
  std::vector<float> read_matrix(const Node& node, const MatrixSource& matrix) {
    std::vector<float> w(static_cast<size_t>(matrix.n * matrix.k));
    read_weight(pool_, graph_, node, 0, matrix.n, w);
    matrix.release();
    return w;
  }

  // Whether what a block computes in fp32 is looked at.
  bool trains() const { return trainings(recipe_) > 0; }

  // Whether the recipe chooses the numbers of this weight, rather than rounding each to nearest.
  bool calibrated(ValueId id) const {
    const MatrixSource* matrix = source(id);
    return recipe_.calibrates() && matrix != nullptr && !matrix->has_quantized() &&
           formats_.at(id).type == WeightType::u4;
  }

  void adopt(const Block& block, const BlockOutcome& known) {
    // Its outputs are to be computed again.
    work_.finish(
        cost_of(block, [&](const WeightCost& c) { return c.all(recipe_) - c.forward - c.target; }));
    for (const auto& [fold, factors] : known.factors) apply_fold(graph_, folds_.at(fold), factors);
    for (const auto& [id, packed] : known.weights) set_packed(id, packed);
  }

  // What comes out of a block that was finished before.
  void run_again(const Block& block) {
    work_.begin(fmt::format("layer {} again", block.layer));
    const double forward = cost_of(block, [](const WeightCost& c) { return c.forward; });
    forward_.run(block, batch_, activations_, {}, Keep::outputs, work_.steps(forward));
    work_.finish(forward);
    if (trains()) run_target(block);
  }

  void run_target(const Block& block) {
    const double target = cost_of(block, [](const WeightCost& c) { return c.target; });
    float_forward_.run(block, batch_, floats_, {}, Keep::outputs, work_.steps(target));
    work_.finish(target);
  }

  void set_packed(ValueId id, runtime::PackedMatrix packed) {
    // Places that share the numbers share what is made of them.
    const MatrixSource before = *source(id);
    for (const auto& [other, format] : formats_) {
      const MatrixSource* twin = other == id ? nullptr : source(other);
      if (twin == nullptr || format != packed.view.format) continue;
      if (!graph::same_source(*twin, before)) continue;
      graph_.values[static_cast<size_t>(other)].constant = packed;
    }
    graph_.values[static_cast<size_t>(id)].constant = std::move(packed);
  }

  void quantize_block(const Block& block, bool last) {
    const double expected =
        work_.done() + cost_of(block, [&](const WeightCost& c) { return c.all(recipe_); });
    if (recipe_.scaling == Scaling::awq) scale_block(block);
    std::map<ValueId, SolvedMatrix> tuned;
    if (trains() && !last) {  // nothing is known of what the tail should give
      work_.begin(fmt::format("layer {} in fp32", block.layer));
      run_target(block);
      const TuningData data{batch_.sequences, batch_.length, activations_, floats_};
      if (recipe_.scaling == Scaling::teq) train_factors(block, data);
      if (recipe_.rounding == Rounding::sign_round_blocks) tuned = tune(block, data);
    }
    const auto dead = last_uses(graph_, block);
    size_t end = block.end_node;
    if (last) end = after_last_weight(block);  // the logits themselves are of no use
    for (size_t at = block.first_node; at < end; ++at) {
      const Node& node = graph_.nodes[at];
      const ValueId id = node.inputs.size() > 1 ? node.input(1) : graph::kNoValue;
      if (formats_.count(id) != 0 && source(id) != nullptr) quantize_weight(block, node, id, tuned);
      if (!recipe_.calibrates() || (last && at + 1 == end)) continue;
      forward(node, activations_);
      for (const ValueId value : dead[at - block.first_node]) {
        activations_.erase(value);
        stats_.erase(value);
      }
    }
    stats_.clear();
    work_.reach(expected);
  }

  void forward(const Node& node, Activations& values) {
    const auto known = costs_.find(node.inputs.size() > 1 ? node.input(1) : graph::kNoValue);
    const double cost = known != costs_.end() ? known->second.forward : 0;
    forward_.run(node, batch_, values, {}, work_.steps(cost));
    work_.finish(cost);
  }

  size_t after_last_weight(const Block& block) {
    size_t end = block.first_node;
    for (size_t at = block.first_node; at < block.end_node; ++at) {
      const Node& node = graph_.nodes[at];
      if (node.inputs.size() > 1 && source(node.input(1)) != nullptr) end = at + 1;
    }
    return end;
  }

  void quantize_weight(const Block& block, const Node& node, ValueId id,
                       const std::map<ValueId, SolvedMatrix>& tuned) {
    const std::string name = graph_.value_name(id);
    work_.begin(name);
    const double start = runtime::seconds_now();
    const WeightFormat& format = formats_.at(id);
    const WeightCost& cost = costs_.at(id);
    runtime::PackedMatrix packed;
    if (!calibrated(id) || !node.is("Linear", graph::kNibbleDomain)) {
      packed = quantize_matrix(*source(id), format, recipe_.formats.range, name, pool_);
      work_.finish(cost.inputs + cost.solve + cost.errors);
    } else {
      const InputStats& stats = stats_of(node.input(0), work_.steps(cost.inputs));
      work_.finish(cost.inputs);
      const std::vector<float> w = read_matrix(node, *source(id));
      const WeightProblem problem{
          .w = w, .n = source(id)->n, .k = source(id)->k, .format = format, .inputs = stats};
      const auto by_block = tuned.find(id);
      const SolvedMatrix solved =
          by_block != tuned.end() ? by_block->second
                                  : solve_weight(rule(), problem, pool_, work_.steps(cost.solve));
      work_.finish(cost.solve);
      packed = pack(solved, pool_);
      const WeightErrors errors =
          weight_errors(problem, solved, recipe_.formats.range, pool_, work_.steps(cost.errors));
      work_.finish(cost.errors);
      outcome_.outcomes.push_back({.name = name,
                                   .layer = block.layer,
                                   .error = errors.error,
                                   .nearest_error = errors.nearest,
                                   .seconds = runtime::seconds_now() - start});
    }
    outcome_.weights.emplace(id, packed);
    set_packed(id, std::move(packed));
  }

  // The recipe for a weight that no tuning of its block has chosen, such as that of the tail.
  Recipe rule() const {
    Recipe rule = recipe_;
    if (rule.rounding == Rounding::sign_round_blocks) rule.rounding = Rounding::sign_round;
    return rule;
  }

  const InputStats& stats_of(ValueId value, const Steps& steps) {
    const auto found = stats_.find(value);
    if (found != stats_.end()) return found->second;
    const Activation& x = *activations_.at(value);
    return stats_.emplace(value, measure_inputs(x.data, batch_.rows(), x.width, pool_, steps))
        .first->second;
  }

  // Finds the factors of the block's folds and applies them; the activations stay what they were.
  void scale_block(const Block& block) {
    std::map<size_t, std::vector<size_t>> starting;  // folds by their first consumer
    size_t last = block.first_node;
    for (const size_t f : folds_of(block)) {
      const size_t first =
          *std::min_element(folds_[f].consumers.begin(), folds_[f].consumers.end());
      starting[first].push_back(f);
      last = std::max(last, first);
    }
    if (starting.empty()) return;
    Activations values = activations_;
    const auto dead = last_uses(graph_, block);
    for (size_t at = block.first_node; at <= last; ++at) {
      for (const size_t f : starting[at]) find_factors(f, values);
      if (at == last) break;
      forward(graph_.nodes[at], values);
      for (const ValueId value : dead[at - block.first_node]) values.erase(value);
    }
    for (const auto& [fold, factors] : outcome_.factors) apply_fold(graph_, folds_[fold], factors);
  }

  Formats tuned_formats(const Block& block) {
    Formats formats;
    for (size_t at = block.first_node; at < block.end_node; ++at) {
      const Node& node = graph_.nodes[at];
      if (!node.is("Linear", graph::kNibbleDomain) || !calibrated(node.input(1))) continue;
      formats.emplace(node.input(1), formats_.at(node.input(1)));
    }
    return formats;
  }

  // What a fold has to do with the block: all of its nodes lie in it, and some are calibrated.
  std::vector<size_t> folds_of(const Block& block) {
    const auto within = [&](size_t node) {
      return node >= block.first_node && node < block.end_node;
    };
    std::vector<size_t> found;
    for (size_t f = 0; f < folds_.size(); ++f) {
      const Fold& fold = folds_[f];
      const bool inside =
          within(fold.node) && std::all_of(fold.consumers.begin(), fold.consumers.end(), within);
      if (inside && worth_scaling(fold)) found.push_back(f);
    }
    return found;
  }

  void train_factors(const Block& block, const TuningData& data) {
    const std::vector<size_t> folds = folds_of(block);
    if (folds.empty()) return;
    work_.begin(fmt::format("factors of layer {}", block.layer));
    const double cost = cost_of(block, [](const WeightCost& c) { return c.train; });
    std::vector<Fold> inside;
    for (const size_t f : folds) inside.push_back(folds_[f]);
    FactorOptions options;
    options.iterations = recipe_.iterations;
    options.seed = recipe_.seed;
    options.steps = work_.steps(cost);
    options.range = recipe_.formats.range;
    TunedFactors found =
        tune_factors(graph_, pool_, block, data, tuned_formats(block), inside, options);
    work_.finish(cost);
    for (size_t i = 0; i < folds.size(); ++i) {
      outcome_.factors[folds[i]] = std::move(found.factors[i]);
      apply_fold(graph_, folds_[folds[i]], outcome_.factors[folds[i]]);
    }
  }

  std::map<ValueId, SolvedMatrix> tune(const Block& block, const TuningData& data) {
    const Formats formats = tuned_formats(block);
    if (formats.empty()) return {};
    work_.begin(fmt::format("roundings of layer {}", block.layer));
    const double cost = cost_of(block, [](const WeightCost& c) { return c.train; });
    TuningOptions options;
    options.iterations = recipe_.iterations;
    options.seed = recipe_.seed;
    options.steps = work_.steps(cost);
    TunedRounding found = tune_rounding(graph_, pool_, block, data, formats, options);
    work_.finish(cost);
    return std::move(found.weights);
  }

  bool worth_scaling(const Fold& fold) {
    return std::any_of(fold.consumers.begin(), fold.consumers.end(),
                       [&](size_t node) { return calibrated(graph_.nodes[node].input(1)); });
  }

  void find_factors(size_t f, const Activations& values) {
    const Fold& fold = folds_[f];
    work_.begin(fold.name);
    WeightCost cost;
    for (const size_t consumer : fold.consumers) {
      const WeightCost& c = costs_.at(graph_.nodes[consumer].input(1));
      cost.inputs += c.inputs;
      cost.scale += std::max(0.0, c.scale - c.inputs - c.forward);
    }
    const Activation& x = *values.at(graph_.nodes[fold.consumers[0]].input(0));
    const InputStats stats =
        measure_inputs(x.data, batch_.rows(), x.width, pool_, work_.steps(cost.inputs));
    work_.finish(cost.inputs);
    std::vector<std::vector<float>> weights;
    std::vector<AwqSharer> sharers;
    for (const size_t consumer : fold.consumers) {
      const Node& node = graph_.nodes[consumer];
      if (!calibrated(node.input(1))) continue;
      const MatrixSource& matrix = *source(node.input(1));
      weights.push_back(read_matrix(node, matrix));
      sharers.push_back({.w = {}, .n = matrix.n, .format = formats_.at(node.input(1))});
    }
    for (size_t i = 0; i < sharers.size(); ++i) sharers[i].w = weights[i];
    std::vector<int64_t> tied;
    if (fold.shares_factors()) tied.assign(fold.tied.begin(), fold.tied.end());
    AwqOptions options;
    options.told = work_.steps(cost.scale);
    const AwqScales found = search_awq_scales(sharers, stats, tied, options, pool_);
    work_.finish(cost.scale);
    if (found.identity) return;
    std::vector<float>& factors = outcome_.factors[f];
    factors.resize(static_cast<size_t>(fold.factors()));
    for (size_t c = 0; c < found.scales.size(); ++c) {
      factors[static_cast<size_t>(fold.tied[c])] = found.scales[c];
    }
  }

  const graph::Graph& original_;
  graph::Graph graph_;
  const Recipe& recipe_;
  Batch batch_;
  runtime::ThreadPool& pool_;
  const QuantizeHooks& hooks_;
  std::map<ValueId, WeightFormat> formats_;
  NodeForward forward_, float_forward_;
  std::vector<Fold> folds_;
  Activations activations_;  // alive behind what is quantized so far
  Activations floats_;       // the same without any quantizing, where trains()
  std::map<ValueId, InputStats> stats_;
  BlockOutcome outcome_;  // of the block at hand
  std::vector<WeightOutcome> outcomes_;
  std::map<ValueId, WeightCost> costs_;
  Work work_;
  size_t reached_ = 0;  // the block that activations_ are the inputs of
};

}  // namespace

double bits_per_weight(const graph::Graph& packed) {
  int64_t bits = 0, weights = 0;
  // The last Linear makes the logits.
  const Node* head = nullptr;
  for (const Node& node : packed.nodes) {
    if (node.is("Linear", graph::kNibbleDomain)) head = &node;
  }
  for (const Node& node : packed.nodes) {
    if (!node.is("Linear", graph::kNibbleDomain) || &node == head) continue;
    const auto& constant = packed.values[static_cast<size_t>(node.input(1))].constant;
    const auto* matrix = constant ? std::get_if<runtime::PackedMatrix>(&*constant) : nullptr;
    if (matrix == nullptr) continue;
    bits += runtime::stored_bytes(matrix->view) * 8;
    weights += matrix->view.n * matrix->view.k;
  }
  return weights > 0 ? static_cast<double>(bits) / static_cast<double>(weights) : 0;
}

QuantizedModel quantize_model(const graph::Graph& graph, const Recipe& recipe,
                              const Calibration& calibration, runtime::ThreadPool& pool,
                              const QuantizeHooks& hooks) {
  const auto ids = static_cast<int64_t>(calibration.ids.size());
  if (recipe.calibrates() && (ids == 0 || ids != calibration.sequences * calibration.length)) {
    fail("The method {} calibrates on {} sequences of {} ids, expected at least one id, found {}.",
         method_name(recipe), calibration.sequences, calibration.length, ids);
  }
  return ModelQuantizer(graph, recipe, calibration, pool, hooks).run();
}

}  // namespace nibble::quant
