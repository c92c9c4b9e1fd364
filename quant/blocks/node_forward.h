// Runs the nodes of a fused graph (graph/ops.h) in fp32 over many whole sequences: what calibration
// needs, which is every activation of every token and no cache. Not the decoder: that is a plan
// (graph/lower.h). The arithmetic is that of the row kernels and of dense_matmul.h, so results are
// the same bits on any number of threads and every instruction set.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <memory>
#include <span>
#include <vector>

#include "graph/graph.h"
#include "quant/blocks/block_split.h"
#include "quant/products/steps.h"
#include "runtime/thread_pool.h"

namespace nibble::quant {

// Sequences of equal length, each from position 0: row s * length + p is position p of sequence s.
struct Batch {
  int64_t sequences = 0, length = 0;
  std::span<const int32_t> ids;  // [sequences][length]; Embedding nodes alone need them
  int64_t rows() const { return sequences * length; }
};

struct Activation {
  int64_t width = 0;
  std::vector<float> data;  // [rows][width]
};
using Activations = std::map<graph::ValueId, std::shared_ptr<const Activation>>;

// The activation that a node takes as operand i, of `width` (0: of any). Throws Error naming the
// node when it is not there or has other rows than the batch.
const Activation& operand_of(const graph::Graph& graph, const graph::Node& node, size_t i,
                             const Batch& batch, const Activations& values, int64_t width = 0);

// The weight [n][k] to use for a Linear, or nothing to take the graph's.
using WeightOf = std::function<std::span<const float>(const graph::Node&)>;

// What running a block leaves in `values`: its outputs, or all that its nodes read and made.
enum class Keep : uint8_t { outputs, all };

class NodeForward {
 public:
  // Both must outlive this.
  NodeForward(const graph::Graph& graph, runtime::ThreadPool& pool) : graph_(graph), pool_(pool) {}

  // Computes the outputs of one node for all sequences from `values` and adds them there. `weight`
  // replaces that of a Linear, [n][k]. Throws Error naming the node when an operand is missing or
  // does not fit, or the node is no fused operator.
  void run(const graph::Node& node, const Batch& batch, Activations& values,
           std::span<const float> weight = {}, const Steps& steps = {}) const;

  // All nodes of a block. With Keep::outputs each activation, the inputs too, is dropped behind its
  // last use. weight_of may be empty.
  void run(const Block& block, const Batch& batch, Activations& values,
           const WeightOf& weight_of = {}, Keep keep = Keep::outputs,
           const Steps& steps = {}) const;

 private:
  class Call;
  const graph::Graph& graph_;
  runtime::ThreadPool& pool_;
};

}  // namespace nibble::quant
