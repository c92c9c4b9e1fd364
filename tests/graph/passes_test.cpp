// Each pass on the smallest graph that shows it: golden text before and after, and the cases in
// which it must leave the graph alone.
#include "graph/passes.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <functional>
#include <limits>

#include "graph/interpreter.h"
#include "graph/probe.h"
#include "tests/graph/pass_fixture.h"

namespace nibble::graph {
namespace {

using test::GraphMaker;
using test::operators;
using Names = std::vector<std::string>;

// The logits of ids 0, 1, 2, before and after a pass: the same function.
std::vector<float> logits_of(const Graph& graph) {
  Feeds feeds = decoder_feeds(graph, {.tokens = 3, .past = 0});
  feeds[graph.io.input_ids] = Array::of({1, 3}, std::vector<int64_t>{0, 1, 2});
  const Interpreter interpreter(graph);
  const Array logits = interpreter.run_one(feeds, graph.io.logits);
  return {logits.floats().begin(), logits.floats().end()};
}

void expect_same_function(const Graph& before, const Graph& after) {
  EXPECT_LT(relative_difference(logits_of(after), logits_of(before)), 1e-5);
}

TEST(FoldConstants, EvaluatesConstantsAndDropsFloatCasts) {
  GraphMaker make;
  const ValueId x = make.embedding(4, 2);
  const ValueId two = make.node("Add", "two", {make.scalar("a", 1), make.scalar("b", 1)});
  const ValueId cast = make.node("Cast", "cast", {x}, {{"to", int64_t{1}}});
  Graph graph = make.finish(make.node("Mul", "logits", {cast, two}));
  const Graph before = graph;
  EXPECT_EQ(operators(graph), (Names{"Gather", "Add", "Cast", "Mul"}));
  EXPECT_EQ(fold_constants(graph), 2);
  verify(graph);
  EXPECT_EQ(operators(graph), (Names{"Gather", "Mul"}));
  expect_same_function(before, graph);
  EXPECT_EQ(fold_constants(graph), 0);
}

TEST(FoldConstants, KeepsCastsThatCompute) {
  GraphMaker make;
  const ValueId x = make.embedding(4, 2);
  const ValueId whole = make.node("Cast", "whole", {x}, {{"to", int64_t{7}}});
  Graph graph = make.finish(make.node("Cast", "logits", {whole}, {{"to", int64_t{1}}}));
  fold_constants(graph);
  EXPECT_EQ(operators(graph), (Names{"Gather", "Cast", "Cast"}));
}

TEST(FoldConstants, DropsSlicesOfEverything) {
  const auto sliced = [](int64_t start, int64_t end, int64_t step) {
    GraphMaker make;
    const ValueId x = make.embedding(4, 2);
    const ValueId part = make.node("Slice", "part",
                                   {x, make.ints("start", {start}), make.ints("end", {end}),
                                    make.ints("axis", {1}), make.ints("step", {step})});
    Graph graph = make.finish(make.node("Relu", "logits", {part}));
    fold_constants(graph);
    return operators(graph);
  };
  const int64_t all = std::numeric_limits<int64_t>::max();
  EXPECT_EQ(sliced(0, all, 1), (Names{"Gather", "Relu"}));
  EXPECT_EQ(sliced(1, all, 1), (Names{"Gather", "Slice", "Relu"}));
  EXPECT_EQ(sliced(0, 5, 1), (Names{"Gather", "Slice", "Relu"}));
  EXPECT_EQ(sliced(0, all, 2), (Names{"Gather", "Slice", "Relu"}));
}

TEST(ExpandOperators, EinsumsBecomeProducts) {
  const auto product = [](const char* equation, const Shape& left, const Shape& right) {
    GraphMaker make;
    const auto operand = [&](const char* name, const Shape& shape, uint32_t seed) {
      return make.constant(name, shape,
                           probe_values(static_cast<size_t>(element_count(shape)), seed));
    };
    Graph graph =
        make.finish(make.node("Einsum", "logits", {operand("a", left, 1), operand("b", right, 2)},
                              {{"equation", std::string(equation)}}));
    const Array wanted = Interpreter(graph).run_one({}, graph.io.logits);
    FusionReport report;
    expand_operators(graph, report);
    verify(graph);
    const Array found = Interpreter(graph).run_one({}, graph.io.logits);
    EXPECT_EQ(found.shape, wanted.shape) << equation;
    EXPECT_LT(relative_difference(found.floats(), wanted.floats()), 1e-6) << equation;
    const Names left_over = operators(graph);
    return std::find(left_over.begin(), left_over.end(), "Einsum") == left_over.end();
  };
  EXPECT_TRUE(product("bhqd,bhkd->bhqk", {2, 3, 4, 5}, {2, 3, 6, 5}));
  EXPECT_TRUE(product("bhqk,bkhd->bqhd", {2, 3, 4, 5}, {2, 5, 3, 6}));
  EXPECT_TRUE(product("bsi,oi->bso", {2, 3, 4}, {5, 4}));
  EXPECT_TRUE(product("i,j->ij", {3}, {4}));
  EXPECT_TRUE(product("bi,bj->jbi", {2, 3}, {2, 4}));
  EXPECT_FALSE(product("bsh,hnd->bsnd", {2, 3, 4}, {4, 2, 3})) << "two dimensions of columns";
  EXPECT_FALSE(product("ij,ij->i", {2, 3}, {2, 3})) << "no columns";
}

TEST(FormLinears, TakesMatMulTransposeGemmAndBias) {
  GraphMaker make;
  const ValueId x = make.embedding(4, 6);
  const ValueId a = make.node("MatMul", "a", {x, make.matrix("wa", 6, 5)});
  const ValueId b = make.node("Add", "b", {make.matrix("bias", 1, 5), a});
  const ValueId turned = make.node("Transpose", "turned", {make.matrix("wb", 3, 5)},
                                   {{"perm", std::vector<int64_t>{1, 0}}});
  Graph graph = make.finish(make.node("MatMul", "logits", {b, turned}));
  const Graph before = graph;
  EXPECT_EQ(form_linears(graph), 3);
  eliminate_dead(graph);
  verify(graph);
  EXPECT_EQ(operators(graph), (Names{"Gather", "nibble.Linear", "nibble.Linear"}));
  EXPECT_NE(graph.nodes[1].input(2), kNoValue) << "the bias is part of the Linear";
  expect_same_function(before, graph);
}

TEST(FormLinears, LeavesProductsOfTwoActivationsAlone) {
  GraphMaker make;
  const ValueId x = make.embedding(4, 4);
  const ValueId turned =
      make.node("Transpose", "turned", {x}, {{"perm", std::vector<int64_t>{0, 2, 1}}});
  Graph graph = make.finish(make.node("MatMul", "logits", {x, turned}));
  EXPECT_EQ(form_linears(graph), 0);
}

// x / sqrt(mean(x^2) + eps) * weight, with the division spelled in one of three ways.
Graph rms_graph(const std::string& spelling, int64_t axis) {
  GraphMaker make;
  const ValueId x = make.embedding(4, 4);
  const ValueId square = make.node("Pow", "square", {x, make.scalar("two", 2)});
  const ValueId mean = make.node("ReduceMean", "mean", {square},
                                 {{"axes", std::vector<int64_t>{axis}}, {"keepdims", int64_t{1}}});
  const ValueId shifted = make.node("Add", "shifted", {mean, make.scalar("eps", 1e-5F)});
  const ValueId root = make.node("Sqrt", "root", {shifted});
  ValueId y = kNoValue;
  if (spelling == "div") {
    y = make.node("Div", "y", {x, root});
  } else if (spelling == "reciprocal") {
    y = make.node("Mul", "y", {make.node("Reciprocal", "inverse", {root}), x});
  } else {
    y = make.node("Mul", "y", {x, make.node("Div", "inverse", {make.scalar("one", 1), root})});
  }
  return make.finish(make.node("Mul", "logits", {make.constant("g", {4}, {1, 2, 3, 4}), y}));
}

TEST(FormNorms, RecognisesEverySpellingOfRmsNorm) {
  for (const char* spelling : {"div", "reciprocal", "one-over"}) {
    Graph graph = rms_graph(spelling, -1);
    const Graph before = graph;
    EXPECT_EQ(form_norms(graph), 1) << spelling;
    verify(graph);
    EXPECT_EQ(operators(graph), (Names{"Gather", "nibble.RMSNorm"})) << spelling;
    EXPECT_EQ(graph.nodes[1].get_float("epsilon"), 1e-5F);
    expect_same_function(before, graph);
  }
}

TEST(FormNorms, LeavesMeansOverOtherAxesAlone) {
  Graph graph = rms_graph("div", 1);
  EXPECT_EQ(form_norms(graph), 0);
}

TEST(FormNorms, RecognisesLayerNormInPieces) {
  GraphMaker make;
  const std::map<std::string, Attribute> last = {{"axes", std::vector<int64_t>{-1}}};
  const ValueId x = make.embedding(4, 4);
  const ValueId centred =
      make.node("Sub", "centred", {x, make.node("ReduceMean", "mean", {x}, last)});
  const ValueId square = make.node("Mul", "square", {centred, centred});
  const ValueId variance = make.node("ReduceMean", "variance", {square}, last);
  const ValueId shifted = make.node("Add", "shifted", {variance, make.scalar("eps", 1e-6F)});
  const ValueId y = make.node("Div", "y", {centred, make.node("Sqrt", "root", {shifted})});
  const ValueId scaled = make.node("Mul", "scaled", {y, make.constant("g", {4}, {1, 2, 3, 4})});
  Graph graph =
      make.finish(make.node("Add", "logits", {scaled, make.constant("b", {4}, {4, 3, 2, 1})}));
  const Graph before = graph;
  EXPECT_EQ(form_norms(graph), 1);
  verify(graph);
  EXPECT_EQ(operators(graph), (Names{"Gather", "nibble.LayerNorm"}));
  expect_same_function(before, graph);
}

TEST(FormEmbeddings, AbsorbsScaleAndLearnedPositions) {
  GraphMaker make;
  make.graph.io.position_ids = make.graph.add_value("position_ids", DType::i64);
  make.graph.inputs.push_back(make.graph.io.position_ids);
  const ValueId scaled = make.node("Mul", "scaled", {make.embedding(4, 3), make.scalar("s", 2)});
  const ValueId index =
      make.node("Add", "index", {make.graph.io.position_ids, make.ints("two", {2})});
  const ValueId place = make.node("Gather", "place", {make.matrix("positions", 16, 3), index});
  Graph graph = make.finish(make.node("Add", "logits", {scaled, place}));
  const Graph before = graph;
  form_embeddings(graph);
  verify(graph);
  EXPECT_EQ(operators(graph), (Names{"nibble.Embedding"}));
  EXPECT_EQ(graph.nodes[0].get_float("scale"), 2.0F);
  EXPECT_EQ(graph.nodes[0].get_int("position_offset"), 2);
}

TEST(FormEmbeddings, LeavesChangedIdsAlone) {
  GraphMaker make;
  const ValueId wrapped =
      make.node("Min", "wrapped", {make.graph.io.input_ids, make.ints("most", {2})});
  Graph graph = make.finish(make.node("Gather", "logits", {make.matrix("table", 4, 3), wrapped}));
  EXPECT_EQ(form_embeddings(graph), 0);
  EXPECT_EQ(operators(graph), (Names{"Min", "Gather"}));
}

TEST(SimplifyShapes, HangsTheShapeOfHiddenStatesOnTheIds) {
  GraphMaker make;
  const ValueId x = make.embedding(4, 3);
  const ValueId shape = make.node("Shape", "shape", {x});
  Graph graph = make.finish(make.node("Reshape", "logits", {make.node("Relu", "y", {x}), shape}));
  form_embeddings(graph);
  verify(graph);
  EXPECT_EQ(operators(graph), (Names{"nibble.Embedding", "Relu"})) << to_text(graph);
}

// x -> up projection(s) -> function -> down projection.
Graph mlp_graph(const std::string& function) {
  GraphMaker make;
  const ValueId x = make.embedding(4, 4);
  const ValueId gate = make.node("MatMul", "gate", {x, make.matrix("wg", 4, 24)});
  ValueId y = kNoValue;
  if (function == "swiglu") {
    const ValueId up = make.node("MatMul", "up", {x, make.matrix("w_up", 4, 24)});
    const ValueId silu = make.node("Mul", "silu", {gate, make.node("Sigmoid", "sigmoid", {gate})});
    y = make.node("Mul", "y", {silu, up});
  } else if (function == "gelu") {
    const ValueId scaled = make.node("Div", "scaled", {gate, make.scalar("root2", 1.41421356F)});
    const ValueId erf = make.node("Erf", "erf", {scaled});
    const ValueId sum = make.node("Add", "sum", {erf, make.scalar("one", 1)});
    y = make.node("Mul", "y", {make.node("Mul", "half", {gate, make.scalar("h", 0.5F)}), sum});
  } else if (function == "relu2") {
    const ValueId relu = make.node("Relu", "relu", {gate});
    y = make.node("Pow", "y", {relu, make.scalar("two", 2)});
  } else if (function == "relu6") {
    y = make.node("Min", "y", {make.node("Relu", "relu", {gate}), make.scalar("six", 6)});
  } else {
    y = make.node("Tanh", "y", {gate});
  }
  return make.finish(make.node("MatMul", "logits", {y, make.matrix("wd", 24, 4)}));
}

TEST(FuseActivations, MergesGateAndUpIntoOneLinear) {
  Graph graph = mlp_graph("swiglu");
  const Graph before = graph;
  FusionReport report;
  form_linears(graph);
  form_embeddings(graph);
  EXPECT_EQ(fuse_activations(graph, report), 1);
  verify(graph);
  EXPECT_EQ(operators(graph), (Names{"nibble.Embedding", "nibble.Linear", "nibble.Linear"}));
  const Node& gated = graph.nodes[1];
  EXPECT_EQ(gated.get_string("activation", ""), "silu");
  EXPECT_EQ(gated.get_int("gate"), 1);
  EXPECT_EQ(gated.get_int("columns"), 24);
  const auto& weight =
      std::get<MatrixSource>(*graph.values[static_cast<size_t>(gated.inputs[1])].constant);
  EXPECT_EQ(weight.n, 64) << "16 gate, 16 up, 8 gate and 8 padding, 8 up and 8 padding";
  expect_same_function(before, graph);
}

TEST(FuseActivations, KnowsAFunctionByItsValues) {
  for (const char* function : {"gelu", "relu2"}) {
    Graph graph = mlp_graph(function);
    const Graph before = graph;
    FusionReport report;
    form_linears(graph);
    form_embeddings(graph);
    EXPECT_EQ(fuse_activations(graph, report), 1);
    EXPECT_EQ(graph.nodes[1].get_string("activation", ""), function);
    expect_same_function(before, graph);
  }
}

TEST(FuseActivations, ReportsAFunctionItDoesNotKnow) {
  for (const char* function : {"tanh", "relu6"}) {
    Graph graph = mlp_graph(function);
    FusionReport report;
    form_linears(graph);
    form_embeddings(graph);
    EXPECT_EQ(fuse_activations(graph, report), 0) << function;
    ASSERT_EQ(report.entries.size(), 1U);
    EXPECT_FALSE(report.entries[0].fused);
    EXPECT_EQ(report.entries[0].node, "y");
  }
}

TEST(FuseResiduals, ChainsParallelBranchesThroughTheirEpilogues) {
  GraphMaker make;
  const ValueId x = make.embedding(4, 4);
  const ValueId a = make.node("MatMul", "a", {x, make.matrix("wa", 4, 4)});
  const ValueId b = make.node("MatMul", "b", {x, make.matrix("wbb", 4, 4)});
  const ValueId both = make.node("Add", "both", {b, a});
  const ValueId sum = make.node("Add", "sum", {both, x});
  Graph graph = make.finish(make.node("MatMul", "logits", {sum, make.matrix("head", 4, 4)}));
  const Graph before = graph;
  form_linears(graph);
  form_embeddings(graph);
  EXPECT_EQ(fuse_residuals(graph), 1);
  verify(graph);
  EXPECT_EQ(operators(graph),
            (Names{"nibble.Embedding", "nibble.Linear", "nibble.Linear", "nibble.Linear"}));
  EXPECT_EQ(graph.nodes[1].input(3), graph.nodes[0].outputs[0]);
  EXPECT_EQ(graph.nodes[2].input(3), graph.nodes[1].outputs[0]);
  expect_same_function(before, graph);
}

TEST(FuseResiduals, KeepsASumWithoutAMatmulAsAdd) {
  GraphMaker make;
  const ValueId x = make.embedding(4, 4);
  const ValueId y =
      make.node("LayerNormalization", "y", {x, make.constant("g", {4}, {1, 1, 1, 1})});
  const ValueId z =
      make.node("LayerNormalization", "z", {y, make.constant("h", {4}, {2, 1, 1, 1})});
  const ValueId sum = make.node("Add", "sum", {y, z});
  Graph graph = make.finish(make.node("MatMul", "logits", {sum, make.matrix("head", 4, 4)}));
  const Graph before = graph;
  form_linears(graph);
  form_norms(graph);
  form_embeddings(graph);
  EXPECT_EQ(fuse_residuals(graph), 1);
  verify(graph);
  EXPECT_EQ(std::count_if(graph.nodes.begin(), graph.nodes.end(),
                          [](const Node& node) { return node.is("Add", "nibble"); }),
            1)
      << to_text(graph);
  expect_same_function(before, graph);
}

// A decoder of an embedding and a head, its logits passed on by `end`.
Graph logits_graph(const std::function<ValueId(GraphMaker&, ValueId)>& end) {
  GraphMaker maker;
  const ValueId x = maker.embedding(10, 4);
  Graph graph =
      maker.finish(end(maker, maker.node("MatMul", "raw", {x, maker.matrix("head", 4, 10)})));
  form_linears(graph);
  form_embeddings(graph);
  return graph;
}

TEST(FuseLogits, FactorsAndSoftcaps) {
  const auto fused = [](const std::function<ValueId(GraphMaker&, ValueId)>& end) {
    Graph graph = logits_graph(end);
    FusionReport report;
    EXPECT_EQ(fuse_logits(graph, report), 1);
    EXPECT_TRUE(report.entries.back().fused);
    return graph;
  };
  Graph graph = fused([](GraphMaker& m, ValueId raw) {
    return m.node("Div", "logits", {raw, m.scalar("eight", 8)});
  });
  ASSERT_TRUE(graph.nodes.back().is("LogitScale", "nibble"));
  EXPECT_FLOAT_EQ(graph.nodes.back().get_float("scale"), 0.125F);
  EXPECT_EQ(graph.nodes.back().get_float("softcap"), 0);
  graph = fused([](GraphMaker& m, ValueId raw) {
    const ValueId half = m.node("Mul", "half", {raw, m.scalar("half_", 0.5F)});
    const ValueId divided = m.node("Div", "divided", {half, m.scalar("cap", 30)});
    return m.node("Mul", "logits", {m.node("Tanh", "bent", {divided}), m.scalar("cap_", 30)});
  });
  ASSERT_TRUE(graph.nodes.back().is("LogitScale", "nibble"));
  EXPECT_NEAR(graph.nodes.back().get_float("scale"), 0.5F, 1e-5F);
  EXPECT_NEAR(graph.nodes.back().get_float("softcap"), 30, 1e-4F);
  // Nothing but another name.
  graph = fused([](GraphMaker& m, ValueId raw) {
    return m.node("Cast", "logits", {raw}, {{"to", int64_t{1}}});
  });
  EXPECT_TRUE(graph.nodes.back().is("Linear", "nibble"));
  EXPECT_EQ(graph.io.logits, graph.nodes.back().outputs[0]);
  EXPECT_EQ(graph.outputs[0], graph.io.logits);
}

TEST(FuseLogits, ReportsWhatItDoesNotKnow) {
  for (const char* op : {"Relu", "Tanh", "Exp"}) {
    Graph graph =
        logits_graph([&](GraphMaker& m, ValueId raw) { return m.node(op, "logits", {raw}); });
    FusionReport report;
    EXPECT_EQ(fuse_logits(graph, report), op == std::string("Tanh") ? 1 : 0) << op;  // a cap of 1
    EXPECT_EQ(report.entries.back().fused, op == std::string("Tanh")) << op;
  }
}

TEST(FormLinears, TakesAFactorOfAResidualBranch) {
  GraphMaker maker;
  const ValueId x = maker.embedding(10, 4);
  const ValueId y = maker.node("MatMul", "y", {x, maker.matrix("w", 4, 4)});
  const ValueId biased = maker.node("Add", "biased", {y, maker.constant("b", {4}, {1, 2, 3, 4})});
  const ValueId scaled = maker.node("Mul", "scaled", {biased, maker.scalar("quarter", 0.25F)});
  Graph& graph = maker.finish(maker.node("Add", "sum", {x, scaled}));
  const Graph before = graph;
  form_linears(graph);
  ASSERT_EQ(graph.nodes.size(), 3U);  // Gather, Linear, Add
  EXPECT_TRUE(graph.nodes[1].is("Linear", "nibble"));
  const Feeds feeds{{graph.io.input_ids, Array::of({1, 3}, std::vector<int64_t>{7, 0, 3})}};
  const Array wanted = Interpreter(before).run_one(feeds, before.io.logits);
  const Array found = Interpreter(graph).run_one(feeds, graph.io.logits);
  EXPECT_LT(relative_difference(found.floats(), wanted.floats()), 1e-6);
}

TEST(EliminateDead, DropsNodesAndTheirConstants) {
  GraphMaker make;
  const ValueId x = make.embedding(4, 4);
  make.node("MatMul", "unused", {x, make.matrix("w", 4, 4)});
  Graph graph = make.finish(make.node("Relu", "logits", {x}));
  EXPECT_EQ(eliminate_dead(graph), 2);
  EXPECT_EQ(operators(graph), (Names{"Gather", "Relu"}));
}

}  // namespace
}  // namespace nibble::graph
