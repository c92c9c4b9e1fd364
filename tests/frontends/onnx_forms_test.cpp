// Forms of exports beside the plain one: merged decoders, decoders without a cache, and what
// onnxruntime-genai writes beside its models.
#include <algorithm>
#include <cmath>
#include <limits>

#include "graph/interpreted_decoder.h"
#include "graph/passes.h"
#include "tests/frontends/onnx_fixture.h"
#include "tests/support/fused_model.h"

namespace nibble::test {
namespace {

using graph::Graph;

class OnnxFormsTest : public OnnxTest {};

WireMessage branch(const std::vector<WireMessage>& nodes, const std::vector<WireMessage>& outputs) {
  WireMessage graph;
  for (const WireMessage& node : nodes) graph.message(1, node);
  graph.text(2, "body");
  for (const WireMessage& output : outputs) graph.message(12, output);
  return graph;
}

WireMessage branch_attribute(std::string_view name, const WireMessage& graph) {
  return WireMessage().text(1, name).message(6, graph).integer(20, 5);
}

// The tiny decoder inside an If: with its cache when use_cache_branch is true, else nonsense.
OnnxModel merged_decoder() {
  OnnxModel model = tiny_decoder();
  const std::vector<WireMessage> with_past = model.nodes;
  const std::vector<WireMessage> outputs = model.outputs;
  std::vector<WireMessage> without = {onnx_node("Foo", {"input_ids"}, {"logits"}),
                                      onnx_node("Foo", {"input_ids"}, {"present.0.key"}),
                                      onnx_node("Foo", {"input_ids"}, {"present.0.value"})};
  model.inputs.push_back(onnx_value("use_cache_branch", kOnnxBool, {1}));
  model.nodes = {onnx_node("If", {"use_cache_branch"},
                           {"logits", "present.0.key", "present.0.value"},
                           {branch_attribute("then_branch", branch(with_past, outputs)),
                            branch_attribute("else_branch", branch(without, outputs))})};
  return model;
}

std::vector<float> logits_of(const Graph& graph, std::span<const int32_t> ids) {
  graph::InterpretedDecoder decoder(std::make_shared<const Graph>(graph), 16);
  std::vector<float> out(ids.size() * static_cast<size_t>(decoder.vocab_size()));
  decoder.forward_all(ids, out);
  return out;
}

TEST_F(OnnxFormsTest, TheBranchWithTheCacheOfAMergedDecoder) {
  const Graph merged = frontends::load_onnx(write(merged_decoder(), "merged.onnx"));
  const Graph plain = frontends::load_onnx(write(tiny_decoder(), "plain.onnx"));
  EXPECT_EQ(merged.nodes.size(), plain.nodes.size());
  EXPECT_EQ(merged.inputs.size(), plain.inputs.size());  // use_cache_branch is gone
  EXPECT_EQ(merged.io.layers.size(), 1U);
  const int32_t ids[] = {3, 1};
  EXPECT_EQ(logits_of(merged, ids), logits_of(plain, ids));
}

TEST_F(OnnxFormsTest, AConstantChoosesABranch) {
  for (const int64_t condition : {0, 1}) {
    OnnxModel model = tiny_decoder();
    model.initializers.push_back(onnx_tensor("condition", kOnnxBool, {})
                                     .text(9, std::string(1, static_cast<char>(condition))));
    model.initializers.push_back(onnx_floats("two", {}, {2}));
    const WireMessage outputs = onnx_value("picked", kOnnxFloat, {-1, -1, 4});
    model.nodes[1] = onnx_node("MatMul", {"chosen", "head"}, {"logits"});
    model.nodes.insert(
        model.nodes.begin() + 1,
        onnx_node(
            "If", {"condition"}, {"chosen"},
            {branch_attribute("then_branch",
                              branch({onnx_node("Mul", {"hidden", "two"}, {"picked"})}, {outputs})),
             branch_attribute("else_branch", branch({onnx_node("Identity", {"hidden"}, {"picked"})},
                                                    {outputs}))}));
    const int32_t id = 3;
    const Graph chosen = frontends::load_onnx(write(model, "chosen.onnx"));
    const Graph whole = frontends::load_onnx(write(tiny_decoder(), "plain.onnx"));
    const auto found = logits_of(chosen, std::span(&id, 1));
    const auto plain = logits_of(whole, std::span(&id, 1));
    for (size_t i = 0; i < found.size(); ++i) {
      EXPECT_EQ(found[i], plain[i] * (condition == 1 ? 2.0F : 1.0F));
    }
  }
}

TEST_F(OnnxFormsTest, BranchesThatCannotBeTaken) {
  OnnxModel model = merged_decoder();
  model.inputs.back() = onnx_value("use_cache_branch", kOnnxInt64, {1});
  expect_error(model, {"use_cache_branch", "boolean"});
  model = merged_decoder();
  model.nodes = {
      onnx_node("If", {"use_cache_branch"}, {"logits", "present.0.key", "present.0.value"})};
  expect_error(model, {"no subgraph \"then_branch\""});
  model = merged_decoder();
  const std::vector<WireMessage> outputs = {onnx_value("logits", kOnnxFloat, {1})};
  model.nodes = {onnx_node(
      "If", {"use_cache_branch"}, {"logits", "present.0.key", "present.0.value"},
      {branch_attribute("then_branch",
                        branch({onnx_node("Foo", {"input_ids"}, {"logits"})}, outputs))})};
  expect_error(model, {"1 outputs", "0 and 3"});
}

TEST_F(OnnxFormsTest, DeepNestingIsAnError) {
  const std::vector<WireMessage> outputs = {onnx_value("x", kOnnxFloat, {1})};
  WireMessage inner = branch({onnx_node("Foo", {"input_ids"}, {"x"})}, outputs);
  for (int depth = 0; depth < 6; ++depth) {
    inner = branch(
        {onnx_node("If", {"use_cache_branch"}, {"x"}, {branch_attribute("then_branch", inner)})},
        outputs);
  }
  OnnxModel model = merged_decoder();
  model.nodes.push_back(
      onnx_node("If", {"use_cache_branch"}, {"x"}, {branch_attribute("then_branch", inner)}));
  expect_error(model, {"nested more than 4 deep"});
}

// One layer of attention without a cache: causal, two heads of four, positions by a table of
// cosines and sines. Weights are written out by a formula.
OnnxModel prefix_decoder() {
  constexpr int64_t kVocab = 16, kWidth = 8, kContext = 32;
  const auto matrix = [](std::string_view name, int64_t rows, int64_t columns, float step) {
    std::vector<float> values;
    for (int64_t i = 0; i < rows * columns; ++i) {
      values.push_back(std::sin(step * static_cast<float>(i + 1)));
    }
    return onnx_floats(name, {rows, columns}, values);
  };
  std::vector<float> cos, sin;
  for (int64_t p = 0; p < kContext; ++p) {
    for (const double frequency : {1.0, 0.01}) {
      cos.push_back(static_cast<float>(std::cos(frequency * static_cast<double>(p))));
      sin.push_back(static_cast<float>(std::sin(frequency * static_cast<double>(p))));
    }
  }
  OnnxModel model;
  model.opsets = {{"", 23}};
  model.initializers = {matrix("table", kVocab, kWidth, 0.7F),
                        matrix("wq", kWidth, kWidth, 1.3F),
                        matrix("wk", kWidth, kWidth, 2.1F),
                        matrix("wv", kWidth, kWidth, 0.9F),
                        matrix("wo", kWidth, kWidth, 1.7F),
                        matrix("head", kWidth, kVocab, 0.4F),
                        onnx_floats("cos", {kContext, 2}, cos),
                        onnx_floats("sin", {kContext, 2}, sin),
                        onnx_integers("heads", {4}, {0, 0, 2, 4}),
                        onnx_integers("rows", {3}, {0, 0, 8}),
                        onnx_integers("zero", {}, {0}),
                        onnx_integers("one", {}, {1}),
                        onnx_integers("axis0", {1}, {0})};
  model.nodes = {onnx_node("Gather", {"table", "input_ids"}, {"x"}, {onnx_int("axis", 0)}),
                 onnx_node("Shape", {"input_ids"}, {"shape"}),
                 onnx_node("Gather", {"shape", "one"}, {"length"}, {onnx_int("axis", 0)}),
                 onnx_node("Range", {"zero", "length", "one"}, {"range"}),
                 onnx_node("Unsqueeze", {"range", "axis0"}, {"positions"})};
  for (const std::string p : {"q", "k", "v"}) {
    model.nodes.push_back(onnx_node("MatMul", {"x", "w" + p}, {p + "_flat"}));
    model.nodes.push_back(onnx_node("Reshape", {p + "_flat", "heads"}, {p + "_heads"}));
    model.nodes.push_back(
        onnx_node("Transpose", {p + "_heads"}, {p}, {onnx_ints("perm", {0, 2, 1, 3})}));
    if (p == "v") continue;
    model.nodes.push_back(
        onnx_node("RotaryEmbedding", {p, "cos", "sin", "positions"}, {p + "_turned"}));
  }
  model.nodes.push_back(
      onnx_node("Attention", {"q_turned", "k_turned", "v"}, {"mixed"}, {onnx_int("is_causal", 1)}));
  model.nodes.push_back(
      onnx_node("Transpose", {"mixed"}, {"mixed_rows"}, {onnx_ints("perm", {0, 2, 1, 3})}));
  model.nodes.push_back(onnx_node("Reshape", {"mixed_rows", "rows"}, {"flat"}));
  model.nodes.push_back(onnx_node("MatMul", {"flat", "wo"}, {"out"}));
  model.nodes.push_back(onnx_node("Add", {"x", "out"}, {"sum"}));
  model.nodes.push_back(onnx_node("MatMul", {"sum", "head"}, {"logits"}));
  model.inputs = {onnx_value("input_ids", kOnnxInt64, {-1, -1})};
  model.outputs = {onnx_value("logits", kOnnxFloat, {-1, -1, kVocab}),
                   onnx_value("k_turned", kOnnxFloat, {-1, 2, -1, 4})};
  return model;
}

TEST_F(OnnxFormsTest, AnExportWithoutACacheGetsOne) {
  folder_.write("config.json", R"({"max_position_embeddings": 32})");
  const std::string path = write(prefix_decoder());
  const std::vector<int32_t> ids = {3, 7, 1, 1, 12, 5, 0, 9};
  graph::InterpretedDecoder unfused(std::make_shared<const Graph>(frontends::load_onnx(path)), 0);
  const auto wanted = all_logits(unfused, ids);
  // Token by token the history is computed again.
  unfused.reset();
  std::vector<float> last;
  for (const int32_t id : ids) {
    const auto logits = unfused.forward(std::span(&id, 1));
    last.assign(logits.begin(), logits.end());
  }
  EXPECT_EQ(unfused.position(), 8);
  for (size_t i = 0; i < last.size(); ++i) {
    EXPECT_NEAR(last[i], wanted[wanted.size() - last.size() + i], 1e-5F);
  }
  FusedOptions options;
  graph::FusionReport report;
  const Graph graph = fused_graph(path, options, &report);
  ASSERT_TRUE(report.complete()) << graph::to_text(graph);
  const auto session = session_of(graph, options);
  EXPECT_EQ(session->context_length(), 32);
  std::vector<float> found(wanted.size());
  session->forward_all(std::span(ids).first(5), std::span(found).first(5 * 16));
  session->forward_all(std::span(ids).subspan(5), std::span(found).subspan(5 * 16));
  for (size_t i = 0; i < found.size(); ++i) EXPECT_NEAR(found[i], wanted[i], 1e-4F) << i;
}

TEST_F(OnnxFormsTest, ACacheThatNothingMixesIsReported) {
  Graph graph = load(tiny_decoder());
  const graph::FusionReport report = graph::fuse(graph);
  EXPECT_FALSE(report.complete());
  const auto told = [&](const graph::FusionEntry& entry) {
    return !entry.fused && entry.detail.find("no Softmax") != std::string::npos;
  };
  EXPECT_EQ(std::count_if(report.entries.begin(), report.entries.end(), told), 1);
}

// The head of prefix_decoder() over x[:, start:], which `start` names.
OnnxModel with_sliced_head(const std::string& start) {
  OnnxModel model = prefix_decoder();
  model.nodes.pop_back();
  model.initializers.push_back(onnx_integers("end", {1}, {std::numeric_limits<int64_t>::max()}));
  model.initializers.push_back(onnx_integers("axis1", {1}, {1}));
  model.nodes.push_back(onnx_node("Slice", {"sum", start, "end", "axis1"}, {"kept"}));
  model.nodes.push_back(onnx_node("MatMul", {"kept", "head"}, {"logits"}));
  return model;
}

TEST_F(OnnxFormsTest, LogitsOfTheLastTokensBecomeThoseOfAll) {
  folder_.write("config.json", R"({"max_position_embeddings": 32})");
  const std::vector<int32_t> ids = {3, 7, 1, 1, 12, 5, 0, 9};
  graph::InterpretedDecoder plain(std::make_shared<const Graph>(load(prefix_decoder())), 0);
  const auto wanted = all_logits(plain, ids);
  OnnxModel last = with_sliced_head("last");
  last.initializers.push_back(onnx_integers("last", {1}, {-1}));
  OnnxModel counted = with_sliced_head("start");
  counted.inputs.push_back(onnx_value("num_logits_to_keep", kOnnxInt64, {}));
  counted.initializers.push_back(onnx_integers("first", {1}, {0}));
  counted.nodes.insert(counted.nodes.end() - 2,
                       {onnx_node("Neg", {"num_logits_to_keep"}, {"kept_from"}),
                        onnx_node("Unsqueeze", {"kept_from", "first"}, {"start"})});
  for (const OnnxModel& model : {last, counted}) {
    const std::string path = write(model);
    graph::InterpretedDecoder decoder(std::make_shared<const Graph>(frontends::load_onnx(path)), 0);
    EXPECT_EQ(all_logits(decoder, ids), wanted);
    graph::FusionReport report;
    const Graph graph = fused_graph(path, FusedOptions{}, &report);
    EXPECT_TRUE(report.complete()) << graph::to_text(graph);
  }
  // A slice of another kind stays.
  OnnxModel two = with_sliced_head("start");
  two.initializers.push_back(onnx_integers("start", {1}, {-2}));
  const Graph kept = load(two);
  EXPECT_TRUE(std::any_of(kept.nodes.begin(), kept.nodes.end(),
                          [](const graph::Node& node) { return node.is("Slice"); }));
}

TEST_F(OnnxFormsTest, GenaiConfigurations) {
  folder_.write("genai_config.json",
                R"({"model": {"context_length": 77, "eos_token_id": [5, 6], "bos_token_id": 2}})");
  const Graph graph = load(tiny_decoder());
  EXPECT_EQ(graph.context_length, 77);
  EXPECT_EQ(graph.eos_ids, (std::vector<int64_t>{5, 6}));
  EXPECT_EQ(graph.bos_id, 2);
  folder_.write("genai_config.json", R"({"context_length": 77})");
  expect_error(tiny_decoder(), {"genai_config.json", "\"model\""});
}

TEST_F(OnnxFormsTest, OfOlderOptimumsPartsTheMergedOneIsTaken) {
  write(prefix_decoder(), "decoder_model.onnx");
  write(tiny_decoder(), "decoder_with_past_model.onnx");
  const std::string path = write(merged_decoder(), "decoder_model_merged.onnx");
  const std::string folder = path.substr(0, path.rfind('/'));
  EXPECT_EQ(frontends::load_onnx(folder).origin, path);
}

}  // namespace
}  // namespace nibble::test
