// Every export of the zoo through the interpreter, as it is in the file: the truth that all fusing
// is tested against must itself agree with the models' own outputs.
#include <gtest/gtest.h>

#include <algorithm>
#include <memory>

#include "frontends/onnx/onnx.h"
#include "graph/interpreted_decoder.h"
#include "tests/support/fused_model.h"
#include "tests/support/zoo.h"

namespace nibble {
namespace {

std::unique_ptr<graph::InterpretedDecoder> load(const std::string& folder) {
  auto model = std::make_shared<const graph::Graph>(frontends::load_onnx(folder));
  graph::verify(*model);
  return std::make_unique<graph::InterpretedDecoder>(model, 0);
}

class ZooUnfused : public testing::TestWithParam<std::string> {};

TEST_P(ZooUnfused, LogitsAgreeWithTheReference) {
  NIBBLE_NEED_MODELS();
  const test::Reference reference = test::zoo_reference(GetParam());
  const auto decoder = load(test::zoo_folder(GetParam()));
  ASSERT_EQ(decoder->vocab_size(), reference.vocabulary());
  for (int64_t row = 0; row < reference.batch(); ++row) {
    const auto wanted = reference.row_logits(row);
    const std::vector<float> logits = test::all_logits(*decoder, reference.ids(row));
    EXPECT_LE(test::max_abs_difference(logits, wanted), 1e-5F * test::max_abs(wanted))
        << "row " << row;
  }
}

TEST_P(ZooUnfused, GreedyIdsComeFromTheCache) {
  NIBBLE_NEED_MODELS();
  const test::Reference reference = test::zoo_reference(GetParam());
  const auto decoder = load(test::zoo_folder(GetParam()));
  EXPECT_EQ(test::greedy_ids(*decoder, reference.prompt, reference.greedy.size()),
            reference.greedy);
}

TEST_P(ZooUnfused, ChunksOfThePromptChangeLittle) {
  NIBBLE_NEED_MODELS();
  const test::Reference reference = test::zoo_reference(GetParam());
  const auto decoder = load(test::zoo_folder(GetParam()));
  const std::vector<int32_t> ids = reference.ids(0);
  const std::vector<float> whole = test::all_logits(*decoder, ids);
  std::vector<float> parts(whole.size());
  decoder->reset();
  const auto vocabulary = static_cast<size_t>(decoder->vocab_size());
  for (size_t begin = 0; begin < ids.size(); begin += 7) {
    const size_t count = std::min<size_t>(7, ids.size() - begin);
    decoder->forward_all(std::span(ids).subspan(begin, count),
                         std::span(parts).subspan(begin * vocabulary, count * vocabulary));
  }
  EXPECT_EQ(decoder->position(), static_cast<int64_t>(ids.size()));
  EXPECT_LE(test::max_abs_difference(whole, parts), 1e-5F * test::max_abs(whole));
}

// The other exporter of PyTorch spells the same model in other operators.
TEST(ZooUnfusedDynamo, LogitsAgreeWithTheReference) {
  NIBBLE_NEED_MODELS();
  for (const char* name : test::kZooDynamo) {
    const test::Reference reference = test::zoo_reference(name);
    const auto decoder = load(test::zoo_folder(name));
    const auto wanted = reference.row_logits(1);
    EXPECT_LE(test::max_abs_difference(test::all_logits(*decoder, reference.ids(1)), wanted),
              1e-5F * test::max_abs(wanted))
        << name;
  }
}

INSTANTIATE_TEST_SUITE_P(Families, ZooUnfused,
                         testing::ValuesIn(test::zoo_families().begin(),
                                           test::zoo_families().end()),
                         test::zoo_test_name);

class TaleUnfused : public testing::TestWithParam<std::pair<const char*, float>> {};

TEST_P(TaleUnfused, LogitsAgreeWithTheReference) {
  NIBBLE_NEED_MODELS();
  const auto [variant, tolerance] = GetParam();
  const test::Reference reference = test::tale_reference();
  const auto decoder = load(test::tale_folder(variant));
  const std::vector<float> logits = test::all_logits(*decoder, reference.ids(0));
  const auto wanted = reference.row_logits(0);
  EXPECT_LE(test::max_abs_difference(logits, wanted), tolerance * test::max_abs(wanted));
}

INSTANTIATE_TEST_SUITE_P(Variants, TaleUnfused,
                         testing::Values(std::pair{"onnx-fp32", 1e-5F},
                                         std::pair{"onnx-fp16", 1e-3F}),
                         [](const auto& info) { return info.index == 0 ? "fp32" : "fp16"; });

}  // namespace
}  // namespace nibble
