#include "quant/formats/mixed_precision.h"

#include <algorithm>
#include <cmath>
#include <optional>

#include "jit/error.h"

namespace nibble::quant {
namespace {

// A candidate that may be worth taking: nothing smaller has less loss.
struct Option {
  size_t candidate = 0;
  int64_t bytes = 0;
  double loss = 0;
};
using Frontier = std::vector<Option>;  // bytes rise, losses fall

// From one hull point of a weight to the next.
struct HullStep {
  size_t weight = 0, from = 0, to = 0;  // options of its frontier
  int64_t bytes = 0;                    // more of them
  double saved = 0;                     // loss
  double rate() const { return saved / static_cast<double>(bytes); }
};

Frontier frontier_of(const WeightCandidates& weight) {
  Frontier all;
  for (size_t c = 0; c < weight.candidates.size(); ++c) {
    all.push_back({c, weight.candidates[c].bytes, weight.candidates[c].loss});
  }
  std::stable_sort(all.begin(), all.end(), [](const Option& a, const Option& b) {
    return a.bytes != b.bytes ? a.bytes < b.bytes : a.loss < b.loss;
  });
  Frontier kept;
  for (const Option& option : all) {
    if (kept.empty() || option.loss < kept.back().loss) kept.push_back(option);
  }
  return kept;
}

HullStep step_between(const Frontier& frontier, size_t weight, size_t from, size_t to) {
  return {weight, from, to, frontier[to].bytes - frontier[from].bytes,
          frontier[from].loss - frontier[to].loss};
}

// The lower convex hull, whose steps save less and less a byte.
void add_hull(const Frontier& frontier, size_t weight, std::vector<HullStep>& steps) {
  const size_t first = steps.size();
  for (size_t to = 1; to < frontier.size(); ++to) {
    size_t from = to - 1;
    while (steps.size() > first) {
      const HullStep direct = step_between(frontier, weight, from, to);
      if (steps.back().to == from && steps.back().rate() > direct.rate()) break;
      from = steps.back().from;
      steps.pop_back();
    }
    steps.push_back(step_between(frontier, weight, from, to));
  }
}

class Chooser {
 public:
  Chooser(std::span<const WeightCandidates> weights, int64_t budget)
      : weights_(weights), left_(budget) {
    for (const WeightCandidates& weight : weights) {
      frontiers_.push_back(frontier_of(weight));
      left_ -= frontiers_.back()[0].bytes;
    }
    at_.assign(weights.size(), 0);
  }

  // Negative: the smallest candidates are beyond the budget by so many bytes.
  int64_t left() const { return left_; }

  FormatChoice run() {
    FormatChoice choice;
    choice.loss_bound = take_steps();
    while (exchange()) {
    }
    for (size_t w = 0; w < weights_.size(); ++w) {
      const Option& option = frontiers_[w][at_[w]];
      choice.picks.push_back(option.candidate);
      choice.loss += option.loss;
      choice.bytes += option.bytes;
    }
    choice.loss_bound = std::min(choice.loss_bound, choice.loss);  // sums in another order
    return choice;
  }

 private:
  const Option& now(size_t weight) const { return frontiers_[weight][at_[weight]]; }

  double loss() const {
    double sum = 0;
    for (size_t w = 0; w < weights_.size(); ++w) sum += now(w).loss;
    return sum;
  }

  // Takes hull steps by their worth as long as they fit, and gives the relaxation's optimum: that
  // of the steps before the first that does not fit, and the part of it that does.
  double take_steps() {
    std::vector<HullStep> steps;
    for (size_t w = 0; w < weights_.size(); ++w) add_hull(frontiers_[w], w, steps);
    std::stable_sort(steps.begin(), steps.end(),
                     [](const HullStep& a, const HullStep& b) { return a.rate() > b.rate(); });
    std::optional<double> bound;
    for (const HullStep& step : steps) {
      if (step.bytes > left_ && !bound) bound = loss() - step.rate() * static_cast<double>(left_);
      if (step.bytes > left_ || at_[step.weight] != step.from) continue;
      at_[step.weight] = step.to;
      left_ -= step.bytes;
    }
    return bound.value_or(loss());
  }

  struct Move {
    size_t weight = 0, to = 0;
    int64_t bytes = 0;  // more, or fewer when negative
    double saved = 0;
  };

  std::vector<Move> moves() const {
    std::vector<Move> all;
    for (size_t w = 0; w < weights_.size(); ++w) {
      for (size_t to = 0; to < frontiers_[w].size(); ++to) {
        if (to == at_[w]) continue;
        const HullStep step = step_between(frontiers_[w], w, at_[w], to);
        all.push_back({w, to, step.bytes, step.saved});
      }
    }
    return all;
  }

  // Makes the one move or pair of moves that saves the most loss; false when none saves any.
  bool exchange() {
    double best = 1e-12 * std::fabs(loss());  // less is rounding
    Move first, second;
    bool found = false, pair = false;
    const std::vector<Move> all = moves();
    for (const Move& up : all) {
      if (up.bytes < 0) continue;
      if (up.bytes <= left_ && up.saved > best) {
        best = up.saved, first = up, found = true, pair = false;
      }
      for (const Move& other : all) {
        if (other.weight == up.weight || up.bytes + other.bytes > left_) continue;
        if (up.saved + other.saved > best) {
          best = up.saved + other.saved, first = up, second = other, found = pair = true;
        }
      }
    }
    if (found) make(first);
    if (pair) make(second);
    return found;
  }

  void make(const Move& move) {
    at_[move.weight] = move.to;
    left_ -= move.bytes;
  }

  std::span<const WeightCandidates> weights_;
  std::vector<Frontier> frontiers_;
  std::vector<size_t> at_;  // the option of each weight
  int64_t left_;            // bytes
};

int64_t check(std::span<const WeightCandidates> weights) {
  int64_t count = 0;
  for (const WeightCandidates& weight : weights) {
    if (weight.weights < 1 || weight.candidates.empty()) {
      fail(
          "The weight '{}' has {} numbers and {} candidate formats, expected at least one of each.",
          weight.name, weight.weights, weight.candidates.size());
    }
    for (const FormatCandidate& candidate : weight.candidates) {
      if (std::isfinite(candidate.loss) && candidate.bytes > 0) continue;
      fail(
          "A candidate format of the weight '{}' has loss {} and {} bytes, expected finite "
          "numbers.",
          weight.name, candidate.loss, candidate.bytes);
    }
    count += weight.weights;
  }
  return count;
}

}  // namespace

int64_t stored_bytes(const jit::WeightFormat& format, int64_t n, int64_t k) {
  const jit::PackedShape shape = jit::packed_shape(format, n, k);
  return shape.data_bytes + shape.scale_bytes + shape.zero_bytes;
}

FormatChoice choose_mixed(std::span<const WeightCandidates> weights, double average_bits) {
  const auto count = static_cast<double>(check(weights));
  if (!(average_bits > 0 && average_bits <= 64)) {
    fail("The budget is {} bits a weight, expected more than 0 and at most 64.", average_bits);
  }
  const auto budget = static_cast<int64_t>(average_bits * count / 8);
  Chooser chooser(weights, budget);
  if (chooser.left() < 0) {
    fail(
        "The smallest formats together take {:.4f} bits a weight with their scales, but the budget "
        "is {} bits.",
        8 * static_cast<double>(budget - chooser.left()) / count, average_bits);
  }
  FormatChoice choice = chooser.run();
  choice.bits = count > 0 ? 8 * static_cast<double>(choice.bytes) / count : 0;
  return choice;
}

}  // namespace nibble::quant
