#include "quant/tuning/block_objective.h"

#include <algorithm>
#include <numeric>
#include <utility>

#include "jit/error.h"
#include "quant/products/sizes.h"

namespace nibble::quant {
namespace {

using graph::ValueId;

// body(row) of every row, added up in the order of the rows.
template <typename Body>
double sum_rows(runtime::ThreadPool& pool, int64_t rows, const Body& body) {
  std::vector<double> sums(at(rows));
  pool.parallel_for(rows, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) sums[at(r)] = body(r);
  });
  return std::accumulate(sums.begin(), sums.end(), 0.0);
}

}  // namespace

BlockObjective::BlockObjective(const graph::Graph& graph, runtime::ThreadPool& pool,
                               const Block& block, TuningData data, int64_t batch_sequences,
                               Steps steps)
    : graph_(graph),
      pool_(pool),
      block_(block),
      data_(std::move(data)),
      batch_sequences_(std::max<int64_t>(1, batch_sequences)),
      steps_(std::move(steps)) {
  const int64_t rows = data_.sequences * data_.length;
  if (rows < 1) fail("{}: there are no tokens to tune layer {} on.", graph.origin, block.layer);
  const auto check = [&](const std::vector<ValueId>& ids, const Activations& values) {
    for (const ValueId id : ids) {
      const auto known = values.find(id);
      if (known != values.end() && known->second != nullptr &&
          known->second->data.size() == at(rows * known->second->width)) {
        continue;
      }
      fail("{}: tuning layer {} needs {} rows of '{}', which are not there.", graph.origin,
           block.layer, rows, graph.value_name(id));
    }
  };
  check(block.inputs, data_.inputs);
  check(block.outputs, data_.targets);
  double squares = 0;
  for (const ValueId id : block.outputs) {
    const Activation& y = *data_.targets.at(id);
    squares += sum_rows(pool, rows, [&](int64_t r) {
      double sum = 0;
      for (int64_t i = r * y.width; i < (r + 1) * y.width; ++i) {
        sum += static_cast<double>(y.data[at(i)]) * y.data[at(i)];
      }
      return sum;
    });
  }
  target_squares_ = squares > 0 ? squares / static_cast<double>(data_.sequences) : 1;
}

void BlockObjective::expect(int64_t losses_of_all, int64_t gradient_steps) {
  const int64_t batch = std::min(batch_sequences_, data_.sequences);
  expected_ = static_cast<double>(losses_of_all * data_.sequences + 3 * gradient_steps * batch);
}

Activations BlockObjective::pick(const Activations& from,
                                 std::span<const int64_t> sequences) const {
  Activations picked;
  for (const auto& [id, x] : from) {
    const int64_t size = data_.length * x->width;
    Activation y{x->width, std::vector<float>(at(std::ssize(sequences) * size))};
    for (size_t s = 0; s < sequences.size(); ++s) {
      std::copy_n(x->data.data() + sequences[s] * size, size, y.data.data() + at(size) * s);
    }
    picked[id] = std::make_shared<const Activation>(std::move(y));
  }
  return picked;
}

// The part of the loss of `all` sequences that `sequences` of them have.
double BlockObjective::run(std::span<const int64_t> sequences, double all,
                           const WeightOf& weight_of, const GradientOf* gradient_of) const {
  const Batch batch{std::ssize(sequences), data_.length, {}};
  Activations values = pick(data_.inputs, sequences);
  const auto passes = static_cast<double>(sequences.size());
  const auto share = [&](double done) { return expected_ > 0 ? done / expected_ : 0; };
  NodeForward(graph_, pool_)
      .run(block_, batch, values, weight_of, gradient_of != nullptr ? Keep::all : Keep::outputs,
           part_of(steps_, share(done_), share(done_ + passes)));
  done_ += passes;
  const Activations targets = pick(data_.targets, sequences);
  const double scale = 1 / (target_squares_ * all);
  Gradients gradients;
  double loss = 0;
  for (const ValueId id : block_.outputs) {
    const Activation& y = *values.at(id);
    const Activation& target = *targets.at(id);
    Activation d{y.width, std::vector<float>(y.data.size())};
    loss += scale * sum_rows(pool_, batch.rows(), [&](int64_t r) {
              double sum = 0;
              for (size_t i = at(r * y.width); i < at((r + 1) * y.width); ++i) {
                const double error = static_cast<double>(y.data[i]) - target.data[i];
                sum += error * error;
                d.data[i] = static_cast<float>(2 * scale * error);
              }
              return sum;
            });
    gradients[id] = std::move(d);
  }
  if (gradient_of != nullptr) {
    NodeBackward(graph_, pool_)
        .run(block_, batch, values, std::move(gradients), weight_of, *gradient_of,
             part_of(steps_, share(done_), share(done_ + 2 * passes)));
    done_ += 2 * passes;
  }
  return loss;
}

double BlockObjective::loss(std::span<const int64_t> sequences, const WeightOf& weight_of) const {
  const auto all = static_cast<double>(sequences.size());
  double sum = 0;
  for (size_t first = 0; first < sequences.size(); first += at(batch_sequences_)) {
    const size_t count = std::min(at(batch_sequences_), sequences.size() - first);
    sum += run(sequences.subspan(first, count), all, weight_of, nullptr);
  }
  return sum;
}

double BlockObjective::loss_of_all(const WeightOf& weight_of) const {
  std::vector<int64_t> sequences(at(data_.sequences));
  std::iota(sequences.begin(), sequences.end(), 0);
  return loss(sequences, weight_of);
}

double BlockObjective::add_gradients(std::span<const int64_t> sequences, const WeightOf& weight_of,
                                     const GradientOf& gradient_of) const {
  const auto all = static_cast<double>(sequences.size());
  double sum = 0;
  for (size_t first = 0; first < sequences.size(); first += at(batch_sequences_)) {
    const size_t count = std::min(at(batch_sequences_), sequences.size() - first);
    sum += run(sequences.subspan(first, count), all, weight_of, &gradient_of);
  }
  return sum;
}

Minibatches::Minibatches(int64_t sequences, int64_t size, uint64_t seed)
    : random_(seed), order_(at(sequences)), batch_(at(std::min(sequences, size))) {
  std::iota(order_.begin(), order_.end(), 0);
  used_ = order_.size();
}

std::span<const int64_t> Minibatches::next() {
  for (int64_t& sequence : batch_) {
    if (used_ == order_.size()) {
      for (size_t i = order_.size(); i > 1; --i) std::swap(order_[i - 1], order_[random_() % i]);
      used_ = 0;
    }
    sequence = order_[used_++];
  }
  return batch_;
}

}  // namespace nibble::quant
