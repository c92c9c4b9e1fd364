#include "quant/recipes/mixed_recipe.h"

#include <algorithm>
#include <map>
#include <set>
#include <utility>

#include "graph/ops.h"
#include "jit/error.h"
#include "quant/blocks/block_split.h"
#include "quant/blocks/linear_node.h"
#include "quant/blocks/measure_inputs.h"
#include "quant/blocks/node_forward.h"
#include "quant/solvers/range_search.h"

namespace nibble::quant {
namespace {

using graph::MatrixSource;
using graph::Node;
using graph::ValueId;
using jit::WeightFormat;
using jit::WeightType;

constexpr int64_t kSmallGroup = 32;     // of INT4
constexpr int64_t kLargestWider = 128;  // group of INT6 and INT8: that of the activations too

std::vector<WeightFormat> candidate_formats(const WeightFormat& own) {
  std::vector<WeightFormat> formats{own};
  if (own.type != WeightType::u4) return formats;
  if (own.group == 0 || own.group > kSmallGroup) {
    formats.push_back(own);
    formats.back().group = kSmallGroup;
  }
  for (const WeightType wider : {WeightType::u6, WeightType::u8}) {
    formats.push_back(own);
    formats.back().type = wider;
    if (own.group == 0 || own.group > kLargestWider) formats.back().group = kLargestWider;
  }
  return formats;
}

double sum_of_squares(std::span<const float> values) {
  double sum = 0;
  for (const float value : values) sum += static_cast<double>(value) * value;
  return sum;
}

// A weight as measured, and what its error is still to be multiplied by.
struct Measured {
  WeightCandidates weight;
  size_t node = 0;
};

class Sensitivity {
 public:
  Sensitivity(const graph::Graph& graph, const Recipe& recipe, const Calibration& calibration,
              runtime::ThreadPool& pool, const SensitivityProgress& progress)
      : graph_(graph),
        recipe_(recipe),
        batch_{calibration.sequences, calibration.length, calibration.ids},
        pool_(pool),
        progress_(progress),
        formats_(choose_formats(graph, recipe.formats)),
        forward_(graph, pool) {
    // The last Linear makes the logits.
    std::vector<size_t> linears;
    for (size_t at = 0; at < graph.nodes.size(); ++at) {
      if (graph.nodes[at].is("Linear", graph::kNibbleDomain)) linears.push_back(at);
    }
    if (!linears.empty()) linears.pop_back();
    for (const size_t at : linears) {
      const MatrixSource* matrix = matrix_of(graph.nodes[at]);
      if (matrix == nullptr) continue;
      to_measure_.insert(at);
      total_ += matrix->n * matrix->k;
    }
  }

  std::vector<WeightCandidates> run() {
    const std::vector<Block> blocks = split_blocks(graph_);
    Activations values;
    for (const Block& block : blocks) run_block(block, values);
    for (const Measured& one : measured_) {
      const double share = branch_share(one.node);
      weights_.push_back(one.weight);
      for (FormatCandidate& candidate : weights_.back().candidates) candidate.loss *= share;
    }
    return std::move(weights_);
  }

 private:
  const MatrixSource* matrix_of(const Node& node) const { return graph_.matrix(node.input(1)); }

  bool any_from(size_t node) const { return to_measure_.lower_bound(node) != to_measure_.end(); }

  WeightFormat own_format(const Node& node) const {
    const auto given = recipe_.formats_of.find(graph_.value_name(node.input(1)));
    return given != recipe_.formats_of.end() ? given->second : formats_.at(node.input(1));
  }

  void run_block(const Block& block, Activations& values) {
    const auto dead = last_uses(graph_, block);
    std::map<ValueId, InputStats> stats;
    for (size_t at = block.first_node; at < block.end_node && any_from(at); ++at) {
      const Node& node = graph_.nodes[at];
      const bool measured = to_measure_.count(at) != 0;
      const double square = measured ? measure(at, values, stats) : 0;  // |X W^T|^2
      forward_.run(node, batch_, values);
      if (measured && node.input(3) != graph::kNoValue) {
        const double all = sum_of_squares(values.at(node.outputs[0])->data);
        shares_[at] = all > 0 ? square / all : 0;
      }
      for (const ValueId value : dead[at - block.first_node]) {
        values.erase(value);
        stats.erase(value);
      }
    }
  }

  // Adds the node's weight to measured_ and gives |X W^T|^2.
  double measure(size_t at, const Activations& values, std::map<ValueId, InputStats>& stats) {
    const Node& node = graph_.nodes[at];
    const MatrixSource& matrix = *matrix_of(node);
    if (progress_) progress_(done_, total_);
    done_ += matrix.n * matrix.k;
    const Activation& x = *values.at(node.input(0));
    const auto known = stats.find(node.input(0));
    const InputStats& inputs =
        known != stats.end()
            ? known->second
            : stats.emplace(node.input(0), measure_inputs(x.data, batch_.rows(), x.width, pool_))
                  .first->second;
    std::vector<float> w(static_cast<size_t>(matrix.n * matrix.k));
    read_weight(pool_, graph_, node, 0, matrix.n, w);
    const double square = output_square(w, matrix.n, matrix.k, inputs.gram, pool_);
    Measured one{{.name = graph_.value_name(node.input(1)),
                  .weights = matrix.n * matrix.k,
                  .candidates = {}},
                 at};
    const std::vector<WeightFormat> formats =
        matrix.has_quantized() || recipe_.formats_of.count(one.weight.name) != 0
            ? std::vector{own_format(node)}
            : candidate_formats(own_format(node));
    for (const WeightFormat& format : formats) {
      double error = 0;
      if (formats.size() > 1) {
        const RangeMethod range =
            recipe_.formats.range == RtnRange::full ? RangeMethod::full : RangeMethod::plain;
        const std::vector<float> rounded = dequantize(
            solve_rtn(w, matrix.n, matrix.k, format, {.method = range}, nullptr, pool_), pool_);
        error = output_error_sum(w, rounded, matrix.n, matrix.k, inputs.gram, pool_);
      }
      one.weight.candidates.push_back({.format = format,
                                       .loss = square > 0 ? error / square : 0,
                                       .bytes = stored_bytes(format, matrix.n, matrix.k)});
    }
    measured_.push_back(std::move(one));
    return square;
  }

  // Of the branch that the node at `first` belongs to; 1 where none adds to a residual.
  double branch_share(size_t first) const {
    std::set<ValueId> reached;
    for (size_t at = first; at < graph_.nodes.size(); ++at) {
      const Node& node = graph_.nodes[at];
      // Through its residual a weight is not on the way.
      const auto reads = [&](size_t i) {
        return node.input(i) != graph::kNoValue && reached.count(node.input(i)) != 0;
      };
      bool on_the_way = at == first;
      for (size_t i = 0; i < node.inputs.size() && !on_the_way; ++i) {
        on_the_way = reads(i) && !(i == 3 && node.is("Linear", graph::kNibbleDomain));
      }
      if (!on_the_way) continue;
      if (const auto found = shares_.find(at); found != shares_.end()) return found->second;
      reached.insert(node.outputs.begin(), node.outputs.end());
    }
    return 1;
  }

  const graph::Graph& graph_;
  const Recipe& recipe_;
  Batch batch_;
  runtime::ThreadPool& pool_;
  const SensitivityProgress& progress_;
  std::map<ValueId, WeightFormat> formats_;
  NodeForward forward_;
  std::set<size_t> to_measure_;  // nodes
  std::vector<Measured> measured_;
  std::map<size_t, double> shares_;  // by the node that adds to a residual
  std::vector<WeightCandidates> weights_;
  int64_t done_ = 0, total_ = 0;
};

}  // namespace

std::vector<WeightCandidates> measure_candidates(const graph::Graph& graph, const Recipe& recipe,
                                                 const Calibration& calibration,
                                                 runtime::ThreadPool& pool,
                                                 const SensitivityProgress& progress) {
  return Sensitivity(graph, recipe, calibration, pool, progress).run();
}

MixedRecipe mix_formats(const graph::Graph& graph, const Recipe& recipe,
                        const Calibration& calibration, runtime::ThreadPool& pool,
                        const SensitivityProgress& progress) {
  const std::vector<WeightCandidates> weights =
      measure_candidates(graph, recipe, calibration, pool, progress);
  MixedRecipe result{.recipe = std::nullopt, .least_bits = smallest_bits(weights)};
  if (recipe.bits < result.least_bits) return result;
  const FormatChoice choice = choose_mixed(weights, recipe.bits);
  Recipe mixed = recipe;
  mixed.bits = 0;
  for (size_t w = 0; w < weights.size(); ++w) {
    // The first candidate is what the weight has anyway.
    if (choice.picks[w] == 0) continue;
    mixed.formats_of[weights[w].name] = weights[w].candidates[choice.picks[w]].format;
  }
  if (mixed.formats_of != recipe.formats_of) result.recipe = std::move(mixed);
  return result;
}

}  // namespace nibble::quant
