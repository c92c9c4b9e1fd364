#include "graph/graph.h"

#include <gtest/gtest.h>

#include <functional>

#include "jit/error.h"

namespace nibble::graph {
namespace {

// logits = Relu(x + 0.5) reshaped by a constant.
Graph small_graph() {
  Graph graph;
  graph.origin = "small.onnx";
  graph.opset = 17;
  const ValueId x = graph.add_value("x");
  graph.values[0].shape = Shape{-1, 4};
  const ValueId half = graph.add_constant("half", make_f32({}, {0.5F}));
  const ValueId sum = graph.add_value("sum");
  const ValueId relu = graph.add_value("");
  const ValueId shape = graph.add_constant("shape", make_i64({2}, {-1, 2}));
  const ValueId logits = graph.add_value("logits");
  graph.inputs = {x};
  graph.outputs = {logits};
  graph.nodes = {{.op = "Add",
                  .domain = "",
                  .name = "add",
                  .inputs = {x, half},
                  .outputs = {sum},
                  .attributes = {}},
                 {.op = "Relu",
                  .domain = "",
                  .name = "relu",
                  .inputs = {sum},
                  .outputs = {relu},
                  .attributes = {}},
                 {.op = "Reshape",
                  .domain = "",
                  .name = "reshape",
                  .inputs = {relu, shape},
                  .outputs = {logits},
                  .attributes = {{"allowzero", int64_t{0}}}}};
  graph.io.logits = logits;
  return graph;
}

std::string verify_error(const std::function<void(Graph&)>& damage) {
  Graph graph = small_graph();
  damage(graph);
  try {
    verify(graph);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Graph, TextIsStable) {
  EXPECT_EQ(to_text(small_graph()),
            "opset 17\n"
            "input x: f32[?,4]\n"
            "sum = Add(x, half: f32[]{0.5})\n"
            "%3 = Relu(sum)\n"
            "logits = Reshape(%3, shape: i64[2]{-1,2}) allowzero=0\n"
            "output logits\n");
}

TEST(Graph, TextSummarisesWeightsAndAttributes) {
  Graph graph;
  graph.opset = 17;
  const ValueId x = graph.add_value("x");
  const ValueId w =
      graph.add_constant("w", MatrixSource::whole(make_f32({3, 4}, std::vector<float>(12)), true));
  runtime::PackedMatrix packed;
  packed.view.n = 16, packed.view.k = 64;
  const ValueId p = graph.add_constant("p", packed);
  const ValueId big = graph.add_constant("big", make_f32({3, 3}, std::vector<float>(9)));
  const ValueId y = graph.add_value("y");
  graph.inputs = {x};
  graph.outputs = {y};
  graph.nodes = {{.op = "Linear",
                  .domain = "nibble",
                  .name = "n",
                  .inputs = {x, w, kNoValue, p, big},
                  .outputs = {y},
                  .attributes = {{"scale", 0.25F},
                                 {"axes", std::vector<int64_t>{0, -1}},
                                 {"act", std::string("silu")},
                                 {"fs", std::vector<float>{1, 2.5F}},
                                 {"value", make_i64({1}, {9})}}}};
  EXPECT_EQ(to_text(graph),
            "opset 17\n"
            "input x: f32\n"
            "y = nibble.Linear(x, w: matrix n=4 k=3 parts=1 segments=1, -, "
            "p: packed u4 g32 sym f16 n=16 k=64, big: f32[3,3]) "
            "act=\"silu\" axes=[0,-1] fs=[1.0,2.5] scale=0.25 value=i64[1]{9}\n"
            "output y\n");
}

TEST(Graph, VerifyAcceptsASoundGraph) {
  EXPECT_EQ(verify_error([](Graph&) {}), "");
}

TEST(Graph, VerifyNamesTheOffender) {
  EXPECT_EQ(verify_error([](Graph& g) { std::swap(g.nodes[0], g.nodes[1]); }),
            "Node \"relu\" (Relu) of small.onnx uses the value \"sum\" before it is made.");
  EXPECT_EQ(verify_error([](Graph& g) { g.nodes[1].outputs = {g.nodes[0].outputs[0]}; }),
            "Node \"relu\" (Relu) of small.onnx makes the value \"sum\", which is made already.");
  EXPECT_EQ(
      verify_error([](Graph& g) { g.nodes[1].inputs[0] = 77; }),
      "Node \"relu\" (Relu) of small.onnx refers to value 77, but the graph has values 0 to 5.");
  EXPECT_EQ(
      verify_error([](Graph& g) { g.nodes[1].outputs[0] = -7; }),
      "Node \"relu\" (Relu) of small.onnx refers to value -7, but the graph has values 0 to 5.");
  EXPECT_EQ(verify_error([](Graph& g) { g.nodes.pop_back(); }),
            "The list of graph outputs of small.onnx uses the value \"logits\" before it is made.");
  EXPECT_EQ(verify_error([](Graph& g) { g.inputs.push_back(g.inputs[0]); }),
            "The list of graph inputs of small.onnx makes the value \"x\", which is made already.");
  EXPECT_EQ(verify_error([](Graph& g) { g.io.position_ids = g.add_value("stray"); }),
            "The decoder's position_ids of small.onnx uses the value \"stray\" before it is made.");
  EXPECT_EQ(verify_error([](Graph& g) { g.io.layers.push_back({.past_key = 99}); }),
            "A layer's cache of small.onnx refers to value 99, but the graph has values 0 to 5.");
}

TEST(Graph, AttributesHaveTheirTypes) {
  const Node node{.op = "Op",
                  .domain = "",
                  .name = "n1",
                  .inputs = {3},
                  .outputs = {},
                  .attributes = {{"i", int64_t{4}},
                                 {"f", 0.5F},
                                 {"s", std::string("text")},
                                 {"is", std::vector<int64_t>{1, 2}}}};
  EXPECT_EQ(node.get_int("i"), 4);
  EXPECT_EQ(node.get_int("absent", 7), 7);
  EXPECT_EQ(node.get_float("f"), 0.5F);
  EXPECT_EQ(node.get_float("absent", 2), 2);
  EXPECT_EQ(node.get_string("s", ""), "text");
  EXPECT_EQ(node.get_string("absent", "other"), "other");
  EXPECT_EQ(node.get_ints("is"), (std::vector<int64_t>{1, 2}));
  EXPECT_EQ(node.get_ints("absent", {5}), (std::vector<int64_t>{5}));
  EXPECT_EQ(node.input(0), 3);
  EXPECT_EQ(node.input(1), kNoValue);
  for (const auto& [call, text] : std::vector<std::pair<std::function<void()>, std::string>>{
           {[&] { node.get_int("f"); },
            "Node \"n1\" (Op) has a float as attribute \"f\" where an integer is expected."},
           {[&] { node.get_int("absent"); }, "Node \"n1\" (Op) lacks the attribute \"absent\"."},
           {[&] { node.get_float("i", 1); },
            "Node \"n1\" (Op) has an integer as attribute \"i\" where a float is expected."},
           {[&] { node.get_ints("s"); },
            "Node \"n1\" (Op) has a string as attribute \"s\" where a list of integers is "
            "expected."}}) {
    try {
      call();
      ADD_FAILURE() << "no error instead of: " << text;
    } catch (const Error& error) {
      EXPECT_EQ(error.what(), text);
    }
  }
}

TEST(Graph, KnowsMakersAndUsers) {
  const Graph graph = small_graph();
  EXPECT_EQ(producers(graph), (std::vector<int32_t>{-1, -1, 0, 1, -1, 2}));
  EXPECT_EQ(consumers(graph), (std::vector<std::vector<int32_t>>{{0}, {0}, {1}, {2}, {2}, {}}));
}

TEST(Graph, ConstantsHaveTypeShapeAndName) {
  Graph graph = small_graph();
  const TensorData* tensor = graph.tensor(1);
  ASSERT_NE(tensor, nullptr);
  EXPECT_EQ(to_f32(*tensor), std::vector<float>{0.5F});
  EXPECT_EQ(graph.tensor(0), nullptr);
  EXPECT_EQ(graph.tensor(kNoValue), nullptr);
  EXPECT_EQ(graph.values[4].dtype, DType::i64);
  EXPECT_EQ(graph.values[4].shape, Shape{2});
  EXPECT_EQ(graph.value_name(3), "%3");
  EXPECT_EQ(graph.value_name(kNoValue), "-");
}

}  // namespace
}  // namespace nibble::graph
