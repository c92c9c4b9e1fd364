#include "graph/interpreted_decoder.h"

#include <gtest/gtest.h>

#include <functional>

#include "jit/error.h"
#include "tests/support/error_of.h"

namespace nibble::graph {
namespace {

using test::error_of;

using F = std::vector<float>;

Node make_node(std::string op, std::vector<ValueId> inputs, ValueId output,
               std::map<std::string, Attribute> attributes = {}, std::string domain = "") {
  Node node;
  node.name = "node of " + op;
  node.op = std::move(op);
  node.domain = std::move(domain);
  node.inputs = std::move(inputs);
  node.outputs = {output};
  node.attributes = std::move(attributes);
  return node;
}

// A decoder that shows what it was fed: the four logits of a position are ten times its id, the sum
// of the cached ids times ten, its position and the length of the mask.
std::shared_ptr<Graph> telltale() {
  auto graph = std::make_shared<Graph>();
  Graph& g = *graph;
  g.origin = "telltale.onnx";
  g.opset = 17;
  const auto input = [&](const char* name, DType dtype, Shape shape) {
    const ValueId id = g.add_value(name, dtype);
    g.values.back().shape = std::move(shape);
    g.inputs.push_back(id);
    return id;
  };
  const auto apply = [&](const char* op, std::vector<ValueId> inputs,
                         std::map<std::string, Attribute> attributes = {}) {
    const ValueId out = g.add_value("");
    g.nodes.push_back(make_node(op, std::move(inputs), out, std::move(attributes)));
    return out;
  };
  g.io.input_ids = input("input_ids", DType::i64, {-1, -1});
  g.io.attention_mask = input("attention_mask", DType::i64, {-1, -1});
  g.io.position_ids = input("position_ids", DType::i64, {-1, -1});
  LayerCache layer;
  layer.past_key = input("past.key", DType::f32, {-1, 1, -1, 1});
  layer.past_value = input("past.value", DType::f32, {-1, 1, -1, 1});
  const ValueId table = g.add_constant("table", make_f32({4, 1}, {0, 10, 20, 30}));
  const ValueId one = g.add_constant("one", make_i64({1}, {1}));
  const ValueId two = g.add_constant("two", make_i64({1}, {2}));
  const ValueId zero = g.add_constant("zero", make_f32({}, {0}));
  const ValueId embedded = apply("Gather", {table, g.io.input_ids});
  const ValueId row = apply("Unsqueeze", {embedded, one});
  layer.present_key = apply("Concat", {layer.past_key, row}, {{"axis", int64_t{2}}});
  layer.present_value = apply("Concat", {layer.past_value, row}, {{"axis", int64_t{-2}}});
  const ValueId nothing = apply("Mul", {embedded, zero});
  const ValueId cached =
      apply("Add", {nothing, apply("ReduceSum", {layer.past_key}, {{"keepdims", int64_t{0}}})});
  const ValueId place =
      apply("Unsqueeze", {apply("Cast", {g.io.position_ids}, {{"to", int64_t{1}}}), two});
  const ValueId mask =
      apply("Cast", {apply("ReduceSum", {g.io.attention_mask}, {{"keepdims", int64_t{0}}})},
            {{"to", int64_t{1}}});
  const ValueId length = apply("Add", {nothing, mask});
  g.io.logits = apply("Concat", {embedded, cached, place, length}, {{"axis", int64_t{-1}}});
  g.values[static_cast<size_t>(g.io.logits)].shape = Shape{-1, -1, 4};
  g.outputs = {g.io.logits, layer.present_key, layer.present_value};
  g.io.layers = {layer};
  g.context_length = 5;
  verify(g);
  return graph;
}

F forward(InterpretedDecoder& decoder, const std::vector<int32_t>& ids) {
  const auto logits = decoder.forward(ids);
  return {logits.begin(), logits.end()};
}

TEST(InterpretedDecoder, FeedsIdsPositionsMaskAndCache) {
  InterpretedDecoder decoder(telltale(), 0);
  EXPECT_EQ(decoder.vocab_size(), 4);
  EXPECT_EQ(decoder.context_length(), 5);
  EXPECT_EQ(forward(decoder, {1, 3}), (F{30, 0, 1, 2}));
  EXPECT_EQ(forward(decoder, {2}), (F{20, 40, 2, 3}));
  EXPECT_EQ(decoder.position(), 3);
  F all(8);
  decoder.forward_all(std::vector<int32_t>{0, 1}, all);
  EXPECT_EQ(all, (F{0, 60, 3, 5, 10, 60, 4, 5}));
  decoder.reset();
  EXPECT_EQ(decoder.position(), 0);
  EXPECT_EQ(forward(decoder, {1}), (F{10, 0, 0, 1}));
}

TEST(InterpretedDecoder, RefusesBadIdsAndOverrunsAndStaysAsItWas) {
  InterpretedDecoder decoder(telltale(), 3);
  EXPECT_EQ(decoder.context_length(), 3);
  forward(decoder, {1, 2});
  F room(4);
  for (const std::vector<int32_t>& ids : std::vector<std::vector<int32_t>>{{}, {4}, {-1}, {0, 0}}) {
    EXPECT_THROW(decoder.forward(ids), Error);
    EXPECT_THROW(decoder.forward_all(ids, room), Error);
    EXPECT_EQ(decoder.position(), 2);
  }
  F small(3);
  EXPECT_THROW(decoder.forward_all(std::vector<int32_t>{0}, small), Error);
  EXPECT_EQ(forward(decoder, {3}), (F{30, 30, 2, 3}));
}

TEST(InterpretedDecoder, FindsTheVocabularyWhenItIsNotDeclared) {
  const auto graph = telltale();
  graph->values[static_cast<size_t>(graph->io.logits)].shape.reset();
  InterpretedDecoder decoder(graph, 0);
  EXPECT_EQ(decoder.vocab_size(), 4);
  EXPECT_EQ(decoder.position(), 0);
  EXPECT_EQ(forward(decoder, {1}), (F{10, 0, 0, 1}));
}

TEST(InterpretedDecoder, MaskHasTheDeclaredType) {
  const auto graph = telltale();
  graph->values[static_cast<size_t>(graph->io.attention_mask)].dtype = DType::f32;
  InterpretedDecoder decoder(graph, 0);
  EXPECT_EQ(forward(decoder, {1, 1}), (F{10, 0, 1, 2}));
}

TEST(InterpretedDecoder, RefusesGraphsThatAreNoDecoders) {
  const auto refusal = [](const std::function<void(Graph&)>& damage) {
    const auto graph = telltale();
    damage(*graph);
    return error_of([&] { InterpretedDecoder(graph, 0); });
  };
  EXPECT_EQ(refusal([](Graph& g) { g.io.input_ids = kNoValue; }),
            "The graph of telltale.onnx has no input_ids, so it is no decoder.");
  EXPECT_EQ(refusal([](Graph& g) { g.io.logits = kNoValue; }),
            "The graph of telltale.onnx has no logits, so it is no decoder.");
  EXPECT_EQ(refusal([](Graph& g) { g.io.layers[0].present_value = kNoValue; }),
            "The layer of \"past.key\" in telltale.onnx lacks one of its cache tensors.");
  EXPECT_EQ(refusal([](Graph& g) { g.nodes[0].op = "Frobnicate"; }),
            "Node \"node of Gather\" of telltale.onnx is a \"Frobnicate\", an operator that is not "
            "supported.");
  const std::string shape =
      "The cache input \"past.value\" of telltale.onnx is declared as [2,1,-1,1], not as one "
      "sequence (or any number) with one unknown dimension for the positions.";
  EXPECT_EQ(refusal([](Graph& g) {
              g.values[static_cast<size_t>(g.io.layers[0].past_value)].shape = Shape{2, 1, -1, 1};
            }),
            shape);
  EXPECT_NE(refusal([](Graph& g) {
              g.values[static_cast<size_t>(g.io.layers[0].past_value)].shape.reset();
            }),
            "");
}

// Fused attention and learned positions hide their state; stepping must equal one call.
TEST(InterpretedDecoder, FusedLayersKeepTheirState) {
  auto graph = std::make_shared<Graph>();
  Graph& g = *graph;
  const ValueId ids = g.add_value("input_ids", DType::i64);
  g.inputs = {ids};
  g.io.input_ids = ids;
  F table(40), places(48);
  for (size_t i = 0; i < table.size(); ++i) table[i] = static_cast<float>(i * 7 % 13) / 6 - 1;
  for (size_t i = 0; i < places.size(); ++i) places[i] = static_cast<float>(i * 5 % 11) / 5 - 1;
  const ValueId weights = g.add_constant("table", make_f32({5, 8}, table));
  const ValueId positions = g.add_constant("positions", make_f32({6, 8}, places));
  const ValueId frequency = g.add_constant("inv_freq", make_f32({1}, {0.7F}));
  const ValueId embedded = g.add_value("embedded"), out = g.add_value("logits");
  g.nodes.push_back(make_node("Embedding", {ids, weights, positions}, embedded, {}, "nibble"));
  g.nodes.push_back(make_node("Attention", {embedded, frequency}, out,
                              {{"layer", int64_t{0}},
                               {"heads", int64_t{2}},
                               {"kv_heads", int64_t{1}},
                               {"head_dim", int64_t{2}},
                               {"scale", 0.7F},
                               {"rotary", int64_t{2}}},
                              "nibble"));
  g.values[static_cast<size_t>(out)].shape = Shape{-1, -1, 4};
  g.outputs = {out};
  g.io.logits = out;
  InterpretedDecoder decoder(graph, 6);
  const std::vector<int32_t> tokens{1, 3, 0, 2, 1, 3};
  F whole(tokens.size() * 4), parts(whole.size());
  decoder.forward_all(tokens, whole);
  decoder.reset();
  for (size_t i = 0; i < tokens.size(); ++i) {
    decoder.forward_all(std::span(tokens).subspan(i, 1), std::span(parts).subspan(i * 4, 4));
  }
  EXPECT_EQ(whole, parts);
  EXPECT_NE(F(whole.begin(), whole.begin() + 4), F(whole.begin() + 16, whole.begin() + 20));
  EXPECT_EQ(g.io.layers.size(), 0U);  // the caller's graph is as it was
}

}  // namespace
}  // namespace nibble::graph
