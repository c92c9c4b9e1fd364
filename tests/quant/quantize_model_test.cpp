#include "quant/recipes/quantize_model.h"

#include <gtest/gtest.h>

#include <cstring>
#include <filesystem>
#include <fstream>
#include <map>
#include <random>

#include "frontends/onnx/onnx.h"
#include "graph/ops.h"
#include "graph/passes.h"
#include "jit/error.h"
#include "quant/recipes/block_files.h"
#include "tests/runtime/temporary_folder.h"
#include "tests/support/random_model.h"

namespace nibble::quant {
namespace {

constexpr int64_t kLayers = 5, kIds = 400;

const graph::Graph& float_graph() {
  static const runtime::TemporaryFolder folder;
  static const graph::Graph graph = [] {
    test::write_onnx({.layers = kLayers,
                      .hidden = 128,
                      .mlp = 192,
                      .heads = 4,
                      .kv_heads = 2,
                      .vocabulary = kIds},
                     folder.path("model"));
    graph::Graph loaded = frontends::load_onnx(folder.path("model"));
    graph::fuse(loaded);
    return loaded;
  }();
  return graph;
}

// Some words are far likelier than others: inputs with structure.
Calibration calibration() {
  Calibration out{.sequences = 4, .length = 16, .ids = {}};
  std::mt19937 random(7);
  std::geometric_distribution<int32_t> word(0.02);
  for (int64_t i = 0; i < out.sequences * out.length; ++i) out.ids.push_back(word(random) % kIds);
  return out;
}

Recipe recipe(const std::string& method, int64_t group = 64) {
  Recipe recipe;
  recipe.formats = default_options("int4", group, false, jit::ScaleType::f16);
  set_method(recipe, method);
  recipe.iterations = 3;
  return recipe;
}

QuantizedModel quantize(const Recipe& recipe, int threads = 2, BlockStore* store = nullptr) {
  runtime::ThreadPool pool(threads);
  return quantize_model(float_graph(), recipe, calibration(), pool,
                        {.store = store, .progress = {}});
}

// The constants that nodes use: packed bytes and vectors, which folding changes.
std::string bytes_of(const graph::Graph& graph) {
  std::string bytes;
  const auto add = [&](const void* data, int64_t count) {
    const auto* first = static_cast<const char*>(data);
    if (count > 0) bytes.append(first, static_cast<size_t>(count));
  };
  for (const graph::Node& node : graph.nodes) {
    for (const graph::ValueId id : node.inputs) {
      if (id < 0) continue;
      const auto& constant = graph.values[static_cast<size_t>(id)].constant;
      if (!constant) continue;
      if (const auto* tensor = std::get_if<graph::TensorData>(&*constant)) {
        add(tensor->data, static_cast<int64_t>(tensor->bytes));
        continue;
      }
      const auto& view = std::get<runtime::PackedMatrix>(*constant).view;
      const jit::PackedShape shape = jit::packed_shape(view.format, view.n, view.k);
      add(view.data, shape.data_bytes);
      add(view.scales, shape.scale_bytes);
      add(view.zeros, shape.zero_bytes);
    }
  }
  return bytes;
}

TEST(QuantizeModelTest, ChosenNumbersLoseLessThanTheNearest) {
  for (const char* method : {"opt-rtn", "gptq", "awq", "signround"}) {
    const QuantizedModel model = quantize(recipe(method));
    ASSERT_EQ(model.outcomes.size(), kLayers * 4U) << method;  // qkv, o, gate and up, down
    double error = 0, nearest = 0;
    for (const WeightOutcome& weight : model.outcomes) {
      error += weight.error;
      nearest += weight.nearest_error;
      EXPECT_GT(weight.error, 0) << weight.name;
      EXPECT_LT(weight.error, 0.5) << weight.name;
    }
    EXPECT_LT(error, 0.99 * nearest) << method;
  }
}

TEST(QuantizeModelTest, TheSameBytesOnAnyNumberOfThreads) {
  std::map<std::string, std::string> seen;
  for (const std::string method : {"rtn", "opt-rtn", "awq+gptq", "signround", "teq"}) {
    const std::string one = bytes_of(quantize(recipe(method), 1).graph);
    EXPECT_TRUE(one == bytes_of(quantize(recipe(method), 2).graph)) << method;
    const auto [other, fresh] = seen.emplace(one, method);
    EXPECT_TRUE(fresh) << method << " did what " << other->second << " does";
  }
}

TEST(QuantizeModelTest, PlainRoundingIsThatOfQuantizeGraph) {
  runtime::ThreadPool pool(2);
  graph::Graph graph = float_graph();
  const Recipe plain = recipe("rtn");
  quantize_graph(graph, plain.formats, pool, {});
  EXPECT_TRUE(bytes_of(graph) == bytes_of(quantize(plain).graph));
}

// Keeps blocks, and fails like a process that is killed before it saves the one that is named.
class FailingStore : public BlockStore {
 public:
  std::optional<BlockOutcome> load(size_t block) override {
    const auto found = blocks.find(block);
    return found == blocks.end() ? std::nullopt : std::optional(found->second);
  }
  void save(size_t block, const BlockOutcome& outcome) override {
    if (block == fail_at) fail("Killed.");
    blocks[block] = outcome;
  }
  std::map<size_t, BlockOutcome> blocks;
  size_t fail_at = SIZE_MAX;
};

TEST(QuantizeModelTest, GoesOnWhereItWasAndEndsWithTheSameBytes) {
  for (const char* method : {"awq+gptq", "signround-blocks"}) {
    FailingStore store;
    store.fail_at = 3;
    EXPECT_THROW(quantize(recipe(method), 2, &store), Error);
    EXPECT_EQ(store.blocks.size(), 3U);
    store.fail_at = SIZE_MAX;
    const QuantizedModel resumed = quantize(recipe(method), 2, &store);
    const QuantizedModel whole = quantize(recipe(method));
    EXPECT_TRUE(bytes_of(resumed.graph) == bytes_of(whole.graph)) << method;
    ASSERT_EQ(resumed.outcomes.size(), whole.outcomes.size());
    for (size_t i = 0; i < whole.outcomes.size(); ++i) {
      EXPECT_EQ(resumed.outcomes[i].name, whole.outcomes[i].name);
      EXPECT_EQ(resumed.outcomes[i].error, whole.outcomes[i].error);
    }
  }
}

// Progress moves within the work on a weight and a layer, and ending it there loses no more than
// the layer.
TEST(QuantizeModelTest, IsToldOfStepsAndEndsAtAnyOfThem) {
  struct Stop {};
  runtime::ThreadPool pool(2);
  for (const char* method : {"rtn", "awq+gptq", "signround-blocks"}) {
    int64_t last = 0, calls = 0, largest = 0, total = 0;
    const auto follow = [&](int64_t done, int64_t all, const std::string&) {
      EXPECT_GE(done, last) << method;
      EXPECT_LE(done, all) << method;
      largest = std::max(largest, done - last);
      last = done;
      total = all;
      ++calls;
    };
    const QuantizedModel whole = quantize_model(float_graph(), recipe(method), calibration(), pool,
                                                {.store = nullptr, .progress = follow});
    EXPECT_EQ(last, total) << method;
    EXPECT_LT(largest, total / 5) << method;
    if (method == std::string("rtn")) continue;
    EXPECT_GT(calls, 200) << method;

    FailingStore store;
    int64_t left = calls * 3 / 4;
    const auto stop = [&](int64_t, int64_t, const std::string&) {
      if (--left == 0) throw Stop{};
    };
    EXPECT_THROW(quantize_model(float_graph(), recipe(method), calibration(), pool,
                                {.store = &store, .progress = stop}),
                 Stop);
    EXPECT_GE(store.blocks.size(), 3U) << method;
    last = calls = 0;
    const QuantizedModel resumed = quantize_model(float_graph(), recipe(method), calibration(),
                                                  pool, {.store = &store, .progress = follow});
    EXPECT_TRUE(bytes_of(resumed.graph) == bytes_of(whole.graph)) << method;
    EXPECT_EQ(last, total) << method;
  }
}

TEST(QuantizeModelTest, AWeightCanHaveAFormatOfItsOwn) {
  const graph::Node* down = nullptr;
  for (const graph::Node& node : float_graph().nodes) {
    if (node.is("Linear", graph::kNibbleDomain) && down == nullptr) down = &node;
  }
  ASSERT_NE(down, nullptr);
  Recipe mixed = recipe("gptq");
  const std::string name = float_graph().value_name(down->inputs[1]);
  mixed.formats_of[name] = {jit::WeightType::u8, 32, false, jit::ScaleType::f16};
  const QuantizedModel model = quantize(mixed);
  const auto& value = model.graph.values[static_cast<size_t>(down->inputs[1])];
  EXPECT_EQ(std::get<runtime::PackedMatrix>(*value.constant).view.format, mixed.formats_of[name]);
  EXPECT_GT(bits_per_weight(model.graph), bits_per_weight(quantize(recipe("gptq")).graph));

  mixed.formats_of["no such weight"] = mixed.formats_of[name];
  EXPECT_THROW(quantize(mixed), Error);
}

TEST(QuantizeModelTest, BitsCountScales) {
  EXPECT_NEAR(bits_per_weight(quantize(recipe("rtn", 64)).graph), 4 + 16.0 / 64, 1e-9);
}

TEST(QuantizeModelTest, NeedsTextToCalibrateOn) {
  runtime::ThreadPool pool(1);
  EXPECT_THROW(quantize_model(float_graph(), recipe("gptq"), {}, pool, {}), Error);
  EXPECT_NO_THROW(quantize_model(float_graph(), recipe("rtn"), {}, pool, {}));
}

TEST(BlockFilesTest, GiveBlocksBackAndPassOverWhatIsDamaged) {
  const runtime::TemporaryFolder folder;
  runtime::ThreadPool pool(2);
  const std::string path = folder.path("work");
  BlockFiles files(path, pool);
  EXPECT_FALSE(files.load(0));
  const QuantizedModel whole = quantize(recipe("awq+gptq"), 2, &files);
  BlockFiles again(path, pool);
  const QuantizedModel loaded = quantize(recipe("awq+gptq"), 2, &again);
  EXPECT_TRUE(bytes_of(loaded.graph) == bytes_of(whole.graph));

  const std::string third = path + "/block-3.nib";
  ASSERT_TRUE(std::filesystem::exists(third));
  {
    std::fstream file(third, std::ios::in | std::ios::out | std::ios::binary);
    file.seekp(5000);
    file.put('x');
  }
  EXPECT_FALSE(again.load(3));
  EXPECT_TRUE(bytes_of(quantize(recipe("awq+gptq"), 2, &again).graph) == bytes_of(whole.graph));
}

}  // namespace
}  // namespace nibble::quant
