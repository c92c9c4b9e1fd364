// Every architecture of GGUF against transformers, by the families of safetensors_families.json
// converted as llama.cpp does it; against another architecture that computes the same; or, where
// nobody else has it, against llama.cpp (gguf_llama_cpp.json: b11669, everything in f32).
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <set>

#include "frontends/gguf/gguf_description.h"
#include "frontends/gguf/gguf_model.h"
#include "jit/isa.h"
#include "tests/frontends/gguf_conversion.h"
#include "tests/support/fused_model.h"
#include "tests/support/gguf_builder.h"
#include "tests/support/zoo.h"

namespace nibble {
namespace {

using nlohmann::json;
using test::FamilyModel;
using test::GgufOptions;
using Floats = std::vector<float>;

// Of no architecture of GGUF, or with what these have no keys for.
bool has_no_gguf(const std::string& name) {
  static const std::set<std::string> without = {"falcon-rw", "phi-norms"};
  return without.contains(name) ||
         test::gguf_architecture(test::family_case(name)["config"]["model_type"]).empty();
}

std::vector<std::string> families_with_gguf() {
  std::vector<std::string> names = test::family_names();
  std::erase_if(names, has_no_gguf);
  return names;
}

// Factors of frequencies are applied to them here, and are within them there.
bool has_other_frequencies(const std::string& name) {
  static const std::set<std::string> all = {"phi3-longrope", "llama-llama3", "hunyuan-alpha"};
  return all.contains(name);
}

Floats logits_of_file(const runtime::TemporaryFolder& folder, const std::string& bytes) {
  return test::interpreted_logits(frontends::load_gguf(folder.write("model.gguf", bytes)).graph);
}

// Values of configurations that GGUF has no key for become those of the architecture. Whether there
// are any: then transformers' logits are of another model.
bool adapt_to_gguf(FamilyModel& model) {
  const json before = model.config;
  const std::string type = model.config["model_type"];
  if (type == "gpt2") model.config["scale_attn_by_inverse_layer_idx"] = false;
  if (type == "gpt_neox") model.config["hidden_act"] = "gelu";
  if (type == "gpt_bigcode") model.config["activation_function"] = "gelu_pytorch_tanh";
  if (type == "qwen2") {
    model.config["use_sliding_window"] = false;
    model.config["sliding_window"] = nullptr;
  }
  return model.config != before;
}

class GgufFamily : public testing::TestWithParam<std::string> {};

TEST_P(GgufFamily, LogitsAreThoseOfTransformersAndOfSafetensors) {
  FamilyModel model(GetParam());
  const bool other = adapt_to_gguf(model);
  const Floats twin = model.last_logits();
  const Floats found = logits_of_file(model.folder, test::convert_to_gguf(model));
  const auto wanted = test::family_case(GetParam())["logits"].get<Floats>();
  if (!other) {
    EXPECT_LE(test::max_abs_difference(found, wanted), 1e-5F * test::max_abs(wanted));
  }
  const std::string type = model.config["model_type"];
  if (test::gguf_turns_heads(type) || has_other_frequencies(GetParam())) {
    EXPECT_LE(test::max_abs_difference(found, twin), 2e-6F * test::max_abs(twin));
  } else {
    EXPECT_EQ(found, twin);
  }
}

TEST_P(GgufFamily, IsFusedAndCompiled) {
  FamilyModel model(GetParam());
  adapt_to_gguf(model);
  model.folder.write("model.gguf", test::convert_to_gguf(model));
  test::FusedOptions options;
  options.compute = graph::Compute::f32;
  options.isa = jit::selected_isa();
  graph::FusionReport report;
  const graph::Graph graph = test::fused_graph(model.folder.path("model.gguf"), options, &report);
  ASSERT_TRUE(report.complete());
  const auto session = test::session_of(graph, options);
  const auto found = session->forward(test::family_ids());
  const auto wanted =
      test::interpreted_logits(frontends::load_gguf(model.folder.path("model.gguf")).graph);
  EXPECT_LE(test::max_abs_difference(found, wanted), 1e-5F * test::max_abs(wanted));
}

std::string identifier_of(std::string name) {
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
}

INSTANTIATE_TEST_SUITE_P(Cases, GgufFamily, testing::ValuesIn(families_with_gguf()),
                         [](const testing::TestParamInfo<std::string>& info) {
                           return identifier_of(info.param);
                         });

// The same tensors under another name, laid out as it has them.
struct Alias {
  const char* family;
  GgufOptions as, like = {};
};

TEST(GgufArchitectures, SomeAreOthersByAnotherName) {
  const GgufOptions halves = {.architecture = "qwen2", .turn_heads = false};
  const json full_rotation = {{"rope.dimension_count", 8}};
  const Alias aliases[] = {
      {"llama-headdim-tied", {.architecture = "baichuan"}},
      {"llama-headdim-tied", {.architecture = "internlm2"}},
      {"llama-headdim-tied", {.architecture = "xverse"}},
      {"llama-headdim-tied", {.architecture = "mistral3"}},
      {"llama-headdim-tied", {.architecture = "exaone", .turn_heads = false}, halves},
      {"llama-bias", {.architecture = "pangu-embedded", .turn_heads = false}, halves},
      {"llama-headdim-tied", {.one_matrix = true}},
      {"glm", {.one_matrix = true}},
      {"phi", {.one_matrix = true}},
      {"starcoder2", {.architecture = "codeshell", .one_matrix = true}},
      {"exaone4-all", {.more = {{"nextn_predict_layers", 0}}}},
      {"qwen3", {.architecture = "qwen3vl", .more = {{"n_deepstack_layers", 0}}}},
      {"llama-headdim-tied", {.architecture = "qwen2vl", .turn_heads = false}, halves},
      {"stablelm", {.architecture = "orion", .more = full_rotation}, {.more = full_rotation}},
      {"llama-headdim-tied",
       {.architecture = "qwen", .one_matrix = true, .turn_heads = false, .double_mlp = true},
       halves},
      {"granite", {.architecture = "minicpm", .more = {{"attention.scale", 0.1}}}, {}},
      {"granite",
       {.more = {{"expert_count", 0},
                 {"expert_shared_feed_forward_length", 40},
                 {"ssm.conv_kernel", 4},
                 {"rope.scaling.finetuned", true}}}},
      {"llama-yarn", {.more = {{"rope.scaling.yarn_attn_factor", 1.1386}}}},
      {"llama-headdim-tied",
       {.architecture = "minicpm"},
       {.architecture = "minicpm",
        .more = {{"embedding_scale", 12.0},
                 {"residual_scale", 1.4 / std::sqrt(2.0)},
                 {"logit_scale", 32.0 / 256}}}},
      // A list of layers, and the period that it has.
      {"gemma3", {.more = {{"attention.sliding_window_pattern", 3}}}},
      {"olmo3", {.more = {{"attention.sliding_window_pattern", 4}}}},
  };
  for (const Alias& alias : aliases) {
    FamilyModel model(alias.family);
    // Orion has no key for it, and StableLM has no use of it.
    if (alias.as.architecture == "orion") model.config.erase("use_parallel_residual");
    const Floats wanted = logits_of_file(model.folder, test::convert_to_gguf(model, alias.like));
    EXPECT_EQ(logits_of_file(model.folder, test::convert_to_gguf(model, alias.as)), wanted)
        << alias.family << " as " << alias.as.architecture;
    EXPECT_GT(test::max_abs(wanted), 0);
  }
}

json llama_cpp_cases() {
  std::ifstream file(std::string(NIBBLE_SOURCE_DIR) + "/tests/frontends/gguf_llama_cpp.json");
  return json::parse(file);
}

std::string gguf_file_of(const json& one) {
  test::GgufBuilder make;
  const std::string architecture = one["architecture"];
  make.string("general.architecture", architecture);
  for (const auto& [key, value] : one["metadata"].items()) {
    test::write_gguf_key(make, architecture + "." + key, value);
  }
  for (const auto& [pattern, dimensions] : one["tensors"].items()) {
    const auto shape = dimensions.get<std::vector<int64_t>>();
    const size_t star = pattern.find('*');
    const int layers = star == std::string::npos ? 1 : one["metadata"]["block_count"].get<int>();
    for (int layer = 0; layer < layers; ++layer) {
      std::string name = pattern;
      if (star != std::string::npos) name.replace(star, 1, std::to_string(layer));
      make.tensor(name, 0, {shape.rbegin(), shape.rend()},
                  test::GgufBuilder::floats(test::family_values(name, shape)));
    }
  }
  return make.file();
}

// What llama.cpp has of each id after the same ids.
TEST(GgufArchitectures, LogProbabilitiesAreThoseOfLlamaCpp) {
  const runtime::TemporaryFolder folder;
  for (const json& one : llama_cpp_cases()) {
    const Floats logits = logits_of_file(folder, gguf_file_of(one));
    const auto wanted = one["log_probabilities"].get<std::vector<double>>();
    ASSERT_EQ(logits.size(), wanted.size());
    double sum = 0;
    for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
    // It rounds to five digits, and has one GELU, of the tanh form in f16, for both.
    const double tolerance = one["architecture"] == "mpt" ? 1e-2 : 1e-4;
    for (size_t i = 0; i < wanted.size(); ++i) {
      EXPECT_NEAR(static_cast<double>(logits[i]) - std::log(sum), wanted[i], tolerance)
          << one["name"] << ", id " << i;
    }
  }
}

TEST(GgufArchitectures, EachIsInATest) {
  std::set<std::string> tested = {"baichuan", "codeshell",      "exaone",    "internlm2",
                                  "jais",     "jais2",          "maincoder", "minicpm",
                                  "mistral3", "pangu-embedded", "qwen",      "qwen2vl",
                                  "qwen3vl",  "refact",         "orion",     "xverse"};
  for (const std::string& name : families_with_gguf()) {
    tested.insert(test::gguf_architecture(test::family_case(name)["config"]["model_type"]));
  }
  const auto described = frontends::gguf::described_architectures();
  EXPECT_EQ(tested, std::set<std::string>(described.begin(), described.end()));
}

// Queries grow beyond the original length, and LongRoPE has other frequencies: the context ends.
TEST(GgufArchitectures, ContextsEndWhereMoreIsNotDescribed) {
  const runtime::TemporaryFolder folder;
  for (const json& one : llama_cpp_cases()) {
    if (one["name"] != "mistral3") continue;
    const auto path = folder.write("model.gguf", gguf_file_of(one));
    EXPECT_EQ(frontends::load_gguf(path).graph.context_length, 32);
  }
  const FamilyModel model("phi3-longrope");
  const auto path = model.folder.write("model.gguf", test::convert_to_gguf(model));
  EXPECT_EQ(frontends::load_gguf(path).graph.context_length, 64);
}

struct Refused {
  const char* family;
  json more;
  const char* complaint;
};

TEST(GgufArchitectures, KeysThatCannotBeHonouredAreRefused) {
  const Refused refusals[] = {
      {"llama-bias", {{"expert_count", 8}}, "is 8, but 0 (mixtures of experts are not read)"},
      {"llama-bias", {{"nextn_predict_layers", 1}}, "'llama.nextn_predict_layers' is 1, but 0"},
      {"llama-bias", {{"logit_scale", 0.5}}, "'llama.logit_scale' is not known"},
      {"granite", {{"logit_scale", 0.0}}, "'granite.logit_scale' is 0.000000, but a number above"},
      {"gemma3", {{"rope.freq_base_swa", 0.5}}, "'gemma3.rope.freq_base_swa' is 0.5"},
      {"olmo3", {{"attention.sliding_window_pattern", {true}}}, "a list of 1, but one of"},
      {"mpt", {{"attention.max_alibi_bias", -1.0}}, "max_alibi_bias' is -1"},
      {"cohere2", {{"attention.causal", false}}, "'cohere2.attention.causal' is false, but true"},
  };
  for (const Refused& refused : refusals) {
    const FamilyModel model(refused.family);
    const GgufOptions options = {.more = refused.more};
    const auto path = model.folder.write("model.gguf", test::convert_to_gguf(model, options));
    try {
      frontends::load_gguf(path);
      ADD_FAILURE() << "expected: " << refused.complaint;
    } catch (const Error& error) {
      const std::string message = error.what();
      EXPECT_NE(message.find(refused.complaint), std::string::npos) << message;
      EXPECT_NE(message.find("model.gguf"), std::string::npos) << message;
    }
  }
}

}  // namespace
}  // namespace nibble
