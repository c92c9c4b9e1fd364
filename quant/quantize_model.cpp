#include "quant/quantize_model.h"

#include <algorithm>
#include <chrono>
#include <memory>
#include <set>
#include <span>
#include <utility>

#include "graph/ops.h"
#include "jit/error.h"
#include "quant/block_split.h"
#include "quant/folds.h"
#include "quant/input_stats.h"
#include "quant/node_forward.h"
#include "quant/scale_search.h"
#include "quant/solve_weight.h"

namespace nibble::quant {
namespace {

using graph::MatrixSource;
using graph::Node;
using graph::ValueId;
using jit::WeightFormat;
using jit::WeightType;

double now() {
  return std::chrono::duration<double>(std::chrono::steady_clock::now().time_since_epoch()).count();
}

class ModelQuantizer {
 public:
  ModelQuantizer(const graph::Graph& graph, const Recipe& recipe, const Calibration& calibration,
                 runtime::ThreadPool& pool, const QuantizeHooks& hooks)
      : graph_(graph),
        recipe_(recipe),
        batch_{calibration.sequences, calibration.length, calibration.ids},
        pool_(pool),
        hooks_(hooks),
        formats_(choose_formats(graph, recipe)),
        forward_(graph_, pool) {
    for (const auto& [id, format] : formats_) total_ += size_of(id);
  }

  QuantizedModel run() {
    const std::vector<Block> blocks = split_blocks(graph_);
    if (recipe_.scaling != Scaling::none) folds_ = find_folds(graph_);
    for (size_t b = 0; b < blocks.size(); ++b) {
      const bool last = b + 1 == blocks.size();
      std::optional<BlockOutcome> known = hooks_.store ? hooks_.store->load(b) : std::nullopt;
      if (known) {
        adopt(*known);
        if (recipe_.calibrates() && !last) forward_.run(blocks[b], batch_, activations_);
      } else {
        outcome_ = {};
        quantize_block(blocks[b], last);
        if (hooks_.store) hooks_.store->save(b, outcome_);
        known = std::move(outcome_);
      }
      outcomes_.insert(outcomes_.end(), known->outcomes.begin(), known->outcomes.end());
    }
    report("");
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

  MatrixSource* source(ValueId id) {
    if (id < 0) return nullptr;
    auto& constant = graph_.values[static_cast<size_t>(id)].constant;
    return constant ? std::get_if<MatrixSource>(&*constant) : nullptr;
  }
  int64_t size_of(ValueId id) {
    const MatrixSource* matrix = source(id);
    return matrix != nullptr ? matrix->n * matrix->k : 0;
  }
  void report(const std::string& weight) const {
    if (hooks_.progress) hooks_.progress(done_, total_, weight);
  }

  // Whether the recipe chooses the numbers of this weight, rather than rounding each to nearest.
  bool calibrated(ValueId id) {
    const MatrixSource* matrix = source(id);
    return recipe_.calibrates() && matrix != nullptr && !matrix->has_quantized() &&
           formats_.at(id).type == WeightType::u4;
  }

  void adopt(const BlockOutcome& known) {
    for (const auto& [fold, factors] : known.factors) apply_fold(graph_, folds_.at(fold), factors);
    for (const auto& [id, packed] : known.weights) set_packed(id, packed);
  }

  void set_packed(ValueId id, runtime::PackedMatrix packed) {
    done_ += size_of(id);
    // Places that share the numbers share what is made of them.
    const MatrixSource before = *source(id);
    for (const auto& [other, format] : formats_) {
      const MatrixSource* twin = other == id ? nullptr : source(other);
      if (twin == nullptr || format != packed.view.format || !same_source(*twin, before)) continue;
      done_ += size_of(other);
      graph_.values[static_cast<size_t>(other)].constant = packed;
    }
    graph_.values[static_cast<size_t>(id)].constant = std::move(packed);
  }

  void quantize_block(const Block& block, bool last) {
    if (recipe_.scaling != Scaling::none) scale_block(block);
    const auto dead = last_uses(graph_, block);
    size_t end = block.end_node;
    if (last) end = after_last_weight(block);  // the logits themselves are of no use
    for (size_t at = block.first_node; at < end; ++at) {
      const Node& node = graph_.nodes[at];
      const ValueId id = node.inputs.size() > 1 ? node.input(1) : graph::kNoValue;
      if (formats_.count(id) != 0 && source(id) != nullptr) quantize_weight(block, node, id);
      if (!recipe_.calibrates() || (last && at + 1 == end)) continue;
      forward_.run(node, batch_, activations_);
      for (const ValueId value : dead[at - block.first_node]) {
        activations_.erase(value);
        stats_.erase(value);
      }
    }
    stats_.clear();
  }

  size_t after_last_weight(const Block& block) {
    size_t end = block.first_node;
    for (size_t at = block.first_node; at < block.end_node; ++at) {
      const Node& node = graph_.nodes[at];
      if (node.inputs.size() > 1 && source(node.input(1)) != nullptr) end = at + 1;
    }
    return end;
  }

  void quantize_weight(const Block& block, const Node& node, ValueId id) {
    const std::string name = graph_.value_name(id);
    report(name);
    const double start = now();
    const WeightFormat& format = formats_.at(id);
    runtime::PackedMatrix packed;
    if (!calibrated(id) || !node.is("Linear", graph::kNibbleDomain)) {
      packed = quantize_matrix(*source(id), format, recipe_.formats.range, name, pool_);
    } else {
      const InputStats& stats = stats_of(node.input(0));
      const WeightProblem problem{.name = name,
                                  .w = read_matrix(*source(id), name, pool_),
                                  .n = source(id)->n,
                                  .k = source(id)->k,
                                  .format = format,
                                  .inputs = stats};
      const WeightSolution solution = solve_weight(recipe_, problem, pool_);
      packed = pack(solution.matrix, pool_);
      outcome_.outcomes.push_back({.name = name,
                                   .layer = block.layer,
                                   .format = format,
                                   .error = solution.error,
                                   .nearest_error = solution.nearest_error,
                                   .seconds = now() - start});
    }
    outcome_.weights.emplace(id, packed);
    set_packed(id, std::move(packed));
  }

  const InputStats& stats_of(ValueId value) {
    const auto found = stats_.find(value);
    if (found != stats_.end()) return found->second;
    const Activation& x = *activations_.at(value);
    return stats_.emplace(value, measure_inputs(x.data, batch_.rows(), x.width, pool_))
        .first->second;
  }

  // Finds the factors of the block's folds and applies them; the activations stay what they were.
  void scale_block(const Block& block) {
    const auto inside = [&](const Fold& fold) {
      const auto within = [&](size_t node) {
        return node >= block.first_node && node < block.end_node;
      };
      return within(fold.node) && std::all_of(fold.consumers.begin(), fold.consumers.end(), within);
    };
    std::map<size_t, std::vector<size_t>> starting;  // folds by their first consumer
    size_t last = block.first_node;
    for (size_t f = 0; f < folds_.size(); ++f) {
      if (!inside(folds_[f]) || !worth_scaling(folds_[f])) continue;
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
      forward_.run(graph_.nodes[at], batch_, values);
      for (const ValueId value : dead[at - block.first_node]) values.erase(value);
    }
    for (const auto& [fold, factors] : outcome_.factors) apply_fold(graph_, folds_[fold], factors);
  }

  bool worth_scaling(const Fold& fold) {
    return std::any_of(fold.consumers.begin(), fold.consumers.end(),
                       [&](size_t node) { return calibrated(graph_.nodes[node].input(1)); });
  }

  void find_factors(size_t f, const Activations& values) {
    const Fold& fold = folds_[f];
    report(fold.name);
    const Activation& x = *values.at(graph_.nodes[fold.consumers[0]].input(0));
    const InputStats stats = measure_inputs(x.data, batch_.rows(), x.width, pool_);
    std::vector<WeightProblem> problems;
    for (const size_t consumer : fold.consumers) {
      const ValueId id = graph_.nodes[consumer].input(1);
      if (!calibrated(id)) continue;
      const std::string name = graph_.value_name(id);
      problems.push_back({.name = name,
                          .w = read_matrix(*source(id), name, pool_),
                          .n = source(id)->n,
                          .k = source(id)->k,
                          .format = formats_.at(id),
                          .inputs = stats});
    }
    outcome_.factors[f] = search_factors(problems, fold.tied, fold.factors(), pool_);
  }

  graph::Graph graph_;
  const Recipe& recipe_;
  Batch batch_;
  runtime::ThreadPool& pool_;
  const QuantizeHooks& hooks_;
  std::map<ValueId, WeightFormat> formats_;
  NodeForward forward_;
  std::vector<Fold> folds_;
  Activations activations_;  // alive behind what is quantized so far
  std::map<ValueId, InputStats> stats_;
  BlockOutcome outcome_;  // of the block at hand
  std::vector<WeightOutcome> outcomes_;
  int64_t done_ = 0, total_ = 0;
};

}  // namespace

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
