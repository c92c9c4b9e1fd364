// Graphs that no exporter writes and a file may hold all the same: passes look at operands by
// number, and probe what is computed by computing it. Each ends in a fused or unfused graph or in
// an Error, soon and with little memory; peers' parsers fell to the like of each.
#include <gtest/gtest.h>

#include <chrono>
#include <limits>

#include "graph/interpreter.h"
#include "graph/lower.h"
#include "graph/operands.h"
#include "graph/ops.h"
#include "graph/passes.h"
#include "graph/probe.h"
#include "jit/error.h"
#include "tests/graph/one_node.h"
#include "tests/graph/pass_fixture.h"

namespace nibble::graph {
namespace {

using test::GraphMaker;

constexpr int64_t kMostInt = std::numeric_limits<int64_t>::max();

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

void expect_refused(Graph graph, const std::string& part) {
  const std::string message = message_of([&] { fuse(graph); });
  EXPECT_NE(message.find(part), std::string::npos) << message << "\n  expected: " << part;
}

TEST(Operands, ThatAreMissingAreNamedBeforeAnyPassLooks) {
  struct Lack {
    const char *op, *domain;
    size_t given;  // inputs
    const char* part;
  };
  for (const Lack& lack :
       {Lack{"MatMul", "", 1, "input 1"}, Lack{"Cast", "", 0, "input 0"},
        Lack{"Where", "", 2, "input 2"}, Lack{"Concat", "", 0, "input 0"},
        Lack{"Slice", "", 2, "input 2"}, Lack{"Gemm", "", 1, "input 1"},
        Lack{"Attention", "", 2, "input 2"}, Lack{"MatMulNBits", "com.microsoft", 2, "input 2"},
        Lack{"SkipLayerNormalization", "com.microsoft", 1, "input 1"},
        Lack{"Linear", "nibble", 1, "input 1"}}) {
    SCOPED_TRACE(lack.op);
    GraphMaker make;
    const ValueId x = make.embedding(8, 4);
    make.node(lack.op, "bad", std::vector<ValueId>(lack.given, x), {}, lack.domain);
    const std::string message = message_of([&] { verify(make.graph); });
    EXPECT_NE(message.find(lack.part), std::string::npos) << message;
    EXPECT_NE(message.find("\"bad\""), std::string::npos) << message;
    EXPECT_NE(message.find("test.onnx"), std::string::npos) << message;
    // An empty name in its place is no operand either.
    make.graph.nodes.back().inputs.resize(lack.given + 1, kNoValue);
    EXPECT_NE(message_of([&] { verify(make.graph); }), "");
  }
}

TEST(Operands, OfAVariadicOperatorAreAllThere) {
  GraphMaker make;
  const ValueId x = make.embedding(8, 4);
  make.node("Concat", "bad", {x, kNoValue, x}, {{"axis", int64_t{-1}}});
  EXPECT_NE(message_of([&] { verify(make.graph); }).find("input 1"), std::string::npos);
}

TEST(Operands, OutputsAreOperandsToo) {
  GraphMaker make;
  const ValueId x = make.embedding(8, 4);
  make.node("Tanh", "bad", {x});
  make.graph.nodes.back().outputs = {kNoValue};
  EXPECT_NE(message_of([&] { verify(make.graph); }).find("output 0"), std::string::npos);
  make.graph.nodes.back().outputs.clear();
  EXPECT_NE(message_of([&] { verify(make.graph); }).find("output 0"), std::string::npos);
  make.graph.nodes.back().op = "Unheard";  // what is not known is not judged
  EXPECT_EQ(message_of([&] { verify(make.graph); }), "");
}

TEST(HostileGraphs, AttributesOfAnotherKind) {
  GraphMaker make;
  const ValueId x = make.embedding(8, 4);
  const ValueId filled =
      make.node("ConstantOfShape", "filled", {make.ints("shape", {4})}, {{"value", int64_t{1}}});
  make.finish(make.node("Add", "logits", {x, filled}));
  message_of([&] { fuse(make.graph); });  // an Error or none, but no other exception

  GraphMaker axis;
  const ValueId scales = axis.constant("scales", {4}, {1, 1, 1, 1});
  TensorData bytes = make_i64({4, 4}, std::vector<int64_t>(16, 1));
  bytes.dtype = DType::u8;
  bytes.bytes = 16;
  const ValueId table = axis.graph.add_constant("u8", bytes);
  const ValueId wide = axis.node("DequantizeLinear", "wide", {table, scales}, {{"axis", kMostInt}});
  axis.finish(axis.node("MatMul", "logits", {axis.embedding(8, 4), wide}));
  message_of([&] { fuse(axis.graph); });
}

// Constants that grow beyond all bounds when they are folded: 64 KiB of file, 1 GiB of array.
TEST(HostileGraphs, FoldingBombs) {
  GraphMaker make;
  const std::vector<float> many(16384, 1.0F);
  const ValueId square = make.node(
      "Add", "square",
      {make.constant("column", {16384, 1}, many), make.constant("row", {1, 16384}, many)});
  const ValueId small = make.node("ReduceMax", "small", {square});
  make.finish(make.node("Add", "logits", {make.embedding(8, 4), small}));
  expect_refused(make.graph, "larger than what may be used");

  // Many steps of a middle size instead of one that is too large.
  GraphMaker steps;
  const std::vector<float> some(1024, 1.0F);
  const ValueId column = steps.constant("column", {1024, 1}, some),
                row = steps.constant("row", {1, 1024}, some);
  const ValueId plane = steps.node("Add", "plane", {column, row});
  ValueId sum = steps.scalar("zero", 0);
  for (int i = 0; i < 4000; ++i) {
    const std::string name = std::to_string(i);
    sum = steps.node("Add", "sum" + name,
                     {sum, steps.node("ReduceMax", "top" + name,
                                      {steps.node("MatMul", "product" + name, {plane, plane})})});
  }
  steps.finish(steps.node("Add", "logits", {steps.embedding(8, 4), sum}));
  const auto start = std::chrono::steady_clock::now();
  expect_refused(steps.graph, "steps would be needed");
  EXPECT_LT(std::chrono::steady_clock::now() - start, std::chrono::seconds(60));
}

// A matrix without elements may claim any number of columns.
TEST(HostileGraphs, EmptyMatricesAreNoWeights) {
  GraphMaker make;
  const ValueId nothing = make.constant("nothing", {0, int64_t{1} << 40}, {});
  const ValueId none = make.constant("none", {8, 0}, std::vector<float>{});
  const ValueId x = make.node("Gather", "x", {none, make.graph.io.input_ids});
  const ValueId wide = make.node("MatMul", "wide", {x, nothing});
  make.finish(make.node("Relu", "logits", {wide}));
  message_of([&] { fuse(make.graph); });
  for (const Node& node : make.graph.nodes) EXPECT_NE(node.op, "Linear");
}

// A chain of sums as deep as a file makes it: once a function called itself for each.
TEST(HostileGraphs, SumsOfThousandsOfTerms) {
  GraphMaker make;
  const ValueId x = make.embedding(8, 4);
  ValueId sum = x;
  constexpr int kTerms = 20000;
  for (int i = 0; i < kTerms; ++i) sum = make.node("Add", "sum" + std::to_string(i), {sum, x});
  make.finish(make.node("MatMul", "logits", {sum, make.matrix("head", 4, 8)}));
  const FusionReport report = fuse(make.graph);
  EXPECT_TRUE(report.complete());
  EXPECT_EQ(std::count_if(make.graph.nodes.begin(), make.graph.nodes.end(),
                          [](const Node& node) { return node.op == "Add"; }),
            kTerms);
}

// act(gate[:, :32]) * up, with a gate of 64: the columns of up end before those of the gate.
TEST(HostileGraphs, GatesOfUnequalWidthsStayApart) {
  GraphMaker make;
  const ValueId x = make.embedding(8, 4);
  const ValueId gate = make.node("MatMul", "gate", {x, make.matrix("wg", 4, 64)});
  const ValueId up = make.node("MatMul", "up", {x, make.matrix("wu", 4, 32)});
  const ValueId narrow =
      make.node("Slice", "narrow",
                {gate, make.ints("from", {0}), make.ints("to", {32}), make.ints("along", {2})});
  const ValueId gated = make.node(
      "Mul", "gated",
      {make.node("Mul", "silu", {narrow, make.node("Sigmoid", "sigmoid", {narrow})}), up});
  make.finish(make.node("MatMul", "logits", {gated, make.matrix("head", 32, 8)}));
  EXPECT_FALSE(fuse(make.graph).complete());
}

// One layer of attention as opset 23 writes it, over a cache.
class AttentionMaker : public GraphMaker {
 public:
  explicit AttentionMaker(Shape cache = {-1, 2, -1, 4}, int64_t concat_axis = 2) {
    const ValueId x = embedding(8, 8);
    LayerCache layer;
    layer.past_key = input("past_key_values.0.key", cache);
    layer.past_value = input("past_key_values.0.value", cache);
    std::vector<ValueId> heads;
    for (const std::string name : {"q", "k", "v"}) {
      const ValueId linear = node("MatMul", name, {x, matrix("w" + name, 8, 8)});
      const ValueId split = node("Reshape", name + "4", {linear, ints(name + "s", {0, 0, 2, 4})});
      heads.push_back(
          node("Transpose", name + "h", {split}, {{"perm", std::vector<int64_t>{0, 2, 1, 3}}}));
    }
    const std::map<std::string, Attribute> axis = {{"axis", concat_axis}};
    layer.present_key = node("Concat", "present.0.key", {layer.past_key, heads[1]}, axis);
    layer.present_value = node("Concat", "present.0.value", {layer.past_value, heads[2]}, axis);
    const ValueId mixed =
        node("Attention", "mixed", {heads[0], layer.present_key, layer.present_value},
             {{"is_causal", int64_t{1}}});
    const ValueId turned =
        node("Transpose", "turned", {mixed}, {{"perm", std::vector<int64_t>{0, 2, 1, 3}}});
    const ValueId rows = node("Reshape", "rows", {turned, ints("rs", {0, 0, 8})});
    const ValueId out = node("MatMul", "out", {rows, matrix("wo", 8, 8)});
    graph.io.layers = {layer};
    finish(node("MatMul", "logits", {node("Add", "sum", {x, out}), matrix("head", 8, 8)}));
    graph.outputs.push_back(layer.present_key);
    graph.outputs.push_back(layer.present_value);
  }

 private:
  ValueId input(const std::string& name, const Shape& shape) {
    const ValueId id = graph.add_value(name);
    graph.values[static_cast<size_t>(id)].shape = shape;
    graph.inputs.push_back(id);
    return id;
  }
};

TEST(HostileGraphs, SoundAttentionFuses) {  // or the ones below would show nothing
  AttentionMaker make;
  const FusionReport report = fuse(make.graph);
  EXPECT_TRUE(report.complete()) << to_text(make.graph);
}

TEST(HostileGraphs, CachesOfImpossibleSizes) {
  for (const Shape& cache :
       {Shape{-1, int64_t{1} << 30, -1, int64_t{1} << 20}, Shape{-1, 2, -1, int64_t{1} << 28},
        Shape{-1, kMostInt, -1, kMostInt}, Shape{int64_t{1} << 32, 2, -1, 4}, Shape{}, Shape{-1}}) {
    SCOPED_TRACE(to_string(cache));
    AttentionMaker make(cache);
    message_of([&] { EXPECT_FALSE(fuse(make.graph).complete()); });
  }
}

TEST(HostileGraphs, ContextsOfImpossibleLengths) {
  for (const int64_t length : {int64_t{1}, int64_t{1} << 22, int64_t{1} << 40, kMostInt}) {
    SCOPED_TRACE(length);
    AttentionMaker make;
    make.graph.context_length = length;
    EXPECT_TRUE(fuse(make.graph).complete());
  }
}

TEST(HostileGraphs, AxesOutsideOfTheCache) {
  for (const int64_t axis : {int64_t{4}, int64_t{-5}, int64_t{-100}, kMostInt, -kMostInt - 1}) {
    SCOPED_TRACE(axis);
    AttentionMaker make({-1, 2, -1, 4}, axis);
    message_of([&] { EXPECT_FALSE(fuse(make.graph).complete()); });
  }
}

TEST(HostileGraphs, LengthsOfOtherSequences) {
  const auto heads = test::floats({2, 1, 2, 4}, std::vector<float>(16, 0.5F));
  const std::string message = test::OneNode("Attention")
                                  .in(heads)
                                  .in(heads)
                                  .in(heads)
                                  .absent()
                                  .absent()
                                  .absent()
                                  .in(test::ints({1}, {2}))
                                  .error();
  EXPECT_NE(message.find("do not fit 2 sequences"), std::string::npos) << message;
}

TEST(ProbeLimits, GrowWithTheModel) {
  GraphMaker make;
  make.embedding(8, 4);
  const InterpreterLimits small = probe_limits(make.graph);
  make.matrix("more", 512, 512);
  const InterpreterLimits larger = probe_limits(make.graph);
  EXPECT_EQ(larger.bytes - small.bytes, 2 * 4 * 512 * 512);
  EXPECT_GT(larger.work, small.work);
  EXPECT_LE(small.bytes, int64_t{40} << 20);
}

TEST(ProbeLimits, AnInterpreterKeepsThem) {
  GraphMaker make;
  const ValueId column = make.constant("column", {256, 1}, std::vector<float>(256, 1.0F));
  const ValueId row = make.constant("row", {1, 256}, std::vector<float>(256, 1.0F));
  const ValueId plane = make.node("Add", "plane", {column, row});
  const ValueId product = make.node("MatMul", "product", {plane, plane});
  const auto run = [&](const InterpreterLimits& limits, ValueId wanted, int times) {
    const Interpreter interpreter(make.graph, limits);
    return message_of([&] {
      for (int i = 0; i < times; ++i) interpreter.run_one({}, wanted);
    });
  };
  constexpr int64_t kPlane = 256 * 256 * 4;
  EXPECT_EQ(run({}, product, 1), "");
  EXPECT_EQ(run({.bytes = kPlane + 4096}, plane, 100), "");  // what is dropped counts no more
  EXPECT_NE(run({.bytes = kPlane - 1}, plane, 1).find("\"plane\""), std::string::npos);
  EXPECT_NE(run({.bytes = 2 * kPlane - 1}, product, 1).find("\"product\""), std::string::npos);
  EXPECT_EQ(run({.work = int64_t{1} << 25}, product, 1), "");  // 256^3 is half of it
  EXPECT_NE(run({.work = int64_t{1} << 25}, product, 2).find("steps"), std::string::npos);
}

// What a .nib may say of fused operators; lower() checks it before it sizes anything.
TEST(HostileGraphs, FusedOperatorsThatDoNotFit) {
  const auto lowered = [](const std::map<std::string, Attribute>& attributes) {
    GraphMaker make;
    const ValueId x =
        make.node("Embedding", "x", {make.graph.io.input_ids, make.matrix("table", 8, 24)}, {},
                  std::string(kNibbleDomain));
    std::map<std::string, Attribute> all = {{"layer", int64_t{0}},
                                            {"heads", int64_t{2}},
                                            {"kv_heads", int64_t{2}},
                                            {"head_dim", int64_t{4}},
                                            {"scale", 0.5F}};
    for (const auto& [key, value] : attributes) all[key] = value;
    make.finish(make.node("Attention", "mixed", {x}, all, std::string(kNibbleDomain)));
    return message_of([&] { lower(make.graph, {}); });
  };
  for (const int64_t heads : {int64_t{0}, int64_t{-1}, int64_t{1} << 40, kMostInt}) {
    EXPECT_NE(lowered({{"heads", heads}}).find("mixed"), std::string::npos) << heads;
    EXPECT_NE(lowered({{"head_dim", heads}}).find("mixed"), std::string::npos) << heads;
    EXPECT_NE(lowered({{"kv_heads", heads}}).find("mixed"), std::string::npos) << heads;
  }
  EXPECT_NE(lowered({{"rotary", int64_t{6}}}).find("mixed"), std::string::npos);
  EXPECT_NE(lowered({{"heads", 2.0F}}).find("mixed"), std::string::npos);
}

}  // namespace
}  // namespace nibble::graph
