// One random model as an ONNX export, a Hugging Face folder and a GGUF in F16: the program must say
// the same, however the weights are stored.
#include <fmt/format.h>
#include <gtest/gtest.h>

#include <nlohmann/json.hpp>
#include <set>

#include "tests/runtime/temporary_folder.h"
#include "tests/support/random_model.h"
#include "tests/support/zoo.h"
#include "tests/tools/program.h"

namespace nibble::test {
namespace {

constexpr int64_t kNew = 32;

struct SameModelCase {
  const char* name;
  RandomModel model;
};
void PrintTo(const SameModelCase& c, std::ostream* out) { *out << c.name; }

constexpr SameModelCase kCases[] = {
    {"Llama", {}},
    {"LlamaWithoutGroups", {.layers = 1, .hidden = 96, .mlp = 224, .heads = 3, .kv_heads = 3}},
    {"LlamaTied", {.kv_heads = 1, .vocabulary = 200, .tied = true}},
    {"Qwen2", {.layers = 3, .hidden = 128, .mlp = 160, .kv_heads = 2, .qwen2 = true}},
    {"Qwen2Tied", {.qwen2 = true, .tied = true}},
};

class SameModel : public testing::TestWithParam<SameModelCase> {
 protected:
  void SetUp() override {
    const RandomModel& model = GetParam().model;
    write_onnx(model, folder_.path("onnx"));
    write_safetensors(model, folder_.path("hf"));
    write_gguf(model, folder_.path("model.gguf"));
    for (const char* form : {"onnx", "hf", "model.gguf"}) forms_.push_back(folder_.path(form));
  }

  std::vector<int64_t> tokens(const std::string& form, const std::vector<std::string>& options) {
    std::vector<std::string> arguments = {
        "run", form, "--ids", "1,17,5,99,42", "-n", std::to_string(kNew), "--greedy", "--json"};
    arguments.insert(arguments.end(), options.begin(), options.end());
    const Outcome outcome = nibble(arguments);
    EXPECT_EQ(outcome.code, 0) << outcome.err;
    EXPECT_EQ(outcome.err, "") << form;  // all is fused, and nothing quantized again
    if (outcome.code != 0) return {};
    return nlohmann::json::parse(outcome.out).at("ids").get<std::vector<int64_t>>();
  }

  runtime::TemporaryFolder folder_;
  std::vector<std::string> forms_;
};

TEST_P(SameModel, SaysTheSameTokensFromEveryForm) {
  for (const std::vector<std::string>& options : {std::vector<std::string>{"--weights", "f32"},
                                                  {"--weights", "int8"},
                                                  {"--weights", "int4", "--group", "32"}}) {
    const auto wanted = tokens(forms_[0], options);
    ASSERT_EQ(wanted.size(), static_cast<size_t>(kNew));
    // A model that always says the same would not tell one file from another.
    EXPECT_GE(std::set<int64_t>(wanted.begin(), wanted.end()).size(), 6U)
        << testing::PrintToString(wanted);
    EXPECT_EQ(tokens(forms_[1], options), wanted) << options[1] << ", safetensors";
    EXPECT_EQ(tokens(forms_[2], options), wanted) << options[1] << ", GGUF";
  }
}

// The export computes its frequencies as transformers does and the others from rope_theta, so that
// the last bits of an angle may differ; nothing else may.
TEST_P(SameModel, HasTheSameLogitsInEveryForm) {
  Npy<int64_t> ids{.shape = {1, 24}, .values = {}};
  for (int64_t i = 0; i < 24; ++i) ids.values.push_back((i * 29 + 3) % 120);
  const std::string in = folder_.path("ids.npy"), out = folder_.path("logits.npy");
  write_npy(in, ids);
  std::vector<Npy<float>> logits;
  for (const std::string& form : forms_) {
    const Outcome outcome = nibble({"logits", form, "--ids", in, "-o", out, "--weights", "f32"});
    ASSERT_EQ(outcome.code, 0) << outcome.err;
    logits.push_back(read_npy_f32(out));
  }
  for (size_t i = 1; i < logits.size(); ++i) {
    ASSERT_EQ(logits[i].shape, logits[0].shape);
    EXPECT_LE(max_abs_difference(logits[i].values, logits[0].values),
              2e-6F * max_abs(logits[0].values))
        << forms_[i];
  }
}

INSTANTIATE_TEST_SUITE_P(Families, SameModel, testing::ValuesIn(kCases),
                         [](const auto& info) { return info.param.name; });

}  // namespace
}  // namespace nibble::test
