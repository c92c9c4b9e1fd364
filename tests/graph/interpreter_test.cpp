#include "graph/interpreter.h"

#include <gtest/gtest.h>
#include <sys/resource.h>

#include <array>

#include "jit/error.h"
#include "tests/graph/one_node.h"
#include "tests/support/error_of.h"

namespace nibble::graph {
namespace {

using test::error_of;

using test::floats;
using test::ints;
using test::values_f;
using test::values_i;
using F = std::vector<float>;

// a = x + 1; b = a * 2; c = b + y; with an unknown operator beside.
struct Small {
  Graph graph;
  ValueId x, y, one, a, b, c, odd;

  Small() {
    graph.origin = "small.onnx";
    x = graph.add_value("x"), y = graph.add_value("y");
    one = graph.add_constant("one", make_f32({}, {1}));
    const ValueId two = graph.add_constant("two", make_f32({}, {2}));
    a = graph.add_value("a"), b = graph.add_value("b");
    c = graph.add_value("c"), odd = graph.add_value("odd");
    graph.inputs = {x, y};
    add("Add", {x, one}, a);
    add("Frobnicate", {a}, odd);
    add("Mul", {a, two}, b);
    add("Add", {b, y}, c);
  }
  void add(const std::string& op, std::vector<ValueId> inputs, ValueId output) {
    Node node;
    node.op = op;
    node.name = op + std::to_string(graph.nodes.size());
    node.inputs = std::move(inputs);
    node.outputs = {output};
    graph.nodes.push_back(std::move(node));
  }
};

TEST(Interpreter, EvaluatesByDemand) {
  const Small small;
  const Interpreter interpreter(small.graph);
  // y and the unknown operator are not needed for b.
  const std::array wanted{small.b, small.a, small.x, small.one};
  const auto results = interpreter.run({{small.x, floats({2}, {1, 2})}}, wanted);
  EXPECT_EQ(values_f(results[0]), (F{4, 6}));
  EXPECT_EQ(values_f(results[1]), (F{2, 3}));
  EXPECT_EQ(values_f(results[2]), (F{1, 2}));
  EXPECT_EQ(values_f(results[3]), (F{1}));
}

TEST(Interpreter, FedValuesCutTheGraph) {
  const Small small;
  const Interpreter interpreter(small.graph);
  const Array b = floats({1}, {10}), y = floats({1}, {5});
  EXPECT_EQ(values_f(interpreter.run_one({{small.b, b}, {small.y, y}}, small.c)), (F{15}));
  // A fed value wins over the node that would make it, and over a constant.
  const Array x = floats({1}, {1});
  EXPECT_EQ(values_f(interpreter.run_one({{small.x, x}, {small.a, b}}, small.b)), (F{20}));
  EXPECT_EQ(values_f(interpreter.run_one({{small.x, x}, {small.one, b}}, small.a)), (F{11}));
}

TEST(Interpreter, ErrorsNameNodeAndValue) {
  const Small small;
  const Interpreter interpreter(small.graph);
  const Feeds feeds{{small.x, floats({}, {1})}};
  EXPECT_EQ(error_of([&] { interpreter.run_one(feeds, small.odd); }),
            "Node \"Frobnicate1\" (Frobnicate) of small.onnx: The interpreter has no operator "
            "\"Frobnicate\".");
  EXPECT_EQ(error_of([&] { interpreter.run_one(feeds, small.c); }),
            "Node \"Add3\" (Add) of small.onnx: The value \"y\" is neither fed nor made by an "
            "earlier node.");
  EXPECT_EQ(error_of([&] { interpreter.run_one({}, small.y); }),
            "The value \"y\" of small.onnx is neither fed nor made by a node.");
  EXPECT_EQ(error_of([&] { interpreter.run_one({}, 99); }),
            "Value 99 is wanted, but does not exist.");
  EXPECT_EQ(error_of([&] {
              interpreter.run_one({{-3, floats({}, {1})}}, small.a);
            }),
            "Value -3 is fed, but does not exist.");
}

TEST(Interpreter, ConstantsOfAllKinds) {
  Graph graph;
  const ValueId half = graph.add_constant("h", TensorData{make_f32({}, {1})});
  const ValueId integer = graph.add_constant("i", make_i64({1}, {5}));
  const ValueId matrix = graph.add_constant("m", MatrixSource::whole(make_f32({1, 1}, {1}), true));
  TensorData flags = make_i64({1}, {1});
  flags.dtype = DType::boolean;
  flags.shape = {8};
  const ValueId boolean = graph.add_constant("b", flags);
  TensorData cut = make_f32({2}, {1, 2});
  cut.bytes = 4;
  const ValueId broken = graph.add_constant("broken", cut);
  const Interpreter interpreter(graph);
  EXPECT_EQ(interpreter.run_one({}, half).kind, Array::Kind::f32);
  EXPECT_EQ(interpreter.run_one({}, integer).kind, Array::Kind::i64);
  const Array booleans = interpreter.run_one({}, boolean);
  EXPECT_EQ(booleans.kind, Array::Kind::boolean);
  EXPECT_EQ(values_i(booleans), (std::vector<int64_t>{1, 0, 0, 0, 0, 0, 0, 0}));
  EXPECT_NE(error_of([&] { interpreter.run_one({}, matrix); }), "");
  EXPECT_NE(error_of([&] { interpreter.run_one({}, broken); }).find("\"broken\""),
            std::string::npos);
}

int64_t peak_bytes() {
  rusage usage{};
  getrusage(RUSAGE_SELF, &usage);
  return int64_t{usage.ru_maxrss} * 1024;
}

TEST(Interpreter, ReleasesWhatNobodyNeedsAnyMore) {
  Graph graph;
  ValueId last = graph.add_value("x");
  const ValueId first = last;
  for (int i = 0; i < 100; ++i) {  // 800 MB, were every link of the chain held
    Node node;
    node.op = "Neg";
    node.inputs = {last};
    last = graph.add_value("");
    node.outputs = {last};
    graph.nodes.push_back(std::move(node));
  }
  const Interpreter interpreter(graph);
  const Array x = floats({int64_t{2} << 20}, F(size_t{2} << 20, 3.0F));
  const int64_t before = peak_bytes();
  EXPECT_EQ(interpreter.run_one({{first, x}}, last).f->at(0), 3.0F);
  EXPECT_LT(peak_bytes() - before, int64_t{500} << 20);
}

TEST(Interpreter, NodesOutOfOrderAreAnError) {
  Small small;
  std::swap(small.graph.nodes[0], small.graph.nodes[2]);
  const Interpreter interpreter(small.graph);
  EXPECT_NE(error_of([&] { interpreter.run_one({{small.x, floats({}, {1})}}, small.b); }), "");
}

TEST(Interpreter, ArraysCheckTheirKindAndSize) {
  EXPECT_THROW(Array::of({2}, F{1}), Error);
  EXPECT_THROW(floats({1}, {1}).ints(), Error);
  EXPECT_THROW(ints({1}, {1}).floats(), Error);
  EXPECT_THROW(Array().floats(), Error);
  EXPECT_EQ(values_i(Array::of_bool({2}, {0, 9})), (std::vector<int64_t>{0, 1}));
}

TEST(Interpreter, KnowsItsOperators) {
  Node node;
  node.op = "MatMul";
  EXPECT_TRUE(interpreter_knows(node));
  node.domain = "ai.onnx";
  EXPECT_TRUE(interpreter_knows(node));
  node.domain = "nibble";
  EXPECT_FALSE(interpreter_knows(node));
  node.op = "Linear";
  EXPECT_TRUE(interpreter_knows(node));
}

}  // namespace
}  // namespace nibble::graph
