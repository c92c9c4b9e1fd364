#include "quant/blocks/node_backward.h"

#include <algorithm>
#include <cmath>
#include <utility>

#include "graph/ops.h"
#include "jit/error.h"
#include "quant/blocks/activation_gradient.h"
#include "quant/blocks/attention_node.h"
#include "quant/blocks/head_norm_node.h"
#include "quant/blocks/linear_node.h"
#include "quant/blocks/norm_gradient.h"
#include "quant/products/row_kernel.h"
#include "quant/products/sizes.h"

namespace nibble::quant {
namespace {

using graph::kNoValue;
using graph::Node;
using graph::ValueId;

}  // namespace

// One node being derived.
class NodeBackward::Call {
 public:
  Call(const NodeBackward& owner, const Node& node, const Batch& batch, const Activations& values,
       Gradients& gradients, const std::vector<bool>& wanted, const Steps& steps)
      : graph_(owner.graph_),
        pool_(owner.pool_),
        node_(node),
        batch_(batch),
        values_(values),
        gradients_(gradients),
        wanted_(wanted),
        steps_(steps) {}

  void run(std::span<const float> weight, std::span<float> weight_gradient) {
    for (const ValueId id : node_.outputs) {
      const auto known = gradients_.find(id);
      if (id == kNoValue || known == gradients_.end()) {
        dy_.emplace_back();
        continue;
      }
      dy_.push_back(std::move(known->second));
      gradients_.erase(known);
      if (dy_.back().data.size() != at(batch_.rows() * dy_.back().width)) {
        fail("{}: the gradient by '{}' has {} values, expected {} rows of {}.", graph_.origin,
             graph_.value_name(id), dy_.back().data.size(), batch_.rows(), dy_.back().width);
      }
    }
    if (std::all_of(dy_.begin(), dy_.end(), [](const Activation& d) { return d.width == 0; })) {
      return;
    }
    if (node_.domain == graph::kNibbleDomain) {
      if (node_.op == "Embedding") return;
      if (node_.op == "RMSNorm") return norm(false);
      if (node_.op == "LayerNorm") return norm(true);
      if (node_.op == "Linear") return linear(weight, weight_gradient);
      if (node_.op == "Attention") return attention();
      if (node_.op == "Activation") return activation();
      if (node_.op == "Gate") return gate();
      if (node_.op == "Add") return add();
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
  bool wants(size_t i) const {
    const ValueId id = node_.input(i);
    return id != kNoValue && (wanted_.empty() || wanted_[at(id)]);
  }

  // The gradient by operand i as far as it is known, zero at first.
  Activation& gradient(size_t i, int64_t width) const {
    Activation& d = gradients_[node_.input(i)];
    if (d.width == 0) d = {width, std::vector<float>(at(batch_.rows() * width))};
    if (d.width != width) {
      fail("{}: the gradient by '{}' has rows of {}, expected {}.", graph_.origin,
           graph_.value_name(node_.input(i)), d.width, width);
    }
    return d;
  }

  // The gradient by the first output.
  const Activation& dy(int64_t width) const {
    const Activation& d = dy_.front();
    if (d.width != width) {
      fail("{}: node '{}' ({}) needs the gradient of rows of {}, found {}.", graph_.origin,
           node_.name, node_.op, width, d.width);
    }
    return d;
  }

  // body(row, thread) for every row.
  template <typename Body>
  void each_row(const Body& body) const {
    pool_.parallel_for(batch_.rows(), [&](int64_t begin, int64_t end, int thread) {
      for (int64_t r = begin; r < end; ++r) body(r, thread);
    });
  }

  void pass_on(size_t i, const Activation& d) const {
    if (!wants(i)) return;
    Activation& to = gradient(i, d.width);
    each_row([&](int64_t r, int) {
      for (int64_t j = r * d.width; j < (r + 1) * d.width; ++j) to.data[at(j)] += d.data[at(j)];
    });
  }

  void add() const {
    pass_on(0, dy_.front());
    pass_on(1, dy_.front());
  }

  // y = norm(s), s = x + residual, which is the second output.
  void norm(bool layer) const {
    const Activation& x = input(0);
    const size_t residual = layer ? 3 : 2;
    const std::vector<float> weight = read_vector(graph_, node_, 1);
    const float epsilon = node_.get_float("epsilon");
    Activation ds = dy_.size() > 1 && dy_[1].width != 0
                        ? dy_[1]
                        : Activation{x.width, std::vector<float>(x.data.size())};
    if (dy_.front().width != 0) {
      const float* from = dy(x.width).data.data();
      const float* other =
          node_.input(residual) == kNoValue ? nullptr : input(residual, x.width).data.data();
      std::vector<float> room(at(x.width * pool_.size()));
      each_row([&](int64_t r, int thread) {
        const float* row = x.data.data() + r * x.width;
        if (other != nullptr) {
          float* sum = room.data() + thread * x.width;
          for (int64_t i = 0; i < x.width; ++i) sum[i] = row[i] + other[r * x.width + i];
          row = sum;
        }
        norm_gradient(row, weight.data(), from + r * x.width, x.width, epsilon, layer,
                      ds.data.data() + r * x.width);
      });
    }
    pass_on(0, ds);
    pass_on(residual, ds);
  }

  void linear(std::span<const float> weight, std::span<float> weight_gradient) const {
    const LinearNode linear = read_linear(graph_, node_);
    const Activation& x = input(0, linear.k);
    const Activation& d = dy(linear.columns);
    if (!weight_gradient.empty() && weight_gradient.size() != at(linear.n * linear.k)) {
      fail("{}: node '{}' has a weight of {} x {}, but there is room for {} gradients.",
           graph_.origin, node_.name, linear.n, linear.k, weight_gradient.size());
    }
    if (wants(3)) pass_on(3, d);
    WeightPanels panels(pool_, graph_, node_, linear, weight);
    Matrix dx{nullptr, batch_.rows(), linear.k, linear.k};
    if (wants(0)) dx.data = gradient(0, linear.k).data.data();
    const Matrix dw{weight_gradient.data(), linear.n, linear.k, linear.k};
    if (dx.data == nullptr && dw.data == nullptr) return;
    linear_backward(pool_, linear, panels, {x.data.data(), batch_.rows(), linear.k, linear.k},
                    {d.data.data(), batch_.rows(), d.width, d.width}, dx, dw, steps_);
  }

  void attention() const {
    const AttentionNode attention = read_attention(graph_, node_);
    const Activation& qkv = input(0, attention.head.width());
    if (!wants(0)) return;
    Activation d{qkv.width, std::vector<float>(qkv.data.size())};
    attention_backward(pool_, attention, batch_.sequences, batch_.length, qkv.data.data(),
                       dy(attention.head.heads * attention.head.head_dim).data.data(),
                       d.data.data());
    pass_on(0, d);
  }

  void activation() const {
    const Activation& x = input(0);
    const Activation& d = dy(x.width);
    if (!wants(0)) return;
    const ActivationGradient derivative(read_activation(node_), x.width);
    std::vector<float> room(at(2 * x.width * pool_.size()));
    Activation& to = gradient(0, x.width);
    each_row([&](int64_t r, int thread) {
      float* y = room.data() + 2 * thread * x.width;
      const float* slope = y + x.width;
      derivative.run(x.data.data() + r * x.width, y, y + x.width);
      for (int64_t i = 0; i < x.width; ++i) {
        to.data[at(r * x.width + i)] += d.data[at(r * x.width + i)] * slope[i];
      }
    });
  }

  void gate() const {
    const Activation& x = input(0);
    const Activation& up = input(1, x.width);
    const Activation& d = dy(x.width);
    const ActivationGradient derivative(read_activation(node_), x.width);
    std::vector<float> room(at(2 * x.width * pool_.size()));
    Activation* dgate = wants(0) ? &gradient(0, x.width) : nullptr;
    Activation* dup = wants(1) ? &gradient(1, x.width) : nullptr;
    each_row([&](int64_t r, int thread) {
      float* y = room.data() + 2 * thread * x.width;
      const float* slope = y + x.width;
      derivative.run(x.data.data() + r * x.width, y, y + x.width);
      for (int64_t i = 0; i < x.width; ++i) {
        const size_t j = at(r * x.width + i);
        if (dgate != nullptr) dgate->data[j] += d.data[j] * up.data[j] * slope[i];
        if (dup != nullptr) dup->data[j] += d.data[j] * y[i];
      }
    });
  }

  void head_norm() const {
    const HeadNormNode norm = read_head_norm(graph_, node_);
    const Activation& x = input(0, norm.head.width());
    if (!wants(0)) return;
    head_norm_backward(pool_, norm, batch_.rows(), x.data.data(), dy(x.width).data.data(),
                       gradient(0, x.width).data.data());
  }

  void clip() const {
    const Activation& x = input(0);
    Activation d = dy(x.width);
    const float limit = node_.get_float("limit");
    each_row([&](int64_t r, int) {
      for (int64_t j = r * x.width; j < (r + 1) * x.width; ++j) {
        if (!(std::fabs(x.data[at(j)]) < limit)) d.data[at(j)] = 0;
      }
    });
    pass_on(0, d);
  }

  void logit_scale() const {
    const Activation& x = input(0);
    const float scale = node_.get_float("scale", 1), cap = node_.get_float("softcap", 0);
    Activation d = dy(x.width);
    jit::RowSpec spec;
    spec.op = jit::RowOp::softcap;
    const jit::Kernel& capped = row_kernel(spec);
    std::vector<float> room(at(x.width * pool_.size()));
    each_row([&](int64_t r, int thread) {
      float* y = room.data() + thread * x.width;
      float* row = d.data.data() + r * x.width;
      for (int64_t i = 0; i < x.width; ++i) row[i] *= scale;
      if (cap == 0) return;
      jit::RowArgs args;
      args.x = x.data.data() + r * x.width;
      args.y = y;
      args.n = x.width;
      args.scale = scale / cap;
      args.cap = cap;
      args.rows = 1;
      capped.run(args);
      for (int64_t i = 0; i < x.width; ++i) row[i] *= 1 - y[i] / cap * (y[i] / cap);
    });
    pass_on(0, d);
  }

  const graph::Graph& graph_;
  runtime::ThreadPool& pool_;
  const Node& node_;
  const Batch& batch_;
  const Activations& values_;
  Gradients& gradients_;
  const std::vector<bool>& wanted_;
  const Steps& steps_;
  std::vector<Activation> dy_;  // by the outputs; width 0 where there is none
};

void NodeBackward::run(const Node& node, const Batch& batch, const Activations& values,
                       Gradients& gradients, const std::vector<bool>& wanted,
                       std::span<const float> weight, std::span<float> weight_gradient,
                       const Steps& steps) const {
  Call(*this, node, batch, values, gradients, wanted, steps).run(weight, weight_gradient);
}

void NodeBackward::run(const Block& block, const Batch& batch, const Activations& values,
                       Gradients gradients, const WeightOf& weight_of,
                       const GradientOf& gradient_of, const Steps& steps) const {
  const auto is_linear = [](const Node& node) { return node.is("Linear", graph::kNibbleDomain); };
  std::vector<bool> wanted(graph_.values.size(), false);
  std::vector<std::span<float>> weight_gradients(block.end_node - block.first_node);
  for (size_t i = block.first_node; i < block.end_node; ++i) {
    const Node& node = graph_.nodes[i];
    bool leads = false;
    if (is_linear(node)) weight_gradients[i - block.first_node] = gradient_of(node);
    leads = !weight_gradients[i - block.first_node].empty();
    for (const ValueId id : node.inputs) leads = leads || (id != kNoValue && wanted[at(id)]);
    for (const ValueId id : node.outputs) {
      if (id != kNoValue) wanted[at(id)] = leads;
    }
  }
  const auto count = static_cast<double>(block.end_node - block.first_node);
  for (size_t i = block.end_node; i-- > block.first_node;) {
    const Node& node = graph_.nodes[i];
    std::span<const float> weight;
    if (weight_of && is_linear(node)) weight = weight_of(node);
    const double before = static_cast<double>(block.end_node - 1 - i) / count;
    tell(steps, before);
    run(node, batch, values, gradients, wanted, weight, weight_gradients[i - block.first_node],
        part_of(steps, before, before + 1 / count));
  }
}

}  // namespace nibble::quant
