// Kinds of weights from their names: every exporter's spelling, and names that say nothing.
#include "tools/report/weight_kinds.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>
#include <vector>

#include "jit/error.h"

namespace nibble::report {
namespace {

using Names = std::vector<std::string>;

WeightKinds kinds_of(int64_t layers, const std::function<Names(int64_t layer)>& names) {
  std::vector<LayerWeight> weights;
  for (int64_t layer = 0; layer < layers; ++layer) {
    for (const std::string& name : names(layer)) weights.push_back({name, layer});
  }
  return weight_kinds(weights);
}

TEST(WeightKinds, AreWhatNamesSayBesideTheirLayersNumber) {
  const Names expected = {"qkv", "o", "mlp.gate_up", "mlp.down"};
  for (const char* pattern : {"layers.{}.{}", "model.layers.{}.{}.weight", "blk.{}.{}.weight",
                              "h{}_{}", "/model/layers.{}/{}/weight", "stage[{}].{}"}) {
    const WeightKinds kinds = kinds_of(32, [&](int64_t layer) {
      Names names;
      for (const std::string& kind : expected) {
        names.push_back(fmt::format(fmt::runtime(pattern), layer, kind));
      }
      return names;
    });
    EXPECT_EQ(kinds.labels, expected) << pattern;
    EXPECT_EQ(kinds.kind_of.size(), 32U * 4) << pattern;
  }
  EXPECT_EQ(
      kinds_of(12, [](int64_t layer) { return Names{fmt::format("down_{:02}", layer)}; }).labels,
      Names{"down"});
}

// w4a8 is in every name, and at layers 4 and 8 the number is in a name twice.
TEST(WeightKinds, OtherNumbersDoNotMislead) {
  const WeightKinds kinds = kinds_of(12, [](int64_t layer) {
    return Names{fmt::format("w4a8.{}.fc1", layer), fmt::format("w4a8.{}.fc2", layer)};
  });
  EXPECT_EQ(kinds.labels, (Names{"fc1", "fc2"}));
  EXPECT_FALSE(kinds.counted);
  for (int64_t layer = 0; layer < 12; ++layer) {
    EXPECT_EQ(kinds.kind_of.at({layer, fmt::format("w4a8.{}.fc2", layer)}), 1U) << layer;
  }
}

TEST(WeightKinds, NamesThatSayNothingAreCountedInTheirLayer) {
  const WeightKinds kinds = kinds_of(3, [](int64_t layer) {
    return Names{fmt::format("onnx::MatMul_{}", 293 + layer * 7),
                 fmt::format("onnx::MatMul_{}", 295 + layer * 7)};
  });
  EXPECT_EQ(kinds.labels, (Names{"weight 1", "weight 2"}));
  EXPECT_TRUE(kinds.counted);
  EXPECT_EQ(kinds.kind_of.at({2, "onnx::MatMul_309"}), 1U);
}

TEST(WeightKinds, ThoseOfTheSameShortNameAreToldApart) {
  const WeightKinds kinds = kinds_of(2, [](int64_t layer) {
    return Names{fmt::format("encoder.{}.q", layer), fmt::format("decoder.{}.q", layer)};
  });
  EXPECT_EQ(kinds.labels, (Names{"encoder.*.q", "decoder.*.q"}));
}

TEST(WeightKinds, OutsideOfTheLayersEachIsItsOwn) {
  const std::vector<LayerWeight> weights = {{"layers.0.down", 0},
                                            {"layers.1.down", 1},
                                            {"lm_head.weight", -1},
                                            {"down", -1},
                                            {"lm_head.weight", -1}};
  const WeightKinds kinds = weight_kinds(weights);
  EXPECT_EQ(kinds.labels, (Names{"down", "lm_head", "down, outside"}));
  EXPECT_EQ(kinds.kind_of.at({1, "layers.1.down"}), 0U);
  EXPECT_EQ(kinds.kind_of.at({-1, "down"}), 2U);
}

TEST(WeightKinds, OddNamesAreNoTrouble) {
  const std::vector<LayerWeight> weights = {{"", 0}, {"7", 7}, {".weight", -1}, {"\xff\xfe", 1}};
  const WeightKinds kinds = weight_kinds(weights);
  EXPECT_EQ(kinds.kind_of.size(), 4U);
  EXPECT_TRUE(weight_kinds({}).labels.empty());
}

}  // namespace
}  // namespace nibble::report
