#include "quant/blocks/node_forward.h"

#include <algorithm>
#include <utility>
#include <variant>

#include "graph/ops.h"
#include "jit/error.h"
#include "jit/packed_layout.h"
#include "quant/blocks/attention_node.h"
#include "quant/blocks/head_norm_node.h"
#include "quant/blocks/linear_node.h"
#include "quant/products/parallel_rows.h"
#include "quant/products/row_kernel.h"
#include "quant/products/sizes.h"

namespace nibble::quant {
namespace {

using graph::Graph;
using graph::kNoValue;
using graph::Node;
using graph::ValueId;

// A token table in any of its three forms.
struct Table {
  const graph::MatrixSource* source = nullptr;
  const runtime::PackedMatrix* packed = nullptr;
  const graph::TensorData* tensor = nullptr;
  int64_t rows = 0, width = 0;

  Table(const Graph& graph, const Node& node) {
    const auto& constant = graph.values[at(node.input(1))].constant;
    if (constant) {
      source = std::get_if<graph::MatrixSource>(&*constant);
      packed = std::get_if<runtime::PackedMatrix>(&*constant);
      tensor = std::get_if<graph::TensorData>(&*constant);
    }
    if (source != nullptr) {
      rows = source->n, width = source->k;
    } else if (packed != nullptr) {
      rows = packed->view.n, width = packed->view.k;
    } else if (tensor != nullptr && tensor->shape.size() == 2) {
      rows = tensor->shape[0], width = tensor->shape[1];
    } else {
      fail("{}: the table of node '{}' is no constant matrix.", graph.origin, node.name);
    }
  }

  void read(int64_t id, std::span<float> out) const {
    if (source != nullptr) return source->read_columns(id, 1, out);
    if (packed != nullptr) return jit::unpack_column(packed->view, id, out);
    graph::read_f32(*tensor, id * width, out);
  }
};

}  // namespace

// One node being run.
class NodeForward::Call {
 public:
  Call(const NodeForward& owner, const Node& node, const Batch& batch, Activations& values,
       std::span<const float> weight, const Steps& steps)
      : graph_(owner.graph_),
        pool_(owner.pool_),
        node_(node),
        batch_(batch),
        values_(values),
        weight_(weight),
        steps_(steps) {}

  void run() {
    if (node_.domain == graph::kNibbleDomain) {
      if (node_.op == "Embedding") return embedding();
      if (node_.op == "RMSNorm") return norm(false);
      if (node_.op == "LayerNorm") return norm(true);
      if (node_.op == "Linear") return linear();
      if (node_.op == "Attention") return attention();
      if (node_.op == "Activation") return elementwise(jit::RowOp::activation);
      if (node_.op == "Gate") return elementwise(jit::RowOp::gate);
      if (node_.op == "Add") return elementwise(jit::RowOp::add);
      if (node_.op == "LogitScale") return logit_scale();
      if (node_.op == "HeadNorm") return head_norm();
      if (node_.op == "Clip") return clip();
    }
    fail("{}: node '{}' ({}) is no fused operator and cannot be calibrated.", graph_.origin,
         node_.name, node_.op);
  }

 private:
  const Activation& input(size_t i, int64_t width = 0) const {
    return operand_of(graph_, node_, i, batch_, values_, width);
  }

  std::vector<float> vector(size_t operand, int64_t count) const {
    std::vector<float> v = read_vector(graph_, node_, operand);
    if (!v.empty() && v.size() != at(count)) {
      fail("{}: node '{}' ({}) needs {} values in '{}', found {}.", graph_.origin, node_.name,
           node_.op, count, graph_.value_name(node_.input(operand)), v.size());
    }
    return v;
  }

  Activation room(int64_t width) const {
    return {width, std::vector<float>(at(batch_.rows() * width))};
  }

  void store(size_t i, Activation y) const {
    if (i >= node_.outputs.size() || node_.outputs[i] == kNoValue) return;
    values_[node_.outputs[i]] = std::make_shared<const Activation>(std::move(y));
  }

  // Runs a kernel over all rows of the batch; `args` are those of the first row.
  void run_rows(const jit::Kernel& kernel, const jit::RowArgs& args) const {
    pool_.parallel_for(batch_.rows(), [&](int64_t begin, int64_t end, int) {
      jit::RowArgs part = args;
      part.x += begin * part.x_stride;
      if (part.x2 != nullptr) part.x2 += begin * part.x2_stride;
      if (part.y != nullptr) part.y += begin * part.y_stride;
      if (part.sum != nullptr) part.sum += begin * part.sum_stride;
      part.rows = end - begin;
      kernel.run(part);
    });
  }

  void embedding() const {
    if (batch_.ids.size() != at(batch_.rows())) {
      fail("{}: node '{}' needs {} ids, found {}.", graph_.origin, node_.name, batch_.rows(),
           batch_.ids.size());
    }
    const Table table(graph_, node_);
    for (const int32_t id : batch_.ids) {
      if (id >= 0 && id < table.rows) continue;
      fail("{}: the id {} is outside the table of {} rows of node '{}'.", graph_.origin, id,
           table.rows, node_.name);
    }
    const int64_t width = table.width, offset = node_.get_int("position_offset", 0);
    std::vector<float> positions = read_vector(graph_, node_, 2);
    if (!positions.empty() && std::cmp_less(positions.size(), (offset + batch_.length) * width)) {
      fail("{}: node '{}' has positions for {} tokens, expected {} for sequences of {}.",
           graph_.origin, node_.name, static_cast<int64_t>(positions.size()) / width - offset,
           batch_.length, batch_.length);
    }
    const float scale = node_.get_float("scale", 1);
    Activation y = room(width);
    for_each_row(pool_, batch_.rows(), [&](int64_t r, int) {
      const std::span<float> row(y.data.data() + r * width, at(width));
      table.read(batch_.ids[at(r)], row);
      for (float& value : row) value *= scale;
      if (positions.empty()) return;
      const float* position = positions.data() + (offset + r % batch_.length) * width;
      for (int64_t c = 0; c < width; ++c) row[at(c)] += position[c];
    });
    store(0, std::move(y));
  }

  void norm(bool layer) const {
    const Activation& x = input(0);
    const std::vector<float> weight = vector(1, x.width);
    const std::vector<float> bias = layer ? vector(2, x.width) : std::vector<float>{};
    if (weight.empty()) fail("{}: node '{}' has no weight.", graph_.origin, node_.name);
    const size_t residual = layer ? 3 : 2;
    jit::RowSpec spec;
    spec.op = layer ? jit::RowOp::layer_norm : jit::RowOp::rms_norm;
    spec.n = x.width;
    spec.bias = !bias.empty();
    spec.residual = node_.input(residual) != kNoValue;
    Activation y = room(x.width);
    Activation sum;
    jit::RowArgs args;
    args.x = x.data.data();
    args.y = y.data.data();
    args.x_stride = args.y_stride = x.width;
    args.weight = weight.data();
    args.bias = bias.empty() ? nullptr : bias.data();
    args.eps = node_.get_float("epsilon");
    if (spec.residual) {
      sum = room(x.width);
      args.x2 = input(residual, x.width).data.data();
      args.sum = sum.data.data();
      args.x2_stride = args.sum_stride = x.width;
    }
    run_rows(row_kernel(spec), args);
    store(0, std::move(y));
    if (spec.residual) store(1, std::move(sum));
  }

  void linear() const {
    const LinearNode linear = read_linear(graph_, node_);
    const Activation& x = input(0, linear.k);
    WeightPanels panels(pool_, graph_, node_, linear, weight_);
    Activation y = room(linear.columns);
    linear_forward(pool_, linear, panels, {x.data.data(), batch_.rows(), linear.k, linear.k},
                   {y.data.data(), batch_.rows(), linear.columns, linear.columns}, steps_);
    // Pages of the model's file are needed again for the next recipe, not before.
    const graph::MatrixSource* source = weight_.empty() ? graph_.matrix(node_.input(1)) : nullptr;
    if (source != nullptr) source->release();
    if (node_.input(3) != kNoValue) {
      const float* residual = input(3, linear.columns).data.data();
      pool_.parallel_for(std::ssize(y.data), [&](int64_t begin, int64_t end, int) {
        for (int64_t i = begin; i < end; ++i) y.data[at(i)] += residual[i];
      });
    }
    store(0, std::move(y));
  }

  void attention() const {
    const AttentionNode attention = read_attention(graph_, node_);
    const Activation& qkv = input(0, attention.head.width());
    Activation y = room(attention.head.heads * attention.head.head_dim);
    attention_forward(pool_, attention, batch_.sequences, batch_.length, qkv.data.data(),
                      y.data.data());
    store(0, std::move(y));
  }

  void elementwise(jit::RowOp op) const {
    const Activation& x = input(0);
    jit::RowSpec spec;
    spec.op = op;
    spec.n = x.width;
    if (op != jit::RowOp::add) spec.activation = read_activation(node_);
    Activation y = room(x.width);
    jit::RowArgs args;
    args.x = x.data.data();
    args.y = y.data.data();
    args.x_stride = args.x2_stride = args.y_stride = x.width;
    if (op != jit::RowOp::activation) args.x2 = input(1, x.width).data.data();
    run_rows(row_kernel(spec), args);
    store(0, std::move(y));
  }

  void head_norm() const {
    const HeadNormNode norm = read_head_norm(graph_, node_);
    const Activation& x = input(0, norm.head.width());
    Activation y = x;
    head_norm_forward(pool_, norm, batch_.rows(), y.data.data());
    store(0, std::move(y));
  }

  void clip() const {
    const Activation& x = input(0);
    jit::RowSpec spec;
    spec.op = jit::RowOp::clip;
    Activation y = room(x.width);
    jit::RowArgs args;
    args.x = x.data.data();
    args.y = y.data.data();
    args.x_stride = args.y_stride = args.n = x.width;
    args.cap = node_.get_float("limit");
    run_rows(row_kernel(spec), args);
    store(0, std::move(y));
  }

  void logit_scale() const {
    const Activation& x = input(0);
    const float scale = node_.get_float("scale", 1), cap = node_.get_float("softcap", 0);
    jit::RowSpec spec;
    spec.op = cap == 0 ? jit::RowOp::scale : jit::RowOp::softcap;
    Activation y = room(x.width);
    jit::RowArgs args;
    args.x = x.data.data();
    args.y = y.data.data();
    args.x_stride = args.y_stride = args.n = x.width;
    args.scale = cap == 0 ? scale : scale / cap;
    args.cap = cap;
    run_rows(row_kernel(spec), args);
    store(0, std::move(y));
  }

  const Graph& graph_;
  runtime::ThreadPool& pool_;
  const Node& node_;
  const Batch& batch_;
  Activations& values_;
  std::span<const float> weight_;
  const Steps& steps_;
};

const Activation& operand_of(const Graph& graph, const Node& node, size_t i, const Batch& batch,
                             const Activations& values, int64_t width) {
  const ValueId id = node.input(i);
  const auto known = values.find(id);
  if (id == kNoValue || known == values.end() || known->second == nullptr) {
    fail("{}: node '{}' ({}) needs the activation '{}', which is not there.", graph.origin,
         node.name, node.op, id == kNoValue ? "" : graph.value_name(id));
  }
  const Activation& x = *known->second;
  if (x.data.size() != at(batch.rows() * x.width)) {
    fail("{}: the activation '{}' has {} values, expected {} rows of {}.", graph.origin,
         graph.value_name(id), x.data.size(), batch.rows(), x.width);
  }
  if (width != 0 && x.width != width) {
    fail("{}: node '{}' ({}) expects rows of {} in '{}', found {}.", graph.origin, node.name,
         node.op, width, graph.value_name(id), x.width);
  }
  return x;
}

void NodeForward::run(const Node& node, const Batch& batch, Activations& values,
                      std::span<const float> weight, const Steps& steps) const {
  if (batch.sequences < 1 || batch.length < 1) {
    fail("{}: a batch of {} sequences of {} tokens has no rows.", graph_.origin, batch.sequences,
         batch.length);
  }
  Call(*this, node, batch, values, weight, steps).run();
}

void NodeForward::run(const Block& block, const Batch& batch, Activations& values,
                      const WeightOf& weight_of, Keep keep, const Steps& steps) const {
  const auto count = static_cast<double>(block.end_node - block.first_node);
  const auto dead = last_uses(graph_, block);
  for (size_t i = block.first_node; i < block.end_node; ++i) {
    const Node& node = graph_.nodes[i];
    std::span<const float> weight;
    if (weight_of && node.is("Linear", graph::kNibbleDomain)) weight = weight_of(node);
    const auto before = static_cast<double>(i - block.first_node);
    tell(steps, before / count);
    run(node, batch, values, weight, part_of(steps, before / count, (before + 1) / count));
    if (keep == Keep::all) continue;
    for (const ValueId id : dead[i - block.first_node]) values.erase(id);
  }
}

}  // namespace nibble::quant
