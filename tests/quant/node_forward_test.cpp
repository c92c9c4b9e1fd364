// Every fused operator, with every attribute, against the interpreter, which computes in double.
#include "quant/blocks/node_forward.h"

#include <gtest/gtest.h>

#include "jit/error.h"
#include "quant/formats/quantize.h"
#include "quant/formats/random_weights.h"
#include "tests/quant/fused_fixture.h"
#include "tests/support/zoo.h"

namespace nibble::test {
namespace {

using graph::kNoValue;
using graph::ValueId;
using quant::Activations;
using quant::Batch;
using quant::NodeForward;

// Runs the graph's nodes both ways from the same inputs, and compares all outputs.
void expect_as_interpreted(const graph::Graph& graph, const Batch& batch, Activations values,
                           float tolerance = 2e-5F) {
  graph::Feeds feeds;
  for (const auto& [id, x] : values) {
    feeds[id] = graph::Array::of(graph::Shape{batch.sequences, batch.length, x->width}, x->data);
  }
  if (!batch.ids.empty()) {
    feeds[graph.io.input_ids] =
        graph::Array::of(graph::Shape{batch.sequences, batch.length},
                         std::vector<int64_t>(batch.ids.begin(), batch.ids.end()));
  }
  const graph::Interpreter interpreter(graph);
  Activations alone = values;
  runtime::ThreadPool one(1), two(2);
  for (const graph::Node& node : graph.nodes) {
    NodeForward(graph, two).run(node, batch, values);
    NodeForward(graph, one).run(node, batch, alone);
    for (const ValueId id : node.outputs) {
      const graph::Array wanted = interpreter.run_one(feeds, id);
      ASSERT_TRUE(values.contains(id)) << node.name;
      EXPECT_EQ(values.at(id)->width, wanted.shape.back()) << node.name;
      EXPECT_LE(max_abs_difference(values.at(id)->data, wanted.floats()),
                tolerance * (1 + max_abs(wanted.floats())))
          << node.name;
      EXPECT_EQ(values.at(id)->data, alone.at(id)->data) << node.name << " on two threads";
    }
  }
}

TEST(NodeForward, Embeddings) {
  FusedMaker maker;
  const ValueId ids = maker.graph.io.input_ids;
  const ValueId positions = maker.matrix("positions", 12, 24);
  maker.fused("Embedding", "of_source", {ids, maker.weight("source", 40, 24)}, {{"scale", 3.0F}});
  maker.fused("Embedding", "of_tensor", {ids, maker.matrix("tensor", 40, 24), positions},
              {{"position_offset", int64_t{2}}});
  runtime::ThreadPool pool(1);
  maker.fused("Embedding", "of_packed",
              {ids, maker.graph.add_constant(
                        "packed", quant::random_matrix({.type = jit::WeightType::u8, .group = 8},
                                                       40, 24, 1, pool))});
  const std::vector<int32_t> tokens = random_ids(20, 40, 1);
  expect_as_interpreted(maker.graph, {2, 10, tokens}, {});

  Activations values;
  const NodeForward forward(maker.graph, pool);
  EXPECT_THROW(forward.run(maker.graph.nodes[0], {2, 9, tokens}, values), Error);   // 20 ids
  EXPECT_THROW(forward.run(maker.graph.nodes[1], {1, 20, tokens}, values), Error);  // positions
  const std::vector<int32_t> outside = {3, 40};
  EXPECT_THROW(forward.run(maker.graph.nodes[0], {1, 2, outside}, values), Error);
}

TEST(NodeForward, NormsAndElementwise) {
  FusedMaker maker;
  const ValueId x = input(maker, "x"), y = input(maker, "y");
  const ValueId weight = maker.vector("weight", 70, 1, 0.3F);
  const ValueId bias = maker.vector("bias", 70, 0, 0.3F);
  FusedMaker::Attributes epsilon = {{"epsilon", 1e-3F}};
  maker.fused("RMSNorm", "rms", {x, weight}, epsilon);
  maker.fused("LayerNorm", "plain_layer", {x, weight}, epsilon);
  maker.fused("LayerNorm", "layer", {x, weight, bias}, epsilon);
  for (const auto& [op, inputs] : std::vector<std::pair<std::string, std::vector<ValueId>>>{
           {"RMSNorm", {x, weight, y}}, {"LayerNorm", {x, weight, bias, y}}}) {
    maker.fused(op, op + "_of_sum", inputs, epsilon);
    maker.graph.nodes.back().outputs.push_back(maker.graph.add_value(op + "_sum"));
  }
  for (const char* name : {"none", "silu", "gelu", "gelu_tanh", "quick_gelu", "relu", "relu2"}) {
    maker.fused("Activation", std::string("act_") + name, {x}, {{"activation", std::string(name)}});
    maker.fused("Gate", std::string("gate_") + name, {x, y}, {{"activation", std::string(name)}});
  }
  maker.fused("Add", "add", {x, y});
  maker.fused("LogitScale", "scaled", {x}, {{"scale", 0.25F}});
  maker.fused("LogitScale", "capped", {x}, {{"scale", 2.0F}, {"softcap", 3.0F}});
  expect_as_interpreted(maker.graph, {3, 7, {}},
                        {{x, activation(21, 70, 1)}, {y, activation(21, 70, 2, 2)}});
}

TEST(NodeForward, Linears) {
  FusedMaker maker;
  const ValueId x = input(maker, "x"), residual = input(maker, "residual");
  const auto text = [](const char* name) { return std::string(name); };
  maker.linear("plain", x, 50, 33);
  maker.linear("biased", x, 50, 33, maker.vector("b0", 50, 0, 1));
  maker.linear("activated", x, 50, 33, maker.vector("b1", 50, 0, 1), kNoValue,
               {{"activation", text("gelu")}});
  maker.linear("residual", x, 50, 33, maker.vector("b2", 50, 0, 1), residual);
  maker.linear("padded", x, 64, 33, kNoValue, residual, {{"columns", int64_t{50}}});
  maker.linear("gated", x, 96, 33, maker.vector("b3", 96, 0, 1), kNoValue,
               {{"activation", text("silu")}, {"gate", int64_t{1}}});
  maker.linear("gated_padded", x, 128, 33, kNoValue, residual,
               {{"activation", text("gelu_tanh")}, {"gate", int64_t{1}}, {"columns", int64_t{50}}});
  maker.linear("panels", x, 2100, 33, maker.vector("b4", 2100, 0, 1));
  maker.linear("gated_panels", x, 2112, 33, maker.vector("b5", 2112, 0, 1), kNoValue,
               {{"gate", int64_t{1}}, {"columns", int64_t{1030}}});
  expect_as_interpreted(maker.graph, {2, 5, {}},
                        {{x, activation(10, 33, 1)}, {residual, activation(10, 50, 2)}});
}

TEST(NodeForward, LinearTakesAnotherWeight) {
  FusedMaker maker;
  const ValueId x = input(maker, "x");
  maker.linear("y", x, 20, 8);
  runtime::ThreadPool pool(2);
  const NodeForward forward(maker.graph, pool);
  Activations values = {{x, activation(3, 8, 1)}};
  std::vector<float> twice = normal_values(20 * 8, 1 / std::sqrt(8.0F), 1);  // its own weight's
  for (float& w : twice) w *= 2;
  const graph::Node& node = maker.graph.nodes[0];
  forward.run(node, {1, 3, {}}, values);
  const std::vector<float> once = values.at(node.outputs[0])->data;
  forward.run(node, {1, 3, {}}, values, twice);
  for (size_t i = 0; i < once.size(); ++i) {
    EXPECT_EQ(values.at(node.outputs[0])->data[i], 2 * once[i]);
  }
  EXPECT_THROW(forward.run(node, {1, 3, {}}, values, std::span(twice).first(8)), Error);
}

TEST(NodeForward, LinearOfPackedWeights) {
  FusedMaker maker;
  const ValueId x = input(maker, "x");
  runtime::ThreadPool pool(1);
  const jit::WeightFormat format{.type = jit::WeightType::u4, .group = 16, .asym = true};
  const ValueId packed =
      maker.graph.add_constant("packed", quant::random_matrix(format, 50, 40, 3, pool));
  maker.fused("Linear", "y", {x, packed});
  expect_as_interpreted(maker.graph, {2, 5, {}}, {{x, activation(10, 40, 1)}});
}

// Longer than a block of queries, so that blocks, windows and the end of a sequence meet.
TEST(NodeForward, Attention) {
  FusedMaker maker;
  const auto inv_freq = [&](int64_t half) { return maker.vector("inv_freq", half, 0.5F, 0.2F); };
  const auto attention = [&](const std::string& name, ValueId qkv, std::vector<ValueId> constants,
                             int64_t heads, int64_t kv_heads, int64_t dim,
                             FusedMaker::Attributes more = {}) {
    more.insert({{"heads", heads}, {"kv_heads", kv_heads}, {"head_dim", dim}, {"scale", 0.4F}});
    constants.insert(constants.begin(), qkv);
    maker.fused("Attention", name, std::move(constants), std::move(more));
  };
  const ValueId equal = input(maker, "equal");      // 3 heads of 10
  const ValueId grouped = input(maker, "grouped");  // 6 heads of 10 over 2
  const ValueId slopes = maker.constant("slopes", {6}, {0.5F, 0.25F, 0.1F, 0.05F, 0, 1});
  attention("plain", equal, {}, 3, 3, 10);
  attention("shared", grouped, {}, 6, 2, 10);
  attention("window", grouped, {}, 6, 2, 10, {{"window", int64_t{37}}});
  attention("narrow", equal, {}, 3, 3, 10, {{"window", int64_t{1}}});
  attention("softcap", grouped, {}, 6, 2, 10, {{"softcap", 1.5F}});
  attention("alibi", grouped, {kNoValue, slopes}, 6, 2, 10, {{"softcap", 4.0F}});
  attention("rotary", grouped, {inv_freq(5)}, 6, 2, 10, {{"rotary", int64_t{10}}});
  attention("partial", grouped, {inv_freq(2)}, 6, 2, 10, {{"rotary", int64_t{4}}});
  attention("interleaved", equal, {inv_freq(4)}, 3, 3, 10,
            {{"rotary", int64_t{8}}, {"interleaved", int64_t{1}}, {"rope_scale", 1.3F}});
  attention("normed", grouped,
            {inv_freq(5), kNoValue, maker.vector("q_norm", 10, 1, 0.3F),
             maker.vector("k_norm", 10, 1, 0.3F)},
            6, 2, 10, {{"rotary", int64_t{10}}, {"norm_epsilon", 1e-2F}});
  attention("normed last", grouped,
            {inv_freq(5), kNoValue, maker.vector("q_norm2", 10, 1, 0.3F),
             maker.vector("k_norm2", 10, 1, 0.3F)},
            6, 2, 10,
            {{"rotary", int64_t{10}}, {"norm_epsilon", 1e-2F}, {"norm_last", int64_t{1}}});
  expect_as_interpreted(maker.graph, {2, 133, {}},
                        {{equal, activation(266, 90, 1)}, {grouped, activation(266, 100, 2)}});
}

TEST(NodeForward, NormsAndClipsOfHeads) {
  FusedMaker maker;
  const ValueId qkv = input(maker, "qkv");  // 6 heads of 10 over 2
  const ValueId weight = maker.vector("weight", 80, 1, 0.3F), bias = maker.vector("bias", 80, 0, 1);
  for (const int64_t whole : {0, 1}) {
    for (const int64_t centre : {0, 1}) {
      std::vector<ValueId> operands = {qkv, weight};
      if (centre != 0) operands.push_back(bias);
      maker.fused("HeadNorm", fmt::format("norm {} {}", whole, centre), std::move(operands),
                  {{"heads", int64_t{6}},
                   {"kv_heads", int64_t{2}},
                   {"head_dim", int64_t{10}},
                   {"whole", whole},
                   {"centre", centre},
                   {"epsilon", 1e-2F}});
    }
  }
  maker.fused("Clip", "clip", {qkv}, {{"limit", 0.4F}});
  expect_as_interpreted(maker.graph, {2, 33, {}}, {{qkv, activation(66, 100, 2)}});
}

TEST(NodeForward, Errors) {
  FusedMaker maker;
  const ValueId x = input(maker, "x");
  maker.linear("y", x, 20, 8);
  maker.node("Relu", "z", {x});
  runtime::ThreadPool pool(1);
  const NodeForward forward(maker.graph, pool);
  const auto error = [&](size_t node, Batch batch, Activations values) -> std::string {
    try {
      forward.run(maker.graph.nodes[node], batch, values);
    } catch (const Error& caught) {
      return caught.what();
    }
    return "";
  };
  EXPECT_EQ(error(0, {1, 3, {}}, {}),
            "test.onnx: node 'y' (Linear) needs the activation 'x', which is not there.");
  EXPECT_EQ(error(0, {1, 3, {}}, {{x, activation(3, 9, 1)}}),
            "test.onnx: node 'y' (Linear) expects rows of 8 in 'x', found 9.");
  EXPECT_EQ(error(0, {1, 3, {}}, {{x, activation(2, 8, 1)}}),
            "test.onnx: the activation 'x' has 16 values, expected 3 rows of 8.");
  EXPECT_EQ(error(1, {1, 3, {}}, {{x, activation(3, 8, 1)}}),
            "test.onnx: node 'z' (Relu) is no fused operator and cannot be calibrated.");
  EXPECT_NE(error(0, {0, 3, {}}, {{x, activation(0, 8, 1)}}), "");
}

}  // namespace
}  // namespace nibble::test
