#include "quant/recipes/mixed_recipe.h"

#include <gtest/gtest.h>

#include <set>

#include "quant/blocks/block_split.h"
#include "quant/blocks/node_forward.h"
#include "quant/solvers/range_search.h"
#include "tests/quant/fused_fixture.h"

namespace nibble::test {
namespace {

using jit::ScaleType;
using jit::WeightFormat;
using jit::WeightType;
using quant::Calibration;
using quant::FormatCandidate;
using quant::Recipe;
using quant::WeightCandidates;

constexpr int64_t kModelWidth = 64, kModelVocabulary = 50;

Calibration calibration() {
  return {.sequences = 3, .length = 12, .ids = random_ids(36, kModelVocabulary, 5)};
}

Recipe recipe(int64_t group, double bits) {
  Recipe recipe;
  recipe.formats = quant::default_options("int4", group, false, ScaleType::f16);
  set_method(recipe, "gptq");
  recipe.bits = bits;
  return recipe;
}

std::vector<WeightCandidates> measure(const graph::Graph& graph, const Recipe& recipe,
                                      int threads = 2) {
  runtime::ThreadPool pool(threads);
  return measure_candidates(graph, recipe, calibration(), pool, {});
}

const WeightCandidates& named(const std::vector<WeightCandidates>& all, const std::string& name) {
  return *std::find_if(all.begin(), all.end(), [&](const auto& w) { return w.name == name; });
}

double squares(std::span<const float> values) {
  double sum = 0;
  for (const float value : values) sum += static_cast<double>(value) * value;
  return sum;
}

// What rounding the weight of a node does to its outputs without the residual, by the definition.
struct Outputs {
  double error = 0, square = 0, with_residual = 0;
};
Outputs outputs_of(const graph::Graph& graph, const std::string& node_name,
                   const WeightFormat& format) {
  runtime::ThreadPool pool(1);
  const Calibration text = calibration();
  const quant::Batch batch{text.sequences, text.length, text.ids};
  quant::Activations values;
  const quant::NodeForward forward(graph, pool);
  for (const graph::Node& node : graph.nodes) {
    forward.run(node, batch, values);
    if (node.name != node_name) continue;
    const graph::MatrixSource& matrix = *graph.matrix(node.input(1));
    std::vector<float> w(static_cast<size_t>(matrix.n * matrix.k));
    matrix.read_columns(0, matrix.n, w);
    const std::vector<float> rounded =
        quant::dequantize(quant::solve_rtn(w, matrix.n, matrix.k, format, {}, nullptr, pool), pool);
    Outputs out;
    out.with_residual = squares(values.at(node.outputs[0])->data);
    const std::vector<float>& x = values.at(node.input(0))->data;
    for (int64_t r = 0; r < batch.rows(); ++r) {
      for (int64_t n = 0; n < matrix.n; ++n) {
        double y = 0, change = 0;
        for (int64_t k = 0; k < matrix.k; ++k) {
          const auto at = static_cast<size_t>(n * matrix.k + k);
          const double input = x[static_cast<size_t>(r * matrix.k + k)];
          y += input * w[at];
          change += input * (static_cast<double>(rounded[at]) - w[at]);
        }
        out.square += y * y;
        out.error += change * change;
      }
    }
    return out;
  }
  ADD_FAILURE() << "there is no node " << node_name;
  return {};
}

TEST(MixedRecipe, LossesAreErrorsOfWhatALayerAddsRelativeToWhatGoesOn) {
  const graph::Graph graph = llama_graph(2, kModelWidth, 128, kModelVocabulary);
  const auto all = measure(graph, recipe(0, 4.75));
  ASSERT_EQ(all.size(), 8U);  // of each layer qkv, o, gate and up, down; not the head
  for (const std::string layer : {"layers.0", "layers.1"}) {
    for (const auto& [name, adds] : {std::pair{".qkv", ".o"}, std::pair{".o", ".o"},
                                     std::pair{".gate_up", ".down"}, std::pair{".down", ".down"}}) {
      const WeightCandidates& weight = named(all, layer + name + ".weight");
      ASSERT_EQ(weight.candidates.size(), 4U);
      EXPECT_EQ(weight.candidates[0].format, (WeightFormat{WeightType::u4, 0, false}));
      EXPECT_EQ(weight.candidates[1].format, (WeightFormat{WeightType::u4, 32, false}));
      EXPECT_EQ(weight.candidates[2].format, (WeightFormat{WeightType::u6, 128, false}));
      EXPECT_EQ(weight.candidates[3].format, (WeightFormat{WeightType::u8, 128, false}));
      const Outputs branch = outputs_of(graph, layer + adds, weight.candidates[0].format);
      for (const FormatCandidate& candidate : weight.candidates) {
        const Outputs own = outputs_of(graph, layer + name, candidate.format);
        const double loss = own.error / own.square * (branch.square / branch.with_residual);
        EXPECT_NEAR(candidate.loss, loss, 1e-3 * loss) << weight.name;
      }
      EXPECT_GT(weight.candidates[1].loss, 5 * weight.candidates[2].loss);
      EXPECT_GT(weight.candidates[1].loss, 50 * weight.candidates[3].loss);
    }
  }
}

// Multiplies every 16th number of a weight, so that all others are rounded coarsely.
void add_outliers(graph::Graph& graph, const std::string& name) {
  for (graph::Value& value : graph.values) {
    if (value.name != name) continue;
    const auto& matrix = std::get<graph::MatrixSource>(*value.constant);
    const int64_t n = matrix.n, k = matrix.k;
    std::vector<float> w(static_cast<size_t>(n * k));
    matrix.read_columns(0, n, w);
    for (size_t i = 0; i < w.size(); i += 16) w[i] *= 12;
    value.constant = graph::MatrixSource::whole(graph::make_f32({n, k}, std::move(w)), false);
  }
}

TEST(MixedRecipe, BitsGoWhereRoundingHurts) {
  graph::Graph graph = llama_graph(3, kModelWidth, 128, kModelVocabulary);
  add_outliers(graph, "layers.1.down.weight");
  runtime::ThreadPool pool(2);
  Recipe wanted = recipe(32, 4.85);
  const auto found = mix_formats(graph, wanted, calibration(), pool, {});
  EXPECT_EQ(found.least_bits, 4.5);
  ASSERT_TRUE(found.recipe);
  EXPECT_EQ(found.recipe->bits, 0);
  ASSERT_TRUE(found.recipe->formats_of.contains("layers.1.down.weight"));
  for (const auto& [name, format] : found.recipe->formats_of) {
    EXPECT_NE(format.type, WeightType::u4) << name;
    EXPECT_EQ(format, (WeightFormat{format.type, 32, false, ScaleType::f16})) << name;
  }
  const auto packed = quantize_model(graph, *found.recipe, calibration(), pool, {});
  const double bits = quant::bits_per_weight(packed.graph);
  EXPECT_GT(bits, 4.5);
  EXPECT_LE(bits, wanted.bits);

  // What was chosen is a recipe like any other, and the same on any number of threads.
  Recipe defaults;
  EXPECT_EQ(recipe_to_json(recipe_from_json(recipe_to_json(*found.recipe), "r", defaults)),
            recipe_to_json(*found.recipe));
  runtime::ThreadPool one(1);
  EXPECT_EQ(recipe_to_json(*mix_formats(graph, wanted, calibration(), one, {}).recipe),
            recipe_to_json(*found.recipe));
}

TEST(MixedRecipe, WithoutRoomThereIsNone) {
  const graph::Graph graph = llama_graph(2, kModelWidth, 128, kModelVocabulary);
  runtime::ThreadPool pool(2);
  for (const double bits : {4.0, 4.5, 4.51}) {
    EXPECT_FALSE(mix_formats(graph, recipe(32, bits), calibration(), pool, {}).recipe) << bits;
  }
  const auto all = mix_formats(graph, recipe(32, 8.5), calibration(), pool, {});
  EXPECT_EQ(all.recipe->formats_of.size(), 8U);
}

TEST(MixedRecipe, AFormatThatIsGivenStays) {
  const graph::Graph graph = llama_graph(2, kModelWidth, 128, kModelVocabulary);
  runtime::ThreadPool pool(2);
  Recipe wanted = recipe(32, 8.4);
  const WeightFormat coarse{WeightType::u4, 64, false, ScaleType::f16};
  wanted.formats_of["layers.0.o.weight"] = coarse;
  const auto found = mix_formats(graph, wanted, calibration(), pool, {});
  ASSERT_TRUE(found.recipe);
  EXPECT_EQ(found.recipe->formats_of.at("layers.0.o.weight"), coarse);
  EXPECT_GT(found.recipe->formats_of.size(), 5U);
}

}  // namespace
}  // namespace nibble::test
