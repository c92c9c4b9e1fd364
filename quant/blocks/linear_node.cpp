#include "quant/blocks/linear_node.h"

#include <algorithm>
#include <string>
#include <variant>

#include "jit/error.h"
#include "jit/packed_layout.h"
#include "quant/products/parallel_rows.h"
#include "quant/products/row_kernel.h"
#include "quant/products/sizes.h"

namespace nibble::quant {
namespace {

using graph::Graph;
using graph::kNoValue;
using graph::Node;
using jit::kColumnBlock;

const graph::Constant& weight_constant(const Graph& graph, const Node& node) {
  const auto& constant = graph.values[at(node.input(1))].constant;
  if (!constant || std::holds_alternative<graph::TensorData>(*constant)) {
    fail("{}: the weight of node '{}' is no constant matrix.", graph.origin, node.name);
  }
  return *constant;
}

const jit::Kernel& elementwise_kernel(jit::RowOp op, jit::Activation activation, int64_t n) {
  jit::RowSpec spec;
  spec.op = op;
  spec.n = n;
  spec.activation = activation;
  return row_kernel(spec);
}

void activate(runtime::ThreadPool& pool, jit::Activation activation, Matrix x) {
  if (activation == jit::Activation::none) return;
  const jit::Kernel& kernel = elementwise_kernel(jit::RowOp::activation, activation, x.columns);
  pool.parallel_for(x.rows, [&](int64_t begin, int64_t end, int) {
    jit::RowArgs args;
    args.x = args.y = x.data + begin * x.stride;
    args.x_stride = args.y_stride = x.stride;
    args.rows = end - begin;
    kernel.run(args);
  });
}

// out = act(gate) * up of z, in which 16 columns of each alternate.
void gate_forward(runtime::ThreadPool& pool, jit::Activation activation, ConstMatrix z,
                  Matrix out) {
  const jit::Kernel& kernel = elementwise_kernel(jit::RowOp::gate, activation, out.columns);
  const int64_t half = z.columns / 2;
  std::vector<float> room(at(z.columns * pool.size()));
  pool.parallel_for(z.rows, [&](int64_t begin, int64_t end, int thread) {
    float* gate = room.data() + thread * z.columns;
    float* up = gate + half;
    jit::RowArgs args;
    args.x = gate;
    args.x2 = up;
    args.rows = 1;
    for (int64_t r = begin; r < end; ++r) {
      const float* row = z.data + r * z.stride;
      for (int64_t c = 0; c < half; c += kColumnBlock) {
        std::copy_n(row + 2 * c, kColumnBlock, gate + c);
        std::copy_n(row + 2 * c + kColumnBlock, kColumnBlock, up + c);
      }
      args.y = out.data + r * out.stride;
      kernel.run(args);
    }
  });
}

}  // namespace

jit::Activation read_activation(const Node& node) {
  const std::string name = node.get_string("activation", "none");
  const auto activation = jit::parse_activation(name);
  if (!activation) fail("Node '{}' has activation '{}', which is not known.", node.name, name);
  return *activation;
}

std::vector<float> read_vector(const Graph& graph, const Node& node, size_t operand) {
  const graph::ValueId id = node.input(operand);
  if (id == kNoValue) return {};
  const graph::TensorData* tensor = graph.tensor(id);
  if (tensor == nullptr) {
    fail("{}: node '{}' ({}) needs a constant in '{}'.", graph.origin, node.name, node.op,
         graph.value_name(id));
  }
  return graph::to_f32(*tensor);
}

LinearNode read_linear(const Graph& graph, const Node& node) {
  LinearNode linear;
  const graph::Constant& weight = weight_constant(graph, node);
  if (const auto* source = std::get_if<graph::MatrixSource>(&weight)) {
    linear.n = source->n, linear.k = source->k;
  } else {
    const jit::PackedView& view = std::get<runtime::PackedMatrix>(weight).view;
    linear.n = view.n, linear.k = view.k;
  }
  linear.gate = node.get_int("gate", 0) != 0;
  const int64_t most = linear.gate ? linear.n / 2 : linear.n;
  linear.columns = node.get_int("columns", most);
  linear.activation = read_activation(node);
  linear.bias = read_vector(graph, node, 2);
  if (linear.columns < 1 || linear.columns > most || (linear.gate && linear.n % 32 != 0) ||
      (!linear.bias.empty() && linear.bias.size() != at(linear.n))) {
    fail("{}: node '{}' makes {} columns{} of a weight of {} and a bias of {}.", graph.origin,
         node.name, linear.columns, linear.gate ? " with a gate" : "", linear.n,
         linear.bias.size());
  }
  return linear;
}

void read_weight(runtime::ThreadPool& pool, const Graph& graph, const Node& node, int64_t begin,
                 int64_t count, std::span<float> out) {
  const graph::Constant& weight = weight_constant(graph, node);
  const auto* source = std::get_if<graph::MatrixSource>(&weight);
  const auto* packed = std::get_if<runtime::PackedMatrix>(&weight);
  const int64_t k = source != nullptr ? source->k : packed->view.k;
  if (out.size() != at(count * k)) {
    fail("{}: {} columns of node '{}' do not fit {} values.", graph.origin, count, node.name,
         out.size());
  }
  const int64_t blocks = (count + kColumnBlock - 1) / kColumnBlock;
  for_each_row(pool, blocks, [&](int64_t block, int) {
    const int64_t c = block * kColumnBlock, columns = std::min(kColumnBlock, count - c);
    const auto to = out.subspan(at(c * k), at(columns * k));
    if (source != nullptr) return source->read_columns(begin + c, columns, to);
    for (int64_t i = 0; i < columns; ++i) {
      jit::unpack_column(packed->view, begin + c + i, to.subspan(at(i * k), at(k)));
    }
  });
}

WeightPanels::WeightPanels(runtime::ThreadPool& pool, const Graph& graph, const Node& node,
                           const LinearNode& linear, std::span<const float> weight)
    : pool_(pool), graph_(graph), node_(node), k_(linear.k), weight_(weight) {
  if (weight.empty()) {
    read_.resize(at(std::min(kPanelColumns, linear.n) * k_));
  } else if (weight.size() != at(linear.n * k_)) {
    fail("{}: node '{}' needs a weight of {} x {}, found {} values.", graph.origin, node.name,
         linear.n, k_, weight.size());
  }
}

ConstMatrix WeightPanels::panel(int64_t begin, int64_t count) {
  if (!weight_.empty()) return {weight_.data() + begin * k_, count, k_, k_};
  read_weight(pool_, graph_, node_, begin, count, {read_.data(), at(count * k_)});
  return {read_.data(), count, k_, k_};
}

void add_bias(runtime::ThreadPool& pool, std::span<const float> bias, Matrix x) {
  if (bias.empty()) return;
  pool.parallel_for(x.rows, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      float* row = x.data + r * x.stride;
      for (int64_t c = 0; c < x.columns; ++c) row[c] += bias[at(c)];
    }
  });
}

void linear_forward(runtime::ThreadPool& pool, const LinearNode& linear, WeightPanels& weight,
                    ConstMatrix x, Matrix out, const Steps& steps) {
  std::vector<float> gated;  // a panel of products
  if (linear.gate) gated.resize(at(x.rows * std::min(kPanelColumns, linear.n)));
  const int64_t used = linear.used();
  for (int64_t begin = 0; begin < used; begin += kPanelColumns) {
    const int64_t count = std::min(kPanelColumns, used - begin);
    tell(steps, static_cast<double>(begin) / static_cast<double>(used));
    const Matrix product = linear.gate ? Matrix{gated.data(), x.rows, count, count}
                                       : Matrix{out.data + begin, x.rows, count, out.stride};
    matmul(pool, x, false, weight.panel(begin, count), true, product, false);
    if (!linear.bias.empty()) {
      add_bias(pool, std::span(linear.bias).subspan(at(begin), at(count)), product);
    }
    if (!linear.gate) {
      activate(pool, linear.activation, product);
      continue;
    }
    const int64_t first = begin / 2, columns = std::min(count / 2, linear.columns - first);
    if (columns <= 0) break;
    gate_forward(pool, linear.activation, product, {out.data + first, x.rows, columns, out.stride});
  }
}

}  // namespace nibble::quant
