// Every derivative against finite differences of the forward, by single elements and along random
// directions.
#include "quant/blocks/node_backward.h"

#include <gtest/gtest.h>

#include "jit/error.h"
#include "quant/blocks/linear_node.h"
#include "tests/quant/fused_fixture.h"
#include "tests/support/zoo.h"

namespace nibble::test {
namespace {

using graph::Graph;
using graph::kNoValue;
using graph::Node;
using graph::ValueId;
using quant::Activation;
using quant::Activations;
using quant::Batch;
using quant::Gradients;

// f'(0) by differences at +-h and +-2h: the error is O(h^4).
template <typename F>
double slope_at_zero(const F& f, float h) {
  return (8 * (f(h) - f(-h)) - (f(2 * h) - f(-2 * h))) / (12.0 * h);
}

// The loss sum(c y) over the outputs of one node, whose gradients by y are the random c.
class NodeLoss {
 public:
  NodeLoss(const Graph& graph, const Node& node, Batch batch, Activations values)
      : graph_(graph), node_(node), batch_(batch), values_(std::move(values)) {
    if (node.op == "Linear") {
      const auto linear = quant::read_linear(graph, node);
      weight_.resize(static_cast<size_t>(linear.n * linear.k));
      quant::read_weight(pool_, graph, node, 0, linear.n, weight_);
    }
    Activations made = values_;
    quant::NodeForward(graph, pool_).run(node, batch, made, weight_);
    for (const ValueId id : node.outputs) {
      const Activation& y = *made.at(id);
      c_[id] = *activation(batch.rows(), y.width, static_cast<uint32_t>(id) + 77);
    }
  }

  double loss(const Activations& values, std::span<const float> weight) {
    Activations made = values;
    quant::NodeForward(graph_, pool_).run(node_, batch_, made, weight);
    double sum = 0;
    for (const auto& [id, c] : c_) {
      const std::vector<float>& y = made.at(id)->data;
      for (size_t i = 0; i < y.size(); ++i) sum += static_cast<double>(c.data[i]) * y[i];
    }
    return sum;
  }

  // The loss as a function of a step along `direction` from an activation, or from the weight.
  double moved(ValueId id, const std::vector<float>& direction, float step) {
    Activation x = *values_.at(id);
    for (size_t i = 0; i < x.data.size(); ++i) x.data[i] += step * direction[i];
    Activations values = values_;
    values[id] = std::make_shared<const Activation>(std::move(x));
    return loss(values, weight_);
  }
  double moved_weight(const std::vector<float>& direction, float step) {
    std::vector<float> weight = weight_;
    for (size_t i = 0; i < weight.size(); ++i) weight[i] += step * direction[i];
    return loss(values_, weight);
  }

  void expect_derivatives() {
    Gradients gradients = c_;
    std::vector<float> dw(weight_.size(), 0.0F);
    quant::NodeBackward(graph_, pool_).run(node_, batch_, values_, gradients, {}, weight_, dw);
    for (const auto& [id, x] : values_) {
      if (std::find(node_.inputs.begin(), node_.inputs.end(), id) == node_.inputs.end()) continue;
      ASSERT_TRUE(gradients.contains(id)) << graph_.value_name(id);
      ASSERT_EQ(gradients.at(id).width, x->width);
      expect_gradient(
          gradients.at(id).data, graph_.value_name(id),
          [&, id = id](const auto& direction, float h) { return moved(id, direction, h); });
    }
    if (weight_.empty()) return;
    expect_gradient(dw, "weight",
                    [&](const auto& direction, float h) { return moved_weight(direction, h); });
    // They are added, and alike on two threads and without the gradient of the input.
    runtime::ThreadPool two(2);
    std::vector<float> twice = dw, again = dw;
    for (float& d : twice) d *= 2;
    Gradients more = c_;
    const std::vector<bool> nothing(graph_.values.size(), false);
    quant::NodeBackward(graph_, two).run(node_, batch_, values_, more, nothing, weight_, again);
    EXPECT_LE(max_abs_difference(again, twice), 1e-5F * max_abs(twice)) << node_.name;
    EXPECT_TRUE(more.empty());
  }

 private:
  template <typename Moved>
  void expect_gradient(const std::vector<float>& gradient, const std::string& by,
                       const Moved& moved) {
    const float tolerance = 3e-3F * max_abs(gradient) + 1e-4F;
    std::mt19937 random(5);
    std::vector<float> direction(gradient.size(), 0.0F);
    for (int i = 0; i < 10; ++i) {
      const size_t at = random() % gradient.size();
      direction[at] = 1;
      EXPECT_NEAR(slope_at_zero([&](float h) { return moved(direction, h); }, 0.02F), gradient[at],
                  tolerance)
          << node_.name << ", element " << at << " of " << by;
      direction[at] = 0;
    }
    direction = normal_values(static_cast<int64_t>(gradient.size()),
                              1 / std::sqrt(static_cast<float>(gradient.size())), 9);
    double along = 0;
    for (size_t i = 0; i < gradient.size(); ++i) {
      along += static_cast<double>(direction[i]) * gradient[i];
    }
    EXPECT_NEAR(slope_at_zero([&](float h) { return moved(direction, h); }, 0.05F), along,
                tolerance)
        << node_.name << " along a direction of " << by;
  }

  const Graph& graph_;
  const Node& node_;
  Batch batch_;
  Activations values_;
  std::vector<float> weight_;
  Gradients c_;
  runtime::ThreadPool pool_{1};
};

void expect_derivatives(const Graph& graph, const Batch& batch, const Activations& values) {
  for (const Node& node : graph.nodes) {
    Activations inputs;  // of this node
    for (const ValueId id : node.inputs) {
      if (values.contains(id)) inputs[id] = values.at(id);
    }
    NodeLoss(graph, node, batch, inputs).expect_derivatives();
  }
}

// Values that no step of the differences takes over a kink at zero.
std::shared_ptr<const Activation> away_from_zero(int64_t rows, int64_t width, uint32_t seed) {
  Activation x = *activation(rows, width, seed);
  for (float& v : x.data) v += v < 0 ? -0.3F : 0.3F;
  return std::make_shared<const Activation>(std::move(x));
}

TEST(NodeBackward, NormsAndElementwise) {
  FusedMaker maker;
  const ValueId x = input(maker, "x"), y = input(maker, "y");
  const ValueId weight = maker.vector("weight", 22, 1, 0.3F);
  const ValueId bias = maker.vector("bias", 22, 0, 0.3F);
  const FusedMaker::Attributes epsilon = {{"epsilon", 0.1F}};
  maker.fused("RMSNorm", "rms", {x, weight}, epsilon);
  maker.fused("LayerNorm", "layer", {x, weight, bias}, epsilon);
  for (const auto& [op, inputs] : std::vector<std::pair<std::string, std::vector<ValueId>>>{
           {"RMSNorm", {x, weight, y}}, {"LayerNorm", {x, weight, kNoValue, y}}}) {
    maker.fused(op, op + "_of_sum", inputs, epsilon);
    maker.graph.nodes.back().outputs.push_back(maker.graph.add_value(op + "_sum"));
  }
  for (const char* name : {"none", "silu", "gelu", "gelu_tanh", "quick_gelu", "relu", "relu2"}) {
    maker.fused("Activation", std::string("act_") + name, {x}, {{"activation", std::string(name)}});
    maker.fused("Gate", std::string("gate_") + name, {x, y}, {{"activation", std::string(name)}});
  }
  maker.fused("Gate", "square", {x, x}, {{"activation", std::string("silu")}});
  maker.fused("Add", "add", {x, y});
  maker.fused("Add", "twice", {x, x});
  maker.fused("LogitScale", "scaled", {x}, {{"scale", 0.25F}});
  maker.fused("LogitScale", "capped", {x}, {{"scale", 2.0F}, {"softcap", 3.0F}});
  expect_derivatives(maker.graph, {2, 3, {}},
                     {{x, away_from_zero(6, 22, 1)}, {y, away_from_zero(6, 22, 2)}});
}

TEST(NodeBackward, ActivationsAtZeroAndFarOut) {
  for (const char* name : {"silu", "gelu", "gelu_tanh", "quick_gelu", "relu", "relu2"}) {
    FusedMaker maker;
    const ValueId x = input(maker, "x");
    const ValueId y = maker.fused("Activation", "y", {x}, {{"activation", std::string(name)}});
    const Activations values = {
        {x, std::make_shared<const Activation>(Activation{5, {0, -0.0F, 1e-30F, 90, -90}})}};
    runtime::ThreadPool pool(1);
    Gradients gradients = {{y, {5, {1, 1, 1, 1, 1}}}};
    quant::NodeBackward(maker.graph, pool).run(maker.graph.nodes[0], {1, 1, {}}, values, gradients);
    std::vector<float> wanted = {0.5F, 0.5F, 0.5F, 1, 0};
    if (std::string(name) == "relu") wanted = {0, 0, 1, 1, 0};
    if (std::string(name) == "relu2") wanted = {0, 0, 2e-30F, 180, 0};
    EXPECT_LE(max_abs_difference(gradients.at(x).data, wanted), 1e-6F) << name;
  }
}

TEST(NodeBackward, Linears) {
  FusedMaker maker;
  const ValueId x = input(maker, "x"), residual = input(maker, "residual");
  const auto text = [](const char* name) { return std::string(name); };
  maker.linear("plain", x, 50, 33);
  maker.linear("activated", x, 50, 33, maker.vector("b1", 50, 0, 1), residual,
               {{"activation", text("gelu")}});
  maker.linear("padded", x, 64, 33, kNoValue, residual, {{"columns", int64_t{50}}});
  maker.linear("gated", x, 96, 33, maker.vector("b3", 96, 0, 1), kNoValue,
               {{"activation", text("silu")}, {"gate", int64_t{1}}});
  maker.linear("gated_padded", x, 128, 33, kNoValue, residual,
               {{"activation", text("gelu_tanh")}, {"gate", int64_t{1}}, {"columns", int64_t{50}}});
  maker.linear("panels", x, 1100, 33, kNoValue, kNoValue, {{"activation", text("quick_gelu")}});
  maker.linear("gated_panels", x, 1056, 33, kNoValue, kNoValue,
               {{"gate", int64_t{1}}, {"columns", int64_t{520}}});
  expect_derivatives(maker.graph, {2, 5, {}},
                     {{x, activation(10, 33, 1)}, {residual, activation(10, 50, 2)}});
}

TEST(NodeBackward, Attention) {
  FusedMaker maker;
  const ValueId equal = input(maker, "equal");      // 2 heads of 6
  const ValueId grouped = input(maker, "grouped");  // 4 heads of 6 over 2
  const ValueId slopes = maker.constant("slopes", {4}, {0.5F, 0.25F, 0.1F, 0.05F});
  const ValueId half = maker.constant("inv_freq", {3}, {1, 0.3F, 0.1F});
  const ValueId third = maker.constant("inv_freq2", {2}, {1, 0.2F});
  const auto attention = [&](const std::string& name, ValueId qkv, std::vector<ValueId> constants,
                             FusedMaker::Attributes more = {}) {
    const int64_t heads = qkv == equal ? 2 : 4;
    more.insert(
        {{"heads", heads}, {"kv_heads", int64_t{2}}, {"head_dim", int64_t{6}}, {"scale", 0.4F}});
    constants.insert(constants.begin(), qkv);
    maker.fused("Attention", name, std::move(constants), std::move(more));
  };
  attention("plain", equal, {});
  attention("shared", grouped, {});
  attention("window", grouped, {}, {{"window", int64_t{5}}});
  attention("softcap", grouped, {}, {{"softcap", 1.5F}});
  attention("alibi", grouped, {kNoValue, slopes}, {{"softcap", 4.0F}});
  attention("rotary", grouped, {half}, {{"rotary", int64_t{6}}, {"rope_scale", 1.3F}});
  attention("interleaved", equal, {third}, {{"rotary", int64_t{4}}, {"interleaved", int64_t{1}}});
  attention(
      "normed", grouped,
      {half, kNoValue, maker.vector("q_norm", 6, 1, 0.3F), maker.vector("k_norm", 6, 1, 0.3F)},
      {{"rotary", int64_t{6}}, {"norm_epsilon", 0.1F}});
  attention(
      "normed last", grouped,
      {half, kNoValue, maker.vector("q_norm2", 6, 1, 0.3F), maker.vector("k_norm2", 6, 1, 0.3F)},
      {{"rotary", int64_t{6}}, {"norm_epsilon", 0.1F}, {"norm_last", int64_t{1}}});
  expect_derivatives(maker.graph, {2, 11, {}},
                     {{equal, activation(22, 36, 1)}, {grouped, activation(22, 48, 2)}});
}

TEST(NodeBackward, NormsAndClipsOfHeads) {
  FusedMaker maker;
  const ValueId qkv = input(maker, "qkv");  // 4 heads of 6 over 2
  const ValueId weight = maker.vector("weight", 36, 1, 0.3F), bias = maker.vector("bias", 36, 0, 1);
  const auto norm = [&](const std::string& name, int64_t whole, int64_t centre,
                        std::vector<ValueId> constants) {
    constants.insert(constants.begin(), qkv);
    maker.fused("HeadNorm", name, std::move(constants),
                {{"heads", int64_t{4}},
                 {"kv_heads", int64_t{2}},
                 {"head_dim", int64_t{6}},
                 {"whole", whole},
                 {"centre", centre},
                 {"epsilon", 0.1F}});
  };
  norm("whole", 1, 0, {weight});
  norm("heads", 0, 0, {weight});
  norm("layer", 0, 1, {weight, bias});
  norm("whole layer", 1, 1, {weight});
  expect_derivatives(maker.graph, {2, 5, {}}, {{qkv, activation(10, 48, 1)}});
}

TEST(NodeBackward, ClipsPassOnWhatIsInside) {
  FusedMaker maker;
  const ValueId x = input(maker, "x");
  const ValueId y = maker.fused("Clip", "clip", {x}, {{"limit", 1.0F}});
  const Activation row{4, {0.5F, -2, 1.5F, -0.75F}};
  const Activations values = {{x, std::make_shared<const Activation>(row)}};
  Gradients gradients = {{y, Activation{4, {3, 5, 7, 9}}}};
  runtime::ThreadPool pool(1);
  quant::NodeBackward(maker.graph, pool)
      .run(maker.graph.nodes[0], {1, 1, {}}, values, gradients, {}, {}, {});
  EXPECT_EQ(gradients.at(x).data, (std::vector<float>{3, 0, 0, 9}));
}

// Blocks of queries and a window that begins inside one.
TEST(NodeBackward, LongAttention) {
  FusedMaker maker;
  const ValueId x = input(maker, "x");
  maker.fused("Attention", "long", {x},
              {{"heads", int64_t{2}},
               {"kv_heads", int64_t{1}},
               {"head_dim", int64_t{4}},
               {"scale", 0.5F},
               {"window", int64_t{50}}});
  expect_derivatives(maker.graph, {1, 140, {}}, {{x, activation(140, 16, 1)}});
}

// Half the squared error of a block's output, by the weights of all its Linears at once.
class BlockLoss {
 public:
  BlockLoss() : graph_(llama_graph(1, 32, 48, 50)), block_(quant::split_blocks(graph_)[1]) {
    for (size_t i = block_.first_node; i < block_.end_node; ++i) {
      const Node& node = graph_.nodes[i];
      if (node.op != "Linear") continue;
      const auto linear = quant::read_linear(graph_, node);
      auto& weight = weights_[node.name];
      weight.resize(static_cast<size_t>(linear.n * linear.k));
      quant::read_weight(pool_, graph_, node, 0, linear.n, weight);
    }
    input_ = {{block_.inputs[0], activation(batch_.rows(), 32, 3)}};
    target_ = *activation(batch_.rows(), 32, 4);
  }

  using Weights = std::map<std::string, std::vector<float>>;

  double loss(const Weights& weights) {
    Activations values = input_;
    quant::NodeForward(graph_, pool_).run(block_, batch_, values, [&](const Node& n) {
      return std::span(weights.at(n.name));
    });
    const std::vector<float>& y = values.at(block_.outputs[0])->data;
    double sum = 0;
    for (size_t i = 0; i < y.size(); ++i) {
      const double e = static_cast<double>(y[i]) - target_.data[i];
      sum += e * e / 2;
    }
    return sum;
  }

  Weights gradients(int threads) {
    runtime::ThreadPool pool(threads);
    Activations values = input_;
    const auto weight_of = [&](const Node& n) {
      return std::span<const float>(weights_.at(n.name));
    };
    quant::NodeForward(graph_, pool).run(block_, batch_, values, weight_of, quant::Keep::all);
    Activation error = *values.at(block_.outputs[0]);
    for (size_t i = 0; i < error.data.size(); ++i) error.data[i] -= target_.data[i];
    Weights gradients;
    for (const auto& [name, weight] : weights_) gradients[name].resize(weight.size());
    Gradients by_output;
    by_output[block_.outputs[0]] = std::move(error);
    quant::NodeBackward(graph_, pool)
        .run(block_, batch_, values, std::move(by_output), weight_of,
             [&](const Node& n) { return std::span(gradients.at(n.name)); });
    return gradients;
  }

  const Weights& weights() const { return weights_; }

 private:
  Graph graph_;
  quant::Block block_;
  Batch batch_{2, 9, {}};
  Weights weights_;
  Activations input_;
  Activation target_;
  runtime::ThreadPool pool_{1};
};

TEST(NodeBackward, OfAWholeBlock) {
  BlockLoss block;
  const auto gradients = block.gradients(1);
  ASSERT_EQ(gradients.size(), 4U);
  uint32_t seed = 20;
  for (const auto& [name, gradient] : gradients) {
    EXPECT_GT(max_abs(gradient), 0.1F) << name;
    // Along the gradient itself, where the loss changes most, and along a random direction.
    for (const bool steepest : {true, false}) {
      std::vector<float> direction =
          steepest ? gradient : normal_values(static_cast<int64_t>(gradient.size()), 1, ++seed);
      double norm = 0, along = 0;
      for (const float d : direction) norm += static_cast<double>(d) * d;
      norm = std::sqrt(norm);
      for (size_t i = 0; i < direction.size(); ++i) {
        direction[i] = static_cast<float>(direction[i] / norm);
        along += static_cast<double>(direction[i]) * gradient[i];
      }
      const double slope = slope_at_zero(
          [&, name = name](float h) {
            auto weights = block.weights();
            for (size_t i = 0; i < direction.size(); ++i) weights[name][i] += h * direction[i];
            return block.loss(weights);
          },
          0.02F);
      EXPECT_NEAR(slope, along, 1e-3 * std::abs(along) + 1e-2) << name << steepest;
    }
  }
  EXPECT_EQ(gradients, block.gradients(2));
}

}  // namespace
}  // namespace nibble::test
