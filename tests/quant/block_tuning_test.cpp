// Blocks tuned by gradients: the pieces on their own, and what tuning wins over round-to-nearest.
#include "quant/tuning/block_tuning.h"

#include <gtest/gtest.h>

#include <fstream>
#include <set>
#include <sstream>

#include "frontends/onnx/onnx.h"
#include "frontends/tokenizer/tokenizer.h"
#include "graph/passes.h"
#include "jit/error.h"
#include "quant/folds/folds.h"
#include "quant/formats/quantize.h"
#include "quant/solvers/fake_quantize.h"
#include "quant/tuning/block_weights.h"
#include "tests/quant/fused_fixture.h"
#include "tests/support/zoo.h"

namespace nibble::test {
namespace {

using graph::Graph;
using graph::Node;
using graph::ValueId;
using jit::WeightFormat;
using jit::WeightType;
using quant::Activation;
using quant::Activations;
using quant::Block;
using quant::Fold;
using quant::RtnRange;
using quant::TuningData;

std::vector<WeightFormat> formats_to_try() {
  return {{WeightType::u4, 16, false, jit::ScaleType::f32},
          {WeightType::u4, 16, true, jit::ScaleType::f32},
          {WeightType::u4, 0, true, jit::ScaleType::f32},
          {WeightType::u8, 16, false, jit::ScaleType::f32},
          {WeightType::u8, 16, true, jit::ScaleType::f32}};
}

TEST(FakeQuantize, GivesTheNumbersOfThePackedMatrix) {
  runtime::ThreadPool pool(1);
  for (WeightFormat format : formats_to_try()) {
    format.scale = jit::ScaleType::f16;
    for (const RtnRange range : {RtnRange::plain, RtnRange::full}) {
      const std::vector<float> w = normal_values(40, 1, 3);
      const auto packed = quant::quantize_matrix(
          graph::MatrixSource::whole(graph::make_f32({1, 40}, w), false), format, range, "w", pool);
      std::vector<float> wanted(40), found(40);
      jit::unpack_column(packed.view, 0, wanted);
      quant::fake_quantize_row(w, format, range, found);
      EXPECT_EQ(found, wanted);
    }
  }
}

// Q(c w) = c Q(w): so the derivative along w itself is Q(w), whatever passes straight through.
TEST(FakeQuantize, DerivativeAlongTheWeightsIsExact) {
  for (const WeightFormat& format : formats_to_try()) {
    for (const RtnRange range : {RtnRange::plain, RtnRange::full}) {
      for (uint32_t seed = 0; seed < 20; ++seed) {
        std::vector<float> w = normal_values(40, 1, seed);
        if (seed % 4 == 1)
          std::transform(w.begin(), w.end(), w.begin(), [](float x) { return std::abs(x); });
        if (seed % 4 == 2) w[3] = 4, w[5] = -4;  // what clamps, where the range is full
        if (seed % 4 == 3) std::fill_n(w.begin(), 16, 0.0F);
        const std::vector<float> dout = normal_values(40, 1, seed + 100);
        std::vector<float> out(40), dw(40);
        quant::fake_quantize_row(w, format, range, out);
        quant::fake_quantize_row_gradient(w, format, range, dout, dw);
        double wanted = 0, found = 0;
        for (size_t i = 0; i < w.size(); ++i) {
          wanted += static_cast<double>(dout[i]) * out[i];
          found += static_cast<double>(dw[i]) * w[i];
        }
        EXPECT_NEAR(found, wanted, 2e-4) << seed;
      }
    }
  }
}

TEST(Minibatches, TakeEverySequenceOnceARound) {
  quant::Minibatches batches(7, 3, 5), same(7, 3, 5), other(7, 3, 6);
  std::vector<int64_t> seen, of_other;
  for (int i = 0; i < 7; ++i) {
    const auto batch = batches.next();
    ASSERT_EQ(batch.size(), 3U);
    seen.insert(seen.end(), batch.begin(), batch.end());
    const auto again = same.next();
    EXPECT_TRUE(std::equal(batch.begin(), batch.end(), again.begin()));
    const auto different = other.next();
    of_other.insert(of_other.end(), different.begin(), different.end());
  }
  for (size_t round = 0; round < 3; ++round) {
    const std::set<int64_t> once(seen.begin() + 7 * round, seen.begin() + 7 * (round + 1));
    EXPECT_EQ(once.size(), 7U);
  }
  EXPECT_NE(seen, of_other);
  EXPECT_EQ(quant::Minibatches(2, 8, 1).next().size(), 2U);
}

// A block with its calibration data: inputs of the quantized blocks before it.
struct TunedBlock {
  Graph graph;
  Block block;
  TuningData data;
  quant::Formats formats;

  std::vector<Fold> folds() const {
    std::vector<Fold> folds;
    for (const Fold& fold : quant::find_folds(graph)) {
      if (fold.node >= block.first_node && fold.consumers.back() < block.end_node) {
        folds.push_back(fold);
      }
    }
    return folds;
  }
};

quant::Formats layer_formats(const Graph& graph, int64_t group, bool asym) {
  quant::Formats formats;
  for (const Node& node : graph.nodes) {
    if (node.op == "Linear" && node.outputs[0] != graph.io.logits) {
      formats[node.input(1)] = {WeightType::u4, group, asym, jit::ScaleType::f16};
    }
  }
  return formats;
}

// Layer 0 of a small random model whose activations have some large channels, as real ones do.
TunedBlock synthetic_block(int64_t group, bool asym) {
  TunedBlock tuned;
  tuned.graph = llama_graph(1, 64, 96, 200);
  tuned.block = quant::split_blocks(tuned.graph)[1];
  tuned.formats = layer_formats(tuned.graph, group, asym);
  Activation x = *activation(8 * 24, 64, 5);
  for (size_t i = 0; i < x.data.size(); ++i) x.data[i] *= i % 64 % 13 == 0 ? 8.0F : 1.0F;
  const ValueId id = tuned.block.inputs[0];
  tuned.data = {8, 24, {{id, std::make_shared<const Activation>(std::move(x))}}, {}};
  tuned.data.targets = tuned.data.inputs;
  runtime::ThreadPool pool(2);
  quant::NodeForward(tuned.graph, pool).run(tuned.block, {8, 24, {}}, tuned.data.targets);
  return tuned;
}

std::string read_file(const std::filesystem::path& path) {
  std::ifstream file(path);
  std::stringstream text;
  text << file.rdbuf();
  return text.str();
}

// Layer 0 of the trained model of shared/models on a text.
TunedBlock tale_block(int64_t group, bool asym) {
  TunedBlock tuned;
  tuned.graph = frontends::load_onnx(tale_folder("onnx-fp32"));
  graph::fuse(tuned.graph);
  const auto tokenizer = frontends::Tokenizer::from_json(
      read_file(tale_folder("onnx-fp16") + "/tokenizer.json"), "tokenizer.json");
  std::vector<int32_t> ids =
      tokenizer.encode(read_file(shared_folder() / "data/calib.txt").substr(0, 12000), false);
  constexpr int64_t kSequences = 16, kLength = 64;
  ids.resize(kSequences * kLength);
  const auto blocks = quant::split_blocks(tuned.graph);
  tuned.block = blocks[1];
  tuned.formats = layer_formats(tuned.graph, group, asym);
  tuned.data = {kSequences, kLength, {}, {}};
  runtime::ThreadPool pool(2);
  const quant::NodeForward forward(tuned.graph, pool);
  forward.run(blocks[0], {kSequences, kLength, ids}, tuned.data.inputs);
  tuned.data.targets = tuned.data.inputs;
  forward.run(tuned.block, {kSequences, kLength, {}}, tuned.data.targets);
  return tuned;
}

TEST(BlockObjective, IsZeroForTheFloatBlockAndHasTheGradientOfItsLoss) {
  const TunedBlock tuned = synthetic_block(32, false);
  runtime::ThreadPool pool(2);
  auto weights = quant::read_tuned_weights(tuned.graph, pool, tuned.block, tuned.formats);
  ASSERT_EQ(weights.size(), 4U);
  // Two sequences at a time: the parts add up.
  const quant::BlockObjective objective(tuned.graph, pool, tuned.block, tuned.data, 2);
  const quant::BlockObjective whole(tuned.graph, pool, tuned.block, tuned.data, 8);
  const auto current = quant::current_weights(weights);
  EXPECT_LT(objective.loss_of_all(current), 1e-12);
  for (auto& [node, weight] : weights) {
    const auto noise = normal_values(std::ssize(weight.w), 0.02F, static_cast<uint32_t>(node));
    for (size_t i = 0; i < noise.size(); ++i) weight.current[i] += noise[i];
  }
  const double loss = objective.loss_of_all(current);
  EXPECT_GT(loss, 1e-4);
  EXPECT_NEAR(whole.loss_of_all(current), loss, 1e-6 * loss);

  const std::vector<int64_t> some = {6, 1, 3};
  EXPECT_EQ(objective.add_gradients(some, current, quant::weight_gradients(weights)),
            objective.loss(some, current));
  double along = 0, squares = 0;
  for (auto& [node, weight] : weights) {
    for (const float d : weight.gradient) squares += static_cast<double>(d) * d;
  }
  const auto step = static_cast<float>(0.01 / std::sqrt(squares));
  const auto moved = [&](float h) {
    for (auto& [node, weight] : weights) {
      for (size_t i = 0; i < weight.w.size(); ++i)
        weight.current[i] += h * step * weight.gradient[i];
    }
    return objective.loss(some, current);
  };
  along = moved(1) - moved(-2);
  EXPECT_NEAR(along / (2 * step), squares, 1e-2 * squares);

  TuningData missing = tuned.data;
  missing.targets.clear();
  EXPECT_THROW(quant::BlockObjective(tuned.graph, pool, tuned.block, missing, 2), Error);
}

// The loss of the block with its weights rounded to nearest and packed, after the model was really
// scaled by the factors.
double folded_loss(const TunedBlock& tuned, const std::vector<Fold>& folds,
                   const std::vector<std::vector<float>>& factors) {
  Graph graph = tuned.graph;
  for (size_t i = 0; i < folds.size(); ++i) quant::apply_fold(graph, folds[i], factors[i]);
  runtime::ThreadPool pool(2);
  auto weights = quant::read_tuned_weights(graph, pool, tuned.block, tuned.formats);
  for (auto& [node, weight] : weights) {
    const auto packed = quant::quantize_matrix(
        graph::MatrixSource::whole(graph::make_f32({weight.n, weight.k}, weight.w), false),
        weight.format, RtnRange::full, "w", pool);
    for (int64_t r = 0; r < weight.n; ++r) {
      jit::unpack_column(packed.view, r,
                         {weight.current.data() + r * weight.k, static_cast<size_t>(weight.k)});
    }
  }
  return quant::BlockObjective(graph, pool, tuned.block, tuned.data, 8)
      .loss_of_all(quant::current_weights(weights));
}

TEST(TuneFactors, BeatsRoundToNearest) {
  for (const bool asym : {false, true}) {
    const TunedBlock tuned = synthetic_block(32, asym);
    const auto folds = tuned.folds();
    ASSERT_EQ(folds.size(), 4U);  // norm -> qkv, values -> o, norm -> gate and up, up -> down
    quant::FactorOptions options;
    options.iterations = 40;
    options.batch_sequences = 4;
    options.learning_rate = 0.02F;
    runtime::ThreadPool pool(2);
    const auto found = quant::tune_factors(tuned.graph, pool, tuned.block, tuned.data,
                                           tuned.formats, folds, options);
    EXPECT_NEAR(folded_loss(tuned, {}, {}), found.loss.before, 1e-6 * found.loss.before);
    // Absorbers that are quantized too have other scales to round to halves: not the same bits.
    EXPECT_NEAR(folded_loss(tuned, folds, found.factors), found.loss.after,
                0.01 * found.loss.after);
    EXPECT_LT(found.loss.after, 0.85 * found.loss.before) << asym;
  }
}

TEST(TuneFactors, DependsOnTheSeedAndNotOnThreads) {
  const TunedBlock tuned = synthetic_block(32, false);
  quant::FactorOptions options;
  options.iterations = 8;
  options.batch_sequences = 3;
  const auto tune = [&](int threads) {
    runtime::ThreadPool pool(threads);
    return quant::tune_factors(tuned.graph, pool, tuned.block, tuned.data, tuned.formats,
                               tuned.folds(), options);
  };
  const auto found = tune(1);
  const auto again = tune(2);
  EXPECT_LT(found.loss.after, found.loss.before);
  EXPECT_EQ(again.factors, found.factors);
  EXPECT_EQ(again.loss.after, found.loss.after);
  options.seed = 2;
  EXPECT_NE(tune(2).factors, found.factors);
}

TEST(TuneFactors, BeatsRoundToNearestOnATrainedModel) {
  NIBBLE_NEED_MODELS();
  const TunedBlock tuned = tale_block(128, false);
  quant::FactorOptions options;
  options.iterations = 30;
  options.learning_rate = 0.01F;
  runtime::ThreadPool pool(2);
  const auto found = quant::tune_factors(tuned.graph, pool, tuned.block, tuned.data, tuned.formats,
                                         tuned.folds(), options);
  EXPECT_LT(found.loss.after, 0.93 * found.loss.before);
  RecordProperty("before", std::to_string(found.loss.before));
  RecordProperty("after", std::to_string(found.loss.after));
}

// A learning rate that ruins everything leaves round-to-nearest.
TEST(TuneFactors, IsNeverWorse) {
  const TunedBlock tuned = synthetic_block(32, false);
  quant::FactorOptions options;
  options.iterations = 3;
  options.learning_rate = 50;
  runtime::ThreadPool pool(1);
  const auto found = quant::tune_factors(tuned.graph, pool, tuned.block, tuned.data, tuned.formats,
                                         tuned.folds(), options);
  EXPECT_LE(found.loss.after, found.loss.before);
  for (const auto& factors : found.factors) {
    for (const float a : factors) EXPECT_TRUE(std::isfinite(a) && a > 0);
  }
}

TEST(TuneFactors, RefusesFoldsOfOtherBlocks) {
  const TunedBlock tuned = synthetic_block(32, false);
  runtime::ThreadPool pool(1);
  const auto tune = [&](const Fold& fold) {
    return quant::tune_factors(tuned.graph, pool, tuned.block, tuned.data, tuned.formats,
                               std::span(&fold, 1), {});
  };
  Fold fold = tuned.folds()[0];
  fold.tied.pop_back();
  EXPECT_THROW(tune(fold), Error);
  fold = tuned.folds()[0];
  fold.tied[3] = 64;
  EXPECT_THROW(tune(fold), Error);
  fold = tuned.folds()[0];
  fold.consumers = {tuned.graph.nodes.size() - 1};
  EXPECT_THROW(tune(fold), Error);
}

// The loss with the solved matrices, as they are packed.
double solved_loss(const TunedBlock& tuned, const quant::TunedRounding& found) {
  runtime::ThreadPool pool(2);
  auto weights = quant::read_tuned_weights(tuned.graph, pool, tuned.block, tuned.formats);
  EXPECT_EQ(found.weights.size(), weights.size());
  for (auto& [node, weight] : weights) {
    const auto packed = quant::pack(found.weights.at(weight.node->input(1)), pool);
    EXPECT_TRUE(packed.view.format == weight.format);
    for (int64_t r = 0; r < weight.n; ++r) {
      jit::unpack_column(packed.view, r,
                         {weight.current.data() + r * weight.k, static_cast<size_t>(weight.k)});
    }
  }
  return quant::BlockObjective(tuned.graph, pool, tuned.block, tuned.data, 8)
      .loss_of_all(quant::current_weights(weights));
}

TEST(TuneRounding, BeatsRoundToNearest) {
  for (const bool asym : {false, true}) {
    const TunedBlock tuned = synthetic_block(32, asym);
    quant::TuningOptions options;
    options.iterations = 50;
    options.batch_sequences = 4;
    runtime::ThreadPool pool(2);
    const auto found =
        quant::tune_rounding(tuned.graph, pool, tuned.block, tuned.data, tuned.formats, options);
    EXPECT_NEAR(solved_loss(tuned, found), found.loss.after, 1e-6 * found.loss.after);
    EXPECT_LT(found.loss.after, 0.6 * found.loss.before) << asym;
    options.iterations = 0;
    const auto nearest =
        quant::tune_rounding(tuned.graph, pool, tuned.block, tuned.data, tuned.formats, options);
    EXPECT_EQ(nearest.loss.before, found.loss.before);
    EXPECT_NEAR(solved_loss(tuned, nearest), found.loss.before, 1e-6 * found.loss.before);
    EXPECT_NEAR(folded_loss(tuned, {}, {}), found.loss.before, 1e-6 * found.loss.before);
  }
}

TEST(TuneRounding, BeatsRoundToNearestOnATrainedModel) {
  NIBBLE_NEED_MODELS();
  const TunedBlock tuned = tale_block(128, false);
  quant::TuningOptions options;
  options.iterations = 30;
  runtime::ThreadPool pool(2);
  const auto found =
      quant::tune_rounding(tuned.graph, pool, tuned.block, tuned.data, tuned.formats, options);
  EXPECT_LT(found.loss.after, 0.7 * found.loss.before);
}

TEST(TuneRounding, DependsOnTheSeedAndNotOnThreads) {
  const TunedBlock tuned = synthetic_block(32, false);
  quant::TuningOptions options;
  options.iterations = 25;
  options.batch_sequences = 3;
  const auto tune = [&](int threads) {
    runtime::ThreadPool pool(threads);
    return quant::tune_rounding(tuned.graph, pool, tuned.block, tuned.data, tuned.formats, options);
  };
  const auto found = tune(1), again = tune(2);
  options.seed = 2;
  const auto other = tune(2);
  EXPECT_LT(found.loss.after, found.loss.before);
  EXPECT_EQ(again.loss.after, found.loss.after);
  bool all_equal = true;
  for (const auto& [id, matrix] : found.weights) {
    EXPECT_EQ(again.weights.at(id).q, matrix.q);
    EXPECT_EQ(again.weights.at(id).scales, matrix.scales);
    all_equal = all_equal && other.weights.at(id).q == matrix.q;
  }
  EXPECT_FALSE(all_equal);
}

}  // namespace
}  // namespace nibble::test
