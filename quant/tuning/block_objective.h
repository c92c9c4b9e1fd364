// The loss of tuning a block: how far its outputs, with other weights and on the inputs that the
// quantized blocks before it give, are from what the float model has there.
#pragma once

#include <cstdint>
#include <random>
#include <span>
#include <vector>

#include "quant/blocks/node_backward.h"
#include "quant/blocks/node_forward.h"

namespace nibble::quant {

// A block's values for all calibration sequences, by the ids of block.inputs and block.outputs.
struct TuningData {
  int64_t sequences = 0, length = 0;
  Activations inputs;   // of the quantized blocks before it
  Activations targets;  // of the float block on float inputs
};

class BlockObjective {
 public:
  // All but the data and `steps` are kept by reference. At most batch_sequences run at a time.
  // Throws Error when an input or target is missing or has other rows.
  BlockObjective(const graph::Graph& graph, runtime::ThreadPool& pool, const Block& block,
                 TuningData data, int64_t batch_sequences, Steps steps = {});

  // What `steps` is told the share of: so many losses of all sequences, and steps by gradients.
  void expect(int64_t losses_of_all, int64_t gradient_steps);

  int64_t sequences() const { return data_.sequences; }

  // Mean over `sequences` of |output - target|^2 / the mean of |target|^2 over all: 0 is perfect, 1
  // as bad as zeros. Summed in double in a fixed order.
  double loss(std::span<const int64_t> sequences, const WeightOf& weight_of) const;
  double loss_of_all(const WeightOf& weight_of) const;
  // The same, and adds its gradients by weights.
  double add_gradients(std::span<const int64_t> sequences, const WeightOf& weight_of,
                       const GradientOf& gradient_of) const;

 private:
  double run(std::span<const int64_t> sequences, double all, const WeightOf& weight_of,
             const GradientOf* gradient_of) const;
  Activations pick(const Activations& from, std::span<const int64_t> sequences) const;

  const graph::Graph& graph_;
  runtime::ThreadPool& pool_;
  const Block& block_;
  TuningData data_;
  int64_t batch_sequences_;
  double target_squares_ = 0;  // mean of a sequence
  Steps steps_;
  double expected_ = 0;      // passes of a sequence: 1 forward, 2 backward
  mutable double done_ = 0;  // of them
};

// Which sequences each step looks at: all of them in a random order, then all in another one. The
// same for the same seed everywhere.
class Minibatches {
 public:
  Minibatches(int64_t sequences, int64_t size, uint64_t seed);
  std::span<const int64_t> next();  // min(size, sequences) of them

 private:
  std::mt19937_64 random_;
  std::vector<int64_t> order_, batch_;
  size_t used_;
};

}  // namespace nibble::quant
