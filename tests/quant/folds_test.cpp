#include "quant/folds/folds.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>
#include <map>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "graph/interpreter.h"
#include "graph/ops.h"
#include "jit/error.h"
#include "quant/formats/quantize.h"
#include "tests/support/quantized_tensors.h"

namespace nibble::quant {
namespace {

using graph::Array;
using graph::Graph;
using graph::kNoValue;
using graph::MatrixSource;
using graph::ValueId;
using Attributes = std::map<std::string, graph::Attribute>;
using Values = std::vector<float>;

constexpr int64_t kWidth = 24, kTokens = 3;

Values random_values(int64_t count, uint32_t seed) {
  std::mt19937 random(seed);
  Values values(static_cast<size_t>(count));
  for (float& value : values) value = static_cast<float>(random() % 2001) / 1000.0F - 1.0F;
  return values;
}

graph::TensorData tensor(graph::Shape shape) {
  const int64_t count = graph::element_count(shape);
  return graph::make_f32(std::move(shape), random_values(count, static_cast<uint32_t>(count)));
}

// A graph over hidden states x [1][tokens][kWidth].
struct Net {
  Graph graph;
  ValueId x = kNoValue;

  Net() {
    graph.origin = "net.onnx";
    x = graph.add_value("x");
    graph.inputs = {x};
  }
  ValueId matrix(int64_t n, int64_t k, const std::string& name = "w") {
    return graph.add_constant(name, MatrixSource::whole(tensor({k, n}), true));
  }
  ValueId vector(int64_t n) { return graph.add_constant("v", tensor({n})); }
  ValueId node(const std::string& op, std::vector<ValueId> inputs, Attributes attributes = {}) {
    const std::string name = "layers.0." + op + std::to_string(graph.nodes.size());
    const ValueId y = graph.add_value(name + "/y");
    graph.nodes.push_back({op,
                           std::string(graph::kNibbleDomain),
                           name,
                           std::move(inputs),
                           {y},
                           std::move(attributes)});
    return y;
  }
  ValueId norm(ValueId from) {
    return node("RMSNorm", {from, vector(kWidth)}, {{"epsilon", 1e-5F}});
  }
  ValueId linear(ValueId from, int64_t n, int64_t k, Attributes attributes = {}) {
    return node("Linear", {from, matrix(n, k), vector(n)}, std::move(attributes));
  }
  void output(ValueId y) { graph.outputs.push_back(y); }

  std::vector<Values> run() const {
    graph::Feeds feeds{{x, Array::of({1, kTokens, kWidth}, random_values(kTokens * kWidth, 99))}};
    std::vector<Values> all;
    const graph::Interpreter interpreter(graph);
    for (const Array& y : interpreter.run(feeds, graph.outputs)) {
      all.emplace_back(y.floats().begin(), y.floats().end());
    }
    return all;
  }
};

Values factors_of(const Fold& fold, uint32_t seed, bool powers_of_two) {
  std::mt19937 random(seed);
  Values factors(static_cast<size_t>(fold.factors()));
  for (float& factor : factors) {
    const auto exponent = static_cast<float>(random() % 401) / 100.0F - 2.0F;
    factor = std::exp2(powers_of_two ? std::round(exponent) : exponent);
  }
  return factors;
}

// The folds of a net, after checking that they leave its outputs: near with any factors, the same
// bits with powers of two.
std::vector<Fold> checked_folds(const Net& net) {
  std::vector<Fold> folds = find_folds(net.graph);
  const auto before = net.run();
  for (const bool powers : {false, true}) {
    Net folded = net;
    uint32_t seed = 1;
    for (const Fold& fold : folds) {
      apply_fold(folded.graph, fold, factors_of(fold, seed++, powers));
    }
    const auto after = folded.run();
    for (size_t i = 0; i < before.size(); ++i) {
      float most = 0;
      for (const float y : before[i]) most = std::max(most, std::fabs(y));
      for (size_t j = 0; j < before[i].size(); ++j) {
        EXPECT_NEAR(after[i][j], before[i][j], powers ? 0 : 2e-6F * most) << i << " " << j;
      }
    }
  }
  return folds;
}

Values columns_of(const Graph& graph, size_t node) {
  const MatrixSource& matrix = *graph.matrix(graph.nodes[node].inputs[1]);
  Values out(static_cast<size_t>(matrix.n * matrix.k));
  matrix.read_columns(0, matrix.n, out);
  return out;
}

Values vector_of(const Graph& graph, size_t node, size_t operand) {
  return graph::to_f32(*graph.tensor(graph.nodes[node].inputs[operand]));
}

TEST(Folds, NormIntoAllItsLinears) {
  for (const bool layer_norm : {false, true}) {
    Net net;
    const ValueId y = layer_norm
                          ? net.node("LayerNorm", {net.x, net.vector(kWidth), net.vector(kWidth)},
                                     {{"epsilon", 1e-5F}})
                          : net.norm(net.x);
    net.output(net.linear(y, 40, kWidth));
    net.output(net.node("Linear", {y, net.matrix(kWidth, kWidth), kNoValue, net.x},
                        {{"activation", std::string("gelu")}}));
    const auto folds = checked_folds(net);
    ASSERT_EQ(folds.size(), 1u);
    const Fold& fold = folds[0];
    EXPECT_EQ(fold.absorber, Absorber::norm);
    EXPECT_EQ(fold.node, 0u);
    EXPECT_EQ(fold.consumers, (std::vector<size_t>{1, 2}));
    EXPECT_EQ(fold.k, kWidth);
    EXPECT_EQ(fold.layer, 0);
    EXPECT_FALSE(fold.shares_factors());
    EXPECT_EQ(fold.name, layer_norm ? "layers.0.LayerNorm0 -> layers.0.Linear1 + layers.0.Linear2"
                                    : "layers.0.RMSNorm0 -> layers.0.Linear1 + layers.0.Linear2");
    // The numbers themselves.
    const Values s = factors_of(fold, 5, false);
    const Graph before = net.graph;
    apply_fold(net.graph, fold, s);
    for (const size_t consumer : fold.consumers) {
      const Values was = columns_of(before, consumer), is = columns_of(net.graph, consumer);
      for (size_t i = 0; i < was.size(); ++i) ASSERT_EQ(is[i], was[i] * s[i % s.size()]);
    }
    for (const size_t operand : {size_t{1}, size_t{2}}) {
      if (operand == 2 && !layer_norm) continue;
      const Values was = vector_of(before, 0, operand), is = vector_of(net.graph, 0, operand);
      for (size_t i = 0; i < was.size(); ++i) EXPECT_EQ(is[i], was[i] / s[i]);
    }
    EXPECT_EQ(vector_of(net.graph, 1, 2), vector_of(before, 1, 2));  // a consumer's bias stays
  }
}

TEST(Folds, LinearWithoutActivationOrWithRelu) {
  for (const char* activation :
       {"none", "relu", "gelu", "gelu_tanh", "quick_gelu", "silu", "relu2"}) {
    Net net;
    const ValueId h = net.linear(net.x, 20, kWidth, {{"activation", std::string(activation)}});
    net.output(net.linear(h, 7, 20));
    net.output(net.linear(h, 9, 20));
    const auto folds = checked_folds(net);
    const bool homogeneous = activation == std::string("none") || activation == std::string("relu");
    ASSERT_EQ(folds.size(), homogeneous ? 1u : 0u) << activation;
    if (!homogeneous) continue;
    EXPECT_EQ(folds[0].absorber, Absorber::columns);
    EXPECT_EQ(folds[0].consumers, (std::vector<size_t>{1, 2}));
  }
}

// 20 columns: a block of 16 gate and 16 up columns, then 4 of each with padding.
TEST(Folds, UpColumnsOfAGate) {
  for (const bool bias : {false, true}) {
    Net net;
    const Attributes gate{
        {"activation", std::string("silu")}, {"gate", int64_t{1}}, {"columns", int64_t{20}}};
    const ValueId b = bias ? net.vector(64) : kNoValue;
    const ValueId h = net.node("Linear", {net.x, net.matrix(64, kWidth), b}, gate);
    net.output(net.node("Linear", {h, net.matrix(kWidth, 20), kNoValue, net.x}));
    const auto folds = checked_folds(net);
    ASSERT_EQ(folds.size(), 1u);
    EXPECT_EQ(folds[0].absorber, Absorber::up);
    EXPECT_EQ(folds[0].k, 20);
    EXPECT_EQ(folds[0].columns[0], 16);
    EXPECT_EQ(folds[0].columns[15], 31);
    EXPECT_EQ(folds[0].columns[16], 48);
  }
}

TEST(Folds, UpThroughAGateOfItsOwn) {
  const Attributes silu{{"activation", std::string("silu")}};
  Net net;
  const ValueId other = net.norm(net.x);
  const ValueId g = net.linear(other, 20, kWidth), u = net.linear(net.x, 20, kWidth);
  net.output(g);  // the gate side may have other users
  net.output(net.linear(net.node("Gate", {g, u}, silu), kWidth, 20));
  const auto folds = checked_folds(net);
  ASSERT_EQ(folds.size(), 2u);
  EXPECT_EQ(folds[1].absorber, Absorber::up);
  EXPECT_EQ(folds[1].node, 2u);
  EXPECT_EQ(folds[1].consumers, (std::vector<size_t>{4}));

  Net squared;
  const ValueId both = squared.linear(squared.x, 20, kWidth);
  squared.output(squared.linear(squared.node("Gate", {both, both}, silu), kWidth, 20));
  EXPECT_TRUE(find_folds(squared.graph).empty());

  Net shared;
  const ValueId up = shared.linear(shared.x, 20, kWidth);
  shared.output(up);
  shared.output(shared.linear(shared.node("Gate", {shared.linear(shared.x, 20, kWidth), up}, silu),
                              kWidth, 20));
  EXPECT_TRUE(find_folds(shared.graph).empty());
}

// 4 heads of 6 over 2 KV heads: 48 columns, values in the last 12.
struct AttentionNet : Net {
  size_t qkv_node = 0, attention_node = 0;
  explicit AttentionNet(const Attributes& of_qkv = {}) {
    qkv_node = graph.nodes.size();
    const ValueId qkv = linear(x, 48, kWidth, of_qkv);
    attention_node = graph.nodes.size();
    const ValueId y = node("Attention", {qkv, kNoValue, kNoValue},
                           {{"layer", int64_t{0}},
                            {"heads", int64_t{4}},
                            {"kv_heads", int64_t{2}},
                            {"head_dim", int64_t{6}},
                            {"scale", 0.4F}});
    output(linear(y, kWidth, 24));
  }
};

TEST(Folds, ValuesThroughAttention) {
  const AttentionNet net;
  const auto folds = checked_folds(net);
  ASSERT_EQ(folds.size(), 1u);
  const Fold& fold = folds[0];
  EXPECT_EQ(fold.absorber, Absorber::value);
  EXPECT_EQ(fold.node, net.qkv_node);
  EXPECT_EQ(fold.k, 24);
  EXPECT_EQ(fold.factors(), 12);
  EXPECT_TRUE(fold.shares_factors());
  EXPECT_EQ(fold.columns.front(), 36);
  EXPECT_EQ(fold.columns.back(), 47);
  // Heads 0 and 1 read KV head 0, heads 2 and 3 KV head 1.
  EXPECT_EQ(fold.tied, (std::vector<int32_t>{0, 1, 2, 3, 4,  5,  0, 1, 2, 3, 4,  5,
                                             6, 7, 8, 9, 10, 11, 6, 7, 8, 9, 10, 11}));
}

TEST(Folds, NotThroughOtherAttention) {
  EXPECT_TRUE(find_folds(AttentionNet({{"activation", std::string("relu")}}).graph).empty());
  AttentionNet residual;
  residual.graph.nodes[residual.qkv_node].inputs.push_back(residual.graph.add_value("r"));
  EXPECT_TRUE(find_folds(residual.graph).empty());
  AttentionNet seen;  // the values are an output as well
  seen.output(seen.graph.nodes[seen.qkv_node].outputs[0]);
  EXPECT_TRUE(find_folds(seen.graph).empty());
  AttentionNet cached;
  cached.graph.nodes[cached.attention_node].outputs.push_back(cached.graph.add_value("present"));
  EXPECT_TRUE(find_folds(cached.graph).empty());
  AttentionNet past;
  past.graph.nodes[past.attention_node].inputs.resize(7, kNoValue);
  past.graph.nodes[past.attention_node].inputs[6] = past.graph.add_value("past");
  EXPECT_TRUE(find_folds(past.graph).empty());
}

// What a norm's output must not be used for.
TEST(Folds, NoneWhenSomethingElseUsesTheChannels) {
  const auto folds_with = [](auto change) {
    Net net;
    const ValueId y = net.norm(net.x);
    net.output(net.linear(y, kWidth, kWidth));
    change(net, y);
    return find_folds(net.graph).size();
  };
  EXPECT_EQ(folds_with([](Net&, ValueId) {}), 1u);
  EXPECT_EQ(folds_with([](Net& net, ValueId y) { net.output(y); }), 0u);
  EXPECT_EQ(folds_with([](Net& net, ValueId y) { net.output(net.node("Add", {net.x, y})); }), 0u);
  EXPECT_EQ(folds_with([](Net& net, ValueId y) {  // a residual
              net.output(net.node("Linear", {net.x, net.matrix(kWidth, kWidth), kNoValue, y}));
            }),
            0u);
  EXPECT_EQ(folds_with([](Net& net, ValueId y) {  // residual and operand of one Linear
              net.graph.nodes.back().inputs.push_back(y);
            }),
            0u);
  EXPECT_EQ(folds_with([](Net& net, ValueId y) { net.output(net.norm(y)); }), 0u);
  EXPECT_EQ(folds_with([](Net& net, ValueId y) {  // an operator that is not fused
              net.graph.nodes.back().domain = "";
              net.output(y);
            }),
            0u);
}

// Nor by its sum, which is a value of its own.
TEST(Folds, ANormsSumIsNotItsOutput) {
  Net net;
  const ValueId y = net.node("RMSNorm", {net.x, net.vector(kWidth), net.x}, {{"epsilon", 1e-5F}});
  const ValueId sum = net.graph.add_value("sum");
  net.graph.nodes[0].outputs.push_back(sum);
  net.output(net.node("Linear", {y, net.matrix(kWidth, kWidth), kNoValue, sum}));
  net.output(sum);
  EXPECT_EQ(checked_folds(net).size(), 1u);
}

MatrixSource quantized_matrix(int64_t n, int64_t k) {
  auto m = std::make_shared<graph::QuantizedMatrix>();
  m->n = n, m->k = k, m->group = 8, m->bits = 4, m->default_zero = 8;
  m->values = test::byte_tensor(graph::DType::u8, {n * k / 2},
                                std::vector<uint8_t>(static_cast<size_t>(n * k / 2), 0x5A));
  m->value_at = {k, 1};
  m->scales = tensor({n, k / 8});
  m->scale_at = {k / 8, 1};
  m->check("test");
  return MatrixSource::whole(std::move(m));
}

TEST(Folds, NoneIntoWeightsThatAreNotFloatsOfTheirOwn) {
  const auto folds_with = [](auto change) {
    Net net;
    const ValueId y = net.norm(net.x);
    net.output(net.linear(y, kWidth, kWidth));
    net.output(net.linear(y, kWidth, kWidth));
    const ValueId weight = net.graph.nodes[1].inputs[1];
    change(net, weight);
    return find_folds(net.graph).size();
  };
  const auto constant = [](Net& net, ValueId id) -> graph::Constant& {
    return *net.graph.values[static_cast<size_t>(id)].constant;
  };
  EXPECT_EQ(folds_with([](Net&, ValueId) {}), 1u);
  // Used twice: by an Embedding (a tied head), or by another Linear.
  EXPECT_EQ(folds_with([](Net& net, ValueId w) {
              net.output(net.node("Embedding", {net.graph.add_value("ids"), w}));
            }),
            0u);
  EXPECT_EQ(folds_with([](Net& net, ValueId w) {
              net.output(net.node("Linear", {net.x, w}));
            }),
            0u);
  EXPECT_EQ(folds_with([](Net& net, ValueId w) { net.graph.nodes[2].inputs[1] = w; }), 0u);
  // The same bytes as another constant, a matrix in the other order or a plain table.
  for (const bool as_matrix : {true, false}) {
    EXPECT_EQ(folds_with([&](Net& net, ValueId w) {
                const auto& bytes = net.graph.matrix(w)->parts[0].tensor;
                const ValueId table =
                    as_matrix ? net.graph.add_constant("table", MatrixSource::whole(bytes, false))
                              : net.graph.add_constant("table", bytes);
                net.output(net.node("Embedding", {net.graph.add_value("ids"), table}));
              }),
              0u);
  }
  // ... which nobody uses.
  EXPECT_EQ(folds_with([](Net& net, ValueId w) {
              net.graph.add_constant("old", net.graph.matrix(w)->parts[0].tensor);
            }),
            1u);
  EXPECT_EQ(
      folds_with([&](Net& net, ValueId w) { constant(net, w) = quantized_matrix(kWidth, kWidth); }),
      0u);
  EXPECT_EQ(folds_with([&](Net& net, ValueId w) {
              runtime::ThreadPool pool(1);
              constant(net, w) =
                  quantize_matrix(*net.graph.matrix(w), {}, RtnRange::full, "w", pool);
            }),
            0u);
}

TEST(Folds, NoneOutOfLinearsThatAddOrAreNotFloats) {
  const auto folds_with = [](auto change) {
    Net net;
    const ValueId h = net.linear(net.x, kWidth, kWidth);
    net.output(net.linear(h, kWidth, kWidth));
    change(net, net.graph.nodes[0]);
    return find_folds(net.graph).size();
  };
  EXPECT_EQ(folds_with([](Net&, graph::Node&) {}), 1u);
  EXPECT_EQ(folds_with([](Net& net, graph::Node& node) { node.inputs.push_back(net.x); }), 0u);
  EXPECT_EQ(folds_with([](Net& net, graph::Node& node) {
              node.inputs[1] = net.graph.add_constant("q", quantized_matrix(kWidth, kWidth));
            }),
            0u);
}

TEST(Folds, ASharedVectorGetsACopy) {
  Net net;
  const ValueId y = net.norm(net.x);
  net.output(net.linear(y, kWidth, kWidth));
  const ValueId weight = net.graph.nodes[0].inputs[1];
  net.output(net.node("RMSNorm", {net.x, weight}, {{"epsilon", 1e-5F}}));
  const Values before = vector_of(net.graph, 2, 1);
  const auto folds = checked_folds(net);
  ASSERT_EQ(folds.size(), 1u);
  apply_fold(net.graph, folds[0], Values(kWidth, 2.0F));
  EXPECT_EQ(vector_of(net.graph, 2, 1), before);
  EXPECT_EQ(net.graph.nodes[2].inputs[1], weight);
  EXPECT_NE(net.graph.nodes[0].inputs[1], weight);
  EXPECT_EQ(vector_of(net.graph, 0, 1)[3], before[3] / 2);
}

// A norm, QKV, attention, O, and a gated MLP: folds meet in one weight and undo each other exactly.
TEST(Folds, UndoneByTheInverse) {
  AttentionNet net;
  const ValueId y = net.norm(net.x);
  net.graph.nodes[net.qkv_node].inputs[0] = y;
  std::rotate(net.graph.nodes.begin(), net.graph.nodes.end() - 1, net.graph.nodes.end());
  const auto folds = checked_folds(net);
  ASSERT_EQ(folds.size(), 2u);
  Graph folded = net.graph;
  for (const Fold& fold : folds) apply_fold(folded, fold, factors_of(fold, 3, true));
  for (const size_t node : {size_t{1}, size_t{3}}) {
    EXPECT_NE(columns_of(folded, node), columns_of(net.graph, node));
  }
  for (const Fold& fold : folds) {
    Values factors = factors_of(fold, 3, true);
    for (float& factor : factors) factor = 1 / factor;
    apply_fold(folded, fold, factors);
  }
  for (const size_t node : {size_t{1}, size_t{3}}) {
    EXPECT_EQ(columns_of(folded, node), columns_of(net.graph, node));
    EXPECT_EQ(vector_of(folded, node, 2), vector_of(net.graph, node, 2));
    const auto weight = [&](const Graph& g) { return g.matrix(g.nodes[node].inputs[1])->parts[0]; };
    EXPECT_TRUE(weight(folded).same_as(weight(net.graph)));
  }
  EXPECT_EQ(vector_of(folded, 0, 1), vector_of(net.graph, 0, 1));
}

std::string failure(Graph& graph, const Fold& fold, const Values& factors) {
  try {
    apply_fold(graph, fold, factors);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Folds, BadFactorsChangeNothing) {
  AttentionNet net;
  const std::vector<Fold> folds = find_folds(net.graph);
  ASSERT_EQ(folds.size(), 1u);
  const auto before = net.run();
  EXPECT_EQ(
      failure(net.graph, folds[0], Values(24, 1)),
      "net.onnx: the fold 'layers.0.Linear0 -> layers.0.Linear2' takes 12 factors, found 24.");
  const float infinity = std::numeric_limits<float>::infinity();
  for (const float bad : {0.0F, -1.0F, infinity, std::nanf(""), 1e-42F}) {
    Values factors(12, 2.0F);
    factors[7] = bad;
    const std::string message = failure(net.graph, folds[0], factors);
    EXPECT_NE(message.find("factor 7 of the fold 'layers.0.Linear0 -> layers.0.Linear2' is"),
              std::string::npos)
        << message;
  }
  EXPECT_EQ(net.run(), before);
}

TEST(Folds, AFoldOfAnotherGraphIsRefused) {
  AttentionNet net;
  const Fold fold = find_folds(net.graph)[0];
  const Values ones(12, 2.0F);
  const auto refused = [&](auto change) {
    Graph other = net.graph;
    Fold changed = fold;
    change(other, changed);
    return failure(other, changed, ones).find("does not fit the graph") != std::string::npos;
  };
  EXPECT_FALSE(refused([](Graph&, Fold&) {}));
  EXPECT_TRUE(refused([](Graph& g, Fold&) { g.nodes.pop_back(); }));
  EXPECT_TRUE(refused([](Graph& g, Fold&) { g.nodes.clear(); }));
  EXPECT_TRUE(refused([](Graph& g, Fold&) { std::swap(g.nodes[0], g.nodes[1]); }));
  EXPECT_TRUE(refused([](Graph&, Fold& f) { f.columns.back() = 48; }));
  EXPECT_TRUE(refused([](Graph&, Fold& f) { f.tied.back() = 12; }));
  EXPECT_TRUE(refused([](Graph&, Fold& f) { f.tied.pop_back(); }));
  EXPECT_TRUE(refused([](Graph&, Fold& f) { f.absorber = Absorber::norm; }));
  EXPECT_TRUE(refused([](Graph& g, Fold& f) {
    g.values[static_cast<size_t>(g.nodes[f.consumers[0]].inputs[1])].constant =
        quantized_matrix(kWidth, 24);
  }));
}

}  // namespace
}  // namespace nibble::quant
