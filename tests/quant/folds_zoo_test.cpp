// Every model of the zoo has the folds that its architecture allows, and computes what it did after
// all of them at once.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <map>
#include <ostream>
#include <random>
#include <vector>

#include "frontends/onnx/onnx.h"
#include "graph/ops.h"
#include "jit/isa.h"
#include "quant/folds/folds.h"
#include "tests/support/fused_model.h"
#include "tests/support/zoo.h"

namespace nibble::quant {
namespace {

using graph::Graph;

// How many folds a layer has of each kind.
//
// A norm of each branch (one where attention and MLP read the same norm), always V -> O. A second
// Linear of the MLP has a fold only behind a gate or ReLU: GELU is not homogeneous. Gemma 2's norms
// after attention and MLP are added to the residual and have none, and so has BLOOM's norm of the
// embeddings. Outside the layers the final norm folds into the head: exporters write a tied head as
// a transposed copy of the embeddings, so that it is a matrix of its own in all of these files.
struct Expected {
  const char* family;
  int norm, columns, up, value;
};

constexpr Expected kExpected[] = {
    {"bloom", 2, 0, 0, 1},
    {"falcon-40b", 2, 0, 0, 1},
    {"falcon-7b", 1, 0, 0, 1},
    {"gemma", 2, 0, 1, 1},
    {"gemma2", 2, 0, 1, 1},
    {"gpt2", 2, 0, 0, 1},
    {"gpt-bigcode", 2, 0, 0, 1},
    {"gpt-neox", 2, 0, 0, 1},
    {"gpt-neox-serial", 2, 0, 0, 1},
    {"gptj", 1, 0, 0, 1},
    {"llama", 2, 0, 1, 1},
    {"llama-gqa-rope3", 2, 0, 1, 1},
    {"mistral-window", 2, 0, 1, 1},
    {"mpt", 2, 0, 0, 1},
    {"opt", 2, 1, 0, 1},
    {"phi-2", 1, 0, 0, 1},
    {"phi-3", 2, 0, 1, 1},
    {"qwen2", 2, 0, 1, 1},
    {"qwen3", 2, 0, 1, 1},
    {"starcoder2", 2, 0, 0, 1},
    {"dynamo-llama-opset20", 2, 0, 1, 1},
    {"dynamo-llama-opset23", 2, 0, 1, 1},
};

std::ostream& operator<<(std::ostream& out, const Expected& expected) {
  return out << expected.family;
}

std::string test_name(const testing::TestParamInfo<Expected>& info) {
  std::string name = info.param.family;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

Graph fused(const std::string& family) {
  Graph graph = frontends::load_onnx(test::zoo_folder(family));
  const auto report = graph::fuse(graph);
  EXPECT_TRUE(report.complete()) << report.nodes_unfused << " nodes are not fused";
  return graph;
}

std::vector<float> f32_logits(Graph graph, const std::vector<int32_t>& ids) {
  test::FusedOptions options;
  options.compute = graph::Compute::f32;
  options.isa = jit::selected_isa();
  runtime::ThreadPool pool(options.threads);
  quantize_graph(graph, default_options("f32", 0, false, jit::ScaleType::f32), pool, {});
  return test::all_logits(*test::session_of(graph, options), ids);
}

std::string counts_text(const std::map<Absorber, int>& counts) {
  std::string text;
  for (const auto& [absorber, count] : counts) {
    text += fmt::format("{}{} {}", text.empty() ? "" : ", ", count, absorber_name(absorber));
  }
  return text;
}

void expect_folds(const Graph& graph, const std::vector<Fold>& folds, const Expected& expected,
                  int head) {
  std::map<int64_t, std::map<Absorber, int>> layers;
  for (const Fold& fold : folds) ++layers[fold.layer][fold.absorber];
  const auto attentions = std::count_if(
      graph.nodes.begin(), graph.nodes.end(),
      [](const graph::Node& node) { return node.is("Attention", graph::kNibbleDomain); });
  const auto per_layer = std::map<Absorber, int>{{Absorber::norm, expected.norm},
                                                 {Absorber::columns, expected.columns},
                                                 {Absorber::up, expected.up},
                                                 {Absorber::value, expected.value}};
  ASSERT_GT(attentions, 1);
  for (int64_t layer = 0; layer < attentions; ++layer) {
    for (const auto& [absorber, count] : per_layer) {
      EXPECT_EQ(layers[layer][absorber], count)
          << "layer " << layer << " has " << counts_text(layers[layer]);
    }
    layers.erase(layer);
  }
  EXPECT_EQ(layers[-1][Absorber::norm], head);
  layers[-1].erase(Absorber::norm);
  EXPECT_EQ(counts_text(layers[-1]), "");
  EXPECT_EQ(layers.size(), 1u);
}

class ZooFolds : public testing::TestWithParam<Expected> {};

TEST_P(ZooFolds, LeaveTheLogits) {
  NIBBLE_NEED_MODELS();
  const std::vector<int32_t> ids = test::zoo_reference(GetParam().family).ids(0);
  const Graph graph = fused(GetParam().family);
  const std::vector<Fold> folds = find_folds(graph);
  expect_folds(graph, folds, GetParam(), 1);
  const std::vector<float> before = f32_logits(graph, ids);

  std::mt19937 random(7);
  const auto fold_all = [&](auto factor) {
    Graph folded = graph;
    for (const Fold& fold : folds) {
      std::vector<float> factors(static_cast<size_t>(fold.factors()));
      for (float& f : factors) f = factor();
      apply_fold(folded, fold, factors);
    }
    return folded;
  };
  std::uniform_real_distribution<float> exponent(-2.0F, 2.0F);  // factors from 0.25 to 4
  const Graph folded = fold_all([&] { return std::exp2(exponent(random)); });
  const std::vector<float> after = f32_logits(folded, ids);
  const float difference = test::max_abs_difference(after, before);
  EXPECT_LE(difference, 1e-5F * test::max_abs(before));
  EXPECT_GT(difference, 0.0F);
  RecordProperty("relative_difference", fmt::format("{:.2e}", difference / test::max_abs(before)));

  // Powers of two move no rounding: every product is what it was.
  const Graph exact =
      fold_all([&] { return std::ldexp(1.0F, static_cast<int>(random() % 5) - 2); });
  EXPECT_TRUE(f32_logits(exact, ids) == before);

  // A folded graph is quantized as it would have been, and can be folded again.
  const auto options = default_options("int4", 32, false, jit::ScaleType::f16);
  EXPECT_EQ(choose_formats(folded, options), choose_formats(graph, options));
  expect_folds(folded, find_folds(folded), GetParam(), 1);
}

// Where the head is the table of the embeddings after all, it is left alone and packed once.
TEST_P(ZooFolds, LeaveATiedTable) {
  NIBBLE_NEED_MODELS();
  Graph graph = fused(GetParam().family);
  graph::Node *embedding = nullptr, *head = nullptr;
  for (graph::Node& node : graph.nodes) {
    if (node.is("Embedding", graph::kNibbleDomain)) embedding = &node;
    if (node.is("Linear", graph::kNibbleDomain)) head = &node;  // the last one
  }
  ASSERT_TRUE(embedding != nullptr && head != nullptr);
  head->inputs[1] = embedding->inputs[1];
  const std::vector<Fold> folds = find_folds(graph);
  expect_folds(graph, folds, GetParam(), 0);
  const std::vector<int32_t> ids = test::zoo_reference(GetParam().family).ids(0);
  const std::vector<float> before = f32_logits(graph, ids);
  for (const Fold& fold : folds) {
    apply_fold(graph, fold, std::vector<float>(static_cast<size_t>(fold.factors()), 0.5F));
  }
  EXPECT_TRUE(f32_logits(graph, ids) == before);
}

INSTANTIATE_TEST_SUITE_P(Families, ZooFolds, testing::ValuesIn(kExpected), test_name);

// Its weights are quantized: nothing of them is scaled.
TEST(GenaiFolds, NoneIntoQuantizedWeights) {
  NIBBLE_NEED_MODELS();
  const Graph graph = fused(test::kZooGenai);
  for (const Fold& fold : find_folds(graph)) ADD_FAILURE() << fold.name;
}

TEST(ZooFoldsTable, CoversTheZoo) {
  std::vector<std::string> names(test::zoo_families().begin(), test::zoo_families().end());
  names.insert(names.end(), std::begin(test::kZooDynamo), std::end(test::kZooDynamo));
  std::vector<std::string> covered;
  for (const Expected& expected : kExpected) covered.emplace_back(expected.family);
  std::sort(names.begin(), names.end());
  std::sort(covered.begin(), covered.end());
  EXPECT_EQ(covered, names);
}

}  // namespace
}  // namespace nibble::quant
