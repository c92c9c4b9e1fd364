// Blocks of synthetic graphs and of the models of the zoo, which all of their blocks in a row
// compute.
#include "quant/blocks/block_split.h"

#include <gtest/gtest.h>

#include "frontends/onnx/onnx.h"
#include "graph/interpreted_decoder.h"
#include "graph/passes.h"
#include "jit/error.h"
#include "quant/blocks/node_forward.h"
#include "tests/quant/fused_fixture.h"
#include "tests/support/fused_model.h"
#include "tests/support/zoo.h"

namespace nibble::test {
namespace {

using graph::Graph;
using graph::kNoValue;
using graph::ValueId;
using quant::Block;

std::vector<std::string> names_of(const Graph& graph, const Block& block) {
  std::vector<std::string> names;
  for (size_t i = block.first_node; i < block.end_node; ++i) names.push_back(graph.nodes[i].name);
  return names;
}

std::vector<std::string> value_names(const Graph& graph, const std::vector<ValueId>& ids) {
  std::vector<std::string> names;
  for (const ValueId id : ids) names.push_back(graph.value_name(id));
  return names;
}

using Names = std::vector<std::string>;

TEST(SplitBlocks, SerialLayers) {
  const Graph graph = llama_graph(2, 32, 48, 50);
  const auto blocks = quant::split_blocks(graph);
  ASSERT_EQ(blocks.size(), 4U);
  EXPECT_EQ(names_of(graph, blocks[0]), (Names{"x"}));
  EXPECT_EQ(names_of(graph, blocks[2]),
            (Names{"layers.1.norm1", "layers.1.qkv", "layers.1.attention", "layers.1.o",
                   "layers.1.norm2", "layers.1.gate_up", "layers.1.down"}));
  EXPECT_EQ(names_of(graph, blocks[3]), (Names{"norm", "head"}));
  for (size_t b = 0; b < blocks.size(); ++b) {
    EXPECT_EQ(blocks[b].layer, static_cast<int64_t>(b) - 1);
    ASSERT_EQ(blocks[b].outputs.size(), 1U);
    EXPECT_EQ(blocks[b].inputs, b == 0 ? std::vector<ValueId>{} : blocks[b - 1].outputs);
  }
  EXPECT_EQ(blocks[3].outputs[0], graph.io.logits);

  // What each node of a layer is the last to use.
  const auto dead = quant::last_uses(graph, blocks[1]);
  EXPECT_EQ(value_names(graph, dead[0]), Names{});  // x is the residual of "o"
  EXPECT_EQ(value_names(graph, dead[1]), Names{"layers.0.norm1"});
  EXPECT_EQ(value_names(graph, dead[3]), (Names{"layers.0.attention", "x"}));
  EXPECT_EQ(value_names(graph, dead[6]), (Names{"layers.0.gate_up", "layers.0.o"}));
}

// x + attention(h) + mlp(h) with h = norm(x), the mlp before the attention, as GPT-J.
TEST(SplitBlocks, ParallelLayers) {
  FusedMaker maker;
  ValueId x = maker.table(20, 16);
  for (const std::string name : {"a", "b"}) {
    const ValueId h = maker.rms_norm(name + ".norm", x, 16);
    const ValueId mlp = maker.linear(name + ".fc", h, 16, 16, kNoValue, x);
    const ValueId qkv = maker.linear(name + ".qkv", h, 48, 16);
    x = maker.linear(name + ".o", maker.attention(name + ".attention", qkv, 2, 2), 16, 16, kNoValue,
                     mlp);
  }
  const Graph graph = maker.finish(maker.fused(
      "LogitScale", "scaled", {maker.linear("head", maker.rms_norm("norm", x, 16), 20, 16)},
      {{"scale", 0.5F}}));
  const auto blocks = quant::split_blocks(graph);
  ASSERT_EQ(blocks.size(), 4U);
  EXPECT_EQ(names_of(graph, blocks[1]), (Names{"a.norm", "a.fc", "a.qkv", "a.attention", "a.o"}));
  EXPECT_EQ(names_of(graph, blocks[2]), (Names{"b.norm", "b.fc", "b.qkv", "b.attention", "b.o"}));
  EXPECT_EQ(names_of(graph, blocks[3]), (Names{"norm", "head", "scaled"}));
}

// Norms behind the residuals, and none before the head: the last one belongs to its layer.
TEST(SplitBlocks, NormsBehind) {
  FusedMaker maker;
  ValueId x = maker.table(20, 16);
  for (const std::string name : {"a", "b"}) {
    const ValueId qkv = maker.linear(name + ".qkv", x, 48, 16);
    const ValueId o = maker.linear(name + ".o", maker.attention(name + ".attention", qkv, 2, 2), 16,
                                   16, kNoValue, x);
    x = maker.rms_norm(name + ".norm1", o, 16);
    x = maker.rms_norm(name + ".norm2", maker.linear(name + ".fc", x, 16, 16, kNoValue, x), 16);
  }
  const Graph graph = maker.finish(maker.linear("head", x, 20, 16));
  const auto blocks = quant::split_blocks(graph);
  ASSERT_EQ(blocks.size(), 4U);
  EXPECT_EQ(names_of(graph, blocks[1]),
            (Names{"a.qkv", "a.attention", "a.o", "a.norm1", "a.fc", "a.norm2"}));
  EXPECT_EQ(names_of(graph, blocks[2]).back(), "b.norm2");
  EXPECT_EQ(names_of(graph, blocks[3]), Names{"head"});
}

TEST(SplitBlocks, NamesWhatIsNotFused) {
  FusedMaker maker;
  const Graph graph = maker.finish(maker.node("Relu", "z", {maker.table(20, 16)}));
  try {
    quant::split_blocks(graph);
    FAIL();
  } catch (const Error& error) {
    EXPECT_EQ(std::string(error.what()),
              "test.onnx: node 'z' (Relu) is no fused operator: the model cannot be calibrated "
              "layer by layer.");
  }
}

std::vector<float> logits_of(const Graph& graph, const quant::Batch& batch, int threads) {
  runtime::ThreadPool pool(threads);
  const quant::NodeForward forward(graph, pool);
  quant::Activations values;
  for (const Block& block : quant::split_blocks(graph)) {
    forward.run(block, batch, values);
    EXPECT_EQ(values.size(), block.outputs.size());
  }
  return values.at(graph.io.logits)->data;
}

// The layers, one activation at every cut, and the reference's logits, alike on any threads.
void expect_model(const std::string& family) {
  const Reference reference = zoo_reference(family);
  Graph graph = frontends::load_onnx(zoo_folder(family));
  ASSERT_TRUE(graph::fuse(graph).complete());
  const auto blocks = quant::split_blocks(graph);
  const auto layers = std::count_if(graph.nodes.begin(), graph.nodes.end(),
                                    [](const auto& node) { return node.op == "Attention"; });
  EXPECT_EQ(blocks.size(), static_cast<size_t>(layers) + 2);
  for (const Block& block : blocks) EXPECT_EQ(block.outputs.size(), 1U) << block.layer;

  const std::vector<int32_t> ids(reference.input_ids.values.begin(),
                                 reference.input_ids.values.end());
  const quant::Batch batch{reference.batch(), reference.length(), ids};
  const std::vector<float> logits = logits_of(graph, batch, 2);
  if (family == kZooGenai) {  // its reference has int8 activations
    graph::InterpretedDecoder decoder(std::make_shared<const Graph>(graph), 0);
    const auto wanted = all_logits(decoder, reference.ids(0));
    const auto first = std::span(logits).first(wanted.size());
    EXPECT_LE(max_abs_difference(first, wanted), 1e-4F * max_abs(wanted));
  } else {
    EXPECT_LE(max_abs_difference(logits, reference.logits.values),
              1e-4F * max_abs(reference.logits.values));
  }
  EXPECT_EQ(logits, logits_of(graph, batch, 1));
}

class ZooBlocks : public testing::TestWithParam<std::string> {};

TEST_P(ZooBlocks, GiveTheModelsLogits) {
  NIBBLE_NEED_MODELS();
  expect_model(GetParam());
}

std::vector<std::string> all_models() {
  std::vector<std::string> names(zoo_families().begin(), zoo_families().end());
  names.insert(names.end(), std::begin(kZooDynamo), std::end(kZooDynamo));
  names.emplace_back(kZooGenai);
  return names;
}

INSTANTIATE_TEST_SUITE_P(All, ZooBlocks, testing::ValuesIn(all_models()), [](const auto& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
});

}  // namespace
}  // namespace nibble::test
