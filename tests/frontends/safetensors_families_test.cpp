// Every family's description against transformers: tiny models whose weights follow from the names
// of their tensors, and the logits that transformers (5.12) has for them, in
// safetensors_families.json. And what a description must refuse.
#include <gtest/gtest.h>

#include "jit/error.h"
#include "jit/isa.h"
#include "tests/frontends/family_models.h"
#include "tests/support/fused_model.h"
#include "tests/support/zoo.h"

namespace nibble {
namespace {

using nlohmann::json;
using runtime::TemporaryFolder;
using test::FamilyModel;

class SafetensorsFamily : public testing::TestWithParam<std::string> {};

TEST_P(SafetensorsFamily, LogitsAreThoseOfTransformers) {
  const FamilyModel model(GetParam());
  const auto wanted = test::family_case(GetParam())["logits"].get<std::vector<float>>();
  const float tolerance = 1e-5F * test::max_abs(wanted);
  EXPECT_LE(test::max_abs_difference(model.last_logits(), wanted), tolerance) << "interpreted";

  test::FusedOptions options;
  options.compute = graph::Compute::f32;
  options.isa = jit::selected_isa();
  graph::FusionReport report;
  const graph::Graph graph =
      test::fused_graph(model.folder.path("model.safetensors"), options, &report);
  ASSERT_TRUE(report.complete());
  const auto session = test::session_of(graph, options);
  const auto found = session->forward(test::family_ids());
  EXPECT_LE(test::max_abs_difference(found, wanted), tolerance) << "compiled";
}

INSTANTIATE_TEST_SUITE_P(Cases, SafetensorsFamily, testing::ValuesIn(test::family_names()),
                         [](const testing::TestParamInfo<std::string>& info) {
                           std::string name = info.param;
                           std::replace(name.begin(), name.end(), '-', '_');
                           return name;
                         });

TEST(SafetensorsDescription, TheBaseOfNamesMayBeLeftAway) {
  for (const auto& [name, base] : {std::pair{"gpt2", "transformer."}, {"opt", "model."}}) {
    FamilyModel model(name);
    const auto wanted = model.last_logits();
    model.without = base;
    EXPECT_EQ(model.last_logits(), wanted) << name;
  }
}

TEST(SafetensorsDescription, BuffersAndATiedHeadArePassedOver) {
  FamilyModel model("gpt2");
  const auto wanted = model.last_logits();
  model.tensors["transformer.h.0.attn.bias"] = {1, 1, 8, 8};
  model.tensors["transformer.h.1.attn.masked_bias"] = {1};
  model.tensors["lm_head.weight"] = {32, 32};
  EXPECT_EQ(model.last_logits(), wanted);
}

struct Refusal {
  const char* model;
  const char* key;
  json value;
  const char* complaint;
};

TEST(SafetensorsDescription, ConfigurationsThatCannotBeHonouredAreRefused) {
  const Refusal refusals[] = {
      {"llama-bias", "model_type", "llama9", "\"model_type\" is \"llama9\", but one of arcee"},
      {"llama-bias", "model_type", nullptr, "\"model_type\" is absent"},
      {"llama-bias", "hidden_size", nullptr, "there is no \"hidden_size\""},
      {"llama-bias", "hidden_size", "many", "\"hidden_size\" is \"many\", but an integer"},
      {"llama-bias", "hidden_size", 0, "an integer from 1"},
      {"llama-bias", "hidden_size", 1e30, "an integer from 1"},
      {"llama-bias", "num_hidden_layers", -1, "an integer from 1"},
      {"llama-bias", "num_hidden_layers", 3, "no tensor 'model.layers.2.input_layernorm.weight'"},
      {"llama-bias", "num_hidden_layers", 1, "no place in the description of llama"},
      {"llama-bias", "num_hidden_layers", 16777216, "at most 4096"},
      {"gpt2", "n_head", 5, "a divisor of the hidden size 32"},
      {"llama-headdim-tied", "num_attention_heads", 8192, "at most 4096"},
      {"llama-headdim-tied", "head_dim", 16384, "at most 8192"},
      {"llama-bias", "vocab_size", 33,
       "has shape [32,32], but the model's description expects [33,32]"},
      {"llama-bias", "num_key_value_heads", 3, "a divisor of the 4 query heads"},
      {"llama-bias", "hidden_act", "gelu_10", "\"hidden_act\" is \"gelu_10\""},
      {"llama-bias", "attention_bias", false, "no place in the description of llama"},
      {"llama-bias", "attention_bias", 1, "true or false"},
      {"llama-bias", "rms_norm_eps", 0, "a number above 0"},
      {"llama-bias", "rope_parameters", {{"rope_type", "new"}}, "\"rope_type\" is \"new\""},
      {"llama-bias", "rope_parameters", {{"rope_type", "linear"}}, "there is no \"factor\""},
      {"llama-bias", "rope_parameters", {{"full_attention", json::object()}}, "full_attention"},
      {"llama-bias", "rope_parameters", {{"partial_rotary_factor", 2}}, "rotated dimensions"},
      {"llama-bias", "rope_parameters", 3, "an object"},
      {"phi3-longrope",
       "rope_parameters",
       {{"rope_type", "longrope"}, {"short_factor", {1, 2}}},
       "a list of 4 numbers"},
      {"qwen3", "head_dim", 8, "has shape [64,32], but the model's description expects [32,32]"},
      {"gptj", "rotary_dim", 64, "an even number up to 8"},
      {"gptj", "rotary_dim", 3, "an even number up to 8"},
      {"smollm3", "no_rope_layers", json::array({1, 0}), "a number for each layer"},
      {"opt", "do_layer_norm_before", false, "\"do_layer_norm_before\" is false"},
      {"opt", "word_embed_proj_dim", 16, "the hidden size"},
      {"bloom", "apply_residual_connection_post_layernorm", true, "is true, but false"},
      {"mpt", "logit_scale", 0.5, "\"logit_scale\" is 0.5, but null"},
      {"mpt", "attn_config", {{"alibi", false}}, "\"alibi\" is false, but true is expected"},
      {"mpt", "attn_config", {{"qk_ln", true}}, "\"qk_ln\" is true, but false is expected"},
      {"gemma2", "layer_types", {"full_attention"}, "a type for each layer"},
      {"gemma2", "layer_types", {"full_attention", "chunked"}, "full_attention, or sliding"},
      {"falcon-40b", "parallel_attn", false, "\"parallel_attn\" is false, but true"},
      {"gpt2", "add_cross_attention", true, "\"add_cross_attention\" is true"},
      {"gpt2", "scale_attn_weights", false, "\"scale_attn_weights\" is false"},
  };
  for (const Refusal& refusal : refusals) {
    FamilyModel model(refusal.model);
    model.config[refusal.key] = refusal.value;
    const std::string found = model.complaint();
    EXPECT_NE(found.find(refusal.complaint), std::string::npos)
        << refusal.model << " with " << refusal.key << " = " << refusal.value
        << "\n  found: " << found << "\n  expected: " << refusal.complaint;
  }
}

TEST(SafetensorsDescription, TensorsThatDoNotFitAreRefused) {
  FamilyModel missing("llama-bias");
  missing.tensors.erase("model.layers.1.mlp.up_proj.weight");
  EXPECT_NE(missing.complaint().find("no tensor 'model.layers.1.mlp.up_proj.weight'"),
            std::string::npos);
  FamilyModel more("llama-bias");
  more.tensors["model.layers.0.self_attn.q_norm.weight"] = {8};
  EXPECT_NE(more.complaint().find("'model.layers.0.self_attn.q_norm.weight' has no place"),
            std::string::npos);
  const TemporaryFolder folder;
  folder.write("config.json", test::family_case("llama-bias")["config"].dump());
  test::SafetensorsWriter writer;
  writer.add_raw("model.embed_tokens.weight", "I32", {32, 32}, std::string(4096, '\0'));
  folder.write("model.safetensors", writer.bytes());
  EXPECT_THROW(frontends::load_safetensors(folder.folder()), Error);
}

// Readers that recurse would run out of stack.
TEST(SafetensorsDescription, DeeplyNestedConfigurationsAreRefused) {
  for (const char* key : {"eos_token_id", "hidden_size", "rope_parameters"}) {
    const FamilyModel model("llama-bias");
    model.write();
    std::string text = model.config.dump();
    text.insert(1, std::string("\"") + key + "\":" + std::string(300000, '[') +
                       std::string(300000, ']') + ",");
    model.folder.write("config.json", text);
    try {
      frontends::load_safetensors(model.folder.folder());
      ADD_FAILURE() << key;
    } catch (const Error& e) {
      EXPECT_NE(std::string(e.what()).find("more than 16 deep"), std::string::npos) << e.what();
    }
  }
}

TEST(SafetensorsDescription, AFolderNeedsItsConfiguration) {
  const FamilyModel model("llama-bias");
  model.write();
  std::filesystem::remove(model.folder.path("config.json"));
  EXPECT_THROW(frontends::load_safetensors(model.folder.folder()), Error);
}

// LongRoPE's other frequencies begin after the original length: the context ends there.
TEST(SafetensorsDescription, LongRopeEndsTheContextAtTheOriginalLength) {
  const FamilyModel model("phi3-longrope");
  EXPECT_EQ(frontends::load_safetensors(model.write()).graph.context_length, 64);
}

}  // namespace
}  // namespace nibble
