// Hugging Face folders of the zoo against the ONNX exports of the same weights: the same bits, and
// the models' own answers.
#include <gtest/gtest.h>

#include <algorithm>

#include "frontends/safetensors/safetensors.h"
#include "jit/isa.h"
#include "tests/support/fused_model.h"
#include "tests/support/zoo.h"

namespace nibble {
namespace {

using test::FusedOptions;

const std::string kTwins[] = {"falcon-7b", "gpt-neox", "gptj", "llama", "mpt", "qwen2"};

class SafetensorsTwin : public testing::TestWithParam<std::string> {
 protected:
  std::string file() const { return test::zoo_folder(GetParam()) + "/model.safetensors"; }
};

TEST_P(SafetensorsTwin, LogitsHaveTheBitsOfTheExport) {
  NIBBLE_NEED_MODELS();
  const test::Reference reference = test::zoo_reference(GetParam());
  for (const auto& [weights, compute] : {std::pair{"f32", graph::Compute::f32},
                                         {"int8", graph::Compute::int8},
                                         {"int4", graph::Compute::int8},
                                         {"int4", graph::Compute::f32}}) {
    FusedOptions options;
    options.weights = weights;
    options.compute = compute;
    options.isa = jit::selected_isa();
    graph::FusionReport report;
    const graph::Graph ours = test::fused_graph(file(), options, &report);
    EXPECT_EQ(report.coverage(), 1.0);
    const graph::Graph twin = test::fused_graph(test::zoo_folder(GetParam()), options, nullptr);
    const auto found = test::all_logits(*test::session_of(ours, options), reference.ids(0));
    const auto wanted = test::all_logits(*test::session_of(twin, options), reference.ids(0));
    EXPECT_TRUE(found == wanted) << weights << " differs by "
                                 << test::max_abs_difference(found, wanted);
  }
}

TEST_P(SafetensorsTwin, AnswersAreTheModels) {
  NIBBLE_NEED_MODELS();
  const test::Reference reference = test::zoo_reference(GetParam());
  FusedOptions options;
  options.compute = graph::Compute::f32;
  options.isa = jit::selected_isa();
  const auto session = test::session_of(test::fused_graph(file(), options, nullptr), options);
  for (int64_t row = 0; row < reference.batch(); ++row) {
    const auto wanted = reference.row_logits(row);
    const auto logits = test::all_logits(*session, reference.ids(row));
    EXPECT_LE(test::max_abs_difference(logits, wanted), 1e-4F * test::max_abs(wanted));
  }
  session->reset();
  EXPECT_EQ(test::greedy_ids(*session, reference.prompt, reference.greedy.size()),
            reference.greedy);
}

INSTANTIATE_TEST_SUITE_P(Zoo, SafetensorsTwin, testing::ValuesIn(kTwins),
                         [](const testing::TestParamInfo<std::string>& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(SafetensorsTale, AnswersAndDocumentsComeFromTheFolder) {
  NIBBLE_NEED_MODELS();
  const test::Reference reference = test::tale_reference();
  const graph::Graph loaded = frontends::load_safetensors(test::tale_folder("hf")).graph;
  EXPECT_EQ(loaded.documents.count("tokenizer.json"), 1U);
  EXPECT_EQ(loaded.documents.count("config.json"), 1U);
  EXPECT_EQ(loaded.context_length, 1024);
  FusedOptions options;
  options.compute = graph::Compute::f32;
  options.isa = jit::selected_isa();
  const graph::Graph graph =
      test::fused_graph(test::tale_folder("hf") + "/model.safetensors", options, nullptr);
  const auto wanted = reference.row_logits(0);
  const auto logits = test::all_logits(*test::session_of(graph, options), reference.ids(0));
  EXPECT_LE(test::max_abs_difference(logits, wanted), 1e-2F * test::max_abs(wanted));
}

}  // namespace
}  // namespace nibble
