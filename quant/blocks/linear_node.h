// A fused Linear for calibration: its shape and constants, its weight as plain fp32, and its
// product with many rows, forward and backward. Weights are read a panel of columns at a time, so
// that a matrix never lies in memory whole.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "graph/graph.h"
#include "jit/kernel_spec.h"
#include "quant/products/dense_matmul.h"
#include "quant/products/steps.h"
#include "runtime/thread_pool.h"

namespace nibble::quant {

struct LinearNode {
  int64_t n = 0, k = 0;
  int64_t columns = 0;  // of the output
  bool gate = false;    // 16 gate and 16 up columns of the weight alternate
  jit::Activation activation = jit::Activation::none;
  std::vector<float> bias;  // [n], or empty
  // Columns of the weight that reach the output: all but the padding.
  int64_t used() const { return gate ? n : columns; }
};

// Throws Error naming the node when its attributes and operands do not fit.
LinearNode read_linear(const graph::Graph& graph, const graph::Node& node);
jit::Activation read_activation(const graph::Node& node);
// The constant vector behind an operand; empty when it is absent.
std::vector<float> read_vector(const graph::Graph& graph, const graph::Node& node, size_t operand);

// Columns [begin, begin + count) of the weight of a Linear, as [count][k].
void read_weight(runtime::ThreadPool& pool, const graph::Graph& graph, const graph::Node& node,
                 int64_t begin, int64_t count, std::span<float> out);

// The weight in panels of kPanelColumns columns: `weight` [n][k] where it is not empty, otherwise
// read from the graph.
inline constexpr int64_t kPanelColumns = 1024;
class WeightPanels {
 public:
  WeightPanels(runtime::ThreadPool& pool, const graph::Graph& graph, const graph::Node& node,
               const LinearNode& linear, std::span<const float> weight);
  // Columns [begin, begin + count), count <= kPanelColumns; good until the next call.
  ConstMatrix panel(int64_t begin, int64_t count);

 private:
  runtime::ThreadPool& pool_;
  const graph::Graph& graph_;
  const graph::Node& node_;
  int64_t k_;
  std::span<const float> weight_;
  std::vector<float> read_;
};

// out [rows][columns] = act(x W^T + bias), gated where the node is; x is [rows][k].
void linear_forward(runtime::ThreadPool& pool, const LinearNode& linear, WeightPanels& weight,
                    ConstMatrix x, Matrix out, const Steps& steps = {});

// Its derivative: dx [rows][k] += and dw [n][k] += by dy = d loss / d out; either may be without
// data, and is then not computed.
void linear_backward(runtime::ThreadPool& pool, const LinearNode& linear, WeightPanels& weight,
                     ConstMatrix x, ConstMatrix dy, Matrix dx, Matrix dw, const Steps& steps = {});

// Adds bias (one a column) to every row; nothing when it is empty.
void add_bias(runtime::ThreadPool& pool, std::span<const float> bias, Matrix x);

}  // namespace nibble::quant
