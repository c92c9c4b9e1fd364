// The registry of families and what all of them read alike.
#include "frontends/safetensors/describe.h"

#include <fmt/ranges.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <utility>

#include "frontends/safetensors/families.h"
#include "jit/error.h"

namespace nibble::frontends::safetensors {
namespace {

constexpr Family kFamilies[] = {
    {"arcee", false, describe_arcee},
    {"bloom", true, describe_bloom},
    {"cohere", true, describe_cohere},
    {"cohere2", true, describe_cohere2},
    {"ernie4_5", true, describe_ernie4_5},
    {"exaone4", false, describe_exaone4},
    {"falcon", true, describe_falcon},
    {"gemma", true, describe_gemma},
    {"gemma2", true, describe_gemma2},
    {"gemma3_text", true, describe_gemma3},
    {"glm", false, describe_glm},
    {"glm4", false, describe_glm4},
    {"gpt2", true, describe_gpt2},
    {"gpt_bigcode", true, describe_gpt_bigcode},
    {"gpt_neox", false, describe_gpt_neox},
    {"gptj", false, describe_gptj},
    {"granite", false, describe_granite},
    {"helium", false, describe_helium},
    {"hunyuan_v1_dense", false, describe_hunyuan},
    {"llama", false, describe_llama},
    {"ministral", false, describe_ministral},
    {"mistral", false, describe_mistral},
    {"mpt", true, describe_mpt},
    {"nemotron", false, describe_nemotron},
    {"olmo", false, describe_olmo},
    {"olmo2", false, describe_olmo2},
    {"olmo3", false, describe_olmo3},
    {"opt", true, describe_opt},
    {"persimmon", false, describe_persimmon},
    {"phi", false, describe_phi},
    {"phi3", false, describe_phi3},
    {"qwen2", false, describe_qwen2},
    {"qwen3", false, describe_qwen3},
    {"seed_oss", false, describe_seed_oss},
    {"smollm3", true, describe_smollm3},
    {"stablelm", false, describe_stablelm},
    {"starcoder2", true, describe_starcoder2},
};

// transformers' names; those side by side compute the same.
constexpr std::array<std::pair<const char*, const char*>, 11> kActivations = {
    {{"silu", "silu"},
     {"swish", "silu"},
     {"gelu", "gelu"},
     {"gelu_python", "gelu"},
     {"gelu_new", "gelu_tanh"},
     {"gelu_pytorch_tanh", "gelu_tanh"},
     {"gelu_fast", "gelu_tanh"},
     {"gelu_tanh", "gelu_tanh"},
     {"quick_gelu", "quick_gelu"},
     {"relu", "relu"},
     {"relu2", "relu2"}}};

void read_sizes(const Config& config, Description& d) {
  d.layers = config.size({"num_hidden_layers", "n_layer", "n_layers"});
  d.hidden = config.size({"hidden_size", "n_embd", "n_embed", "d_model"});
  d.heads = config.size({"num_attention_heads", "n_head", "n_heads"});
  d.kv_heads = config.size({"num_key_value_heads"}, d.heads);
  d.vocabulary = config.size({"vocab_size"});
  d.mlp = config.size({"intermediate_size", "n_inner", "ffn_dim", "ffn_hidden_size"}, 4 * d.hidden);
  if (!config.has({"head_dim"}) && d.hidden % d.heads != 0) {
    config.refuse({"num_attention_heads", "n_head", "n_heads"},
                  fmt::format("a divisor of the hidden size {}", d.hidden));
  }
  d.head_dim = config.size({"head_dim"}, d.hidden / d.heads);
  // Beyond these nothing was ever made, and tables by layer and by head would take their memory.
  constexpr int64_t kMostLayers = 4096, kMostHeads = 4096, kMostHeadDim = 8192;
  if (d.layers > kMostLayers) {
    config.refuse({"num_hidden_layers", "n_layer", "n_layers"}, "at most 4096");
  }
  if (d.heads > kMostHeads) {
    config.refuse({"num_attention_heads", "n_head", "n_heads"}, "at most 4096");
  }
  if (d.head_dim > kMostHeadDim) {
    config.refuse({"head_dim", "hidden_size", "n_embd", "d_model"}, "a head of at most 8192");
  }
}

void check(const Config& config, const Description& d) {
  if (d.heads % d.kv_heads != 0) {
    config.refuse({"num_key_value_heads", "num_kv_heads"},
                  fmt::format("a divisor of the {} query heads", d.heads));
  }
  if (!(d.epsilon > 0) || !std::isfinite(d.epsilon)) {
    config.refuse({"rms_norm_eps", "layer_norm_epsilon", "layer_norm_eps", "norm_epsilon"},
                  "a number above 0");
  }
}

}  // namespace

std::string read_activation(const Config& config, Config::Names names,
                            const std::string& fallback) {
  const std::string name = config.text(names, fallback);
  for (const auto& [theirs, ours] : kActivations) {
    if (name == theirs) return ours;
  }
  config.refuse(names, "silu, gelu, gelu_new, quick_gelu, relu or relu2");
}

std::vector<std::string> described_families() {
  std::vector<std::string> names;
  for (const Family& family : kFamilies) names.emplace_back(family.model_type);
  return names;
}

Description describe(const Config& config) {
  const std::string type = config.text({"model_type"}, "");
  const auto* family = std::find_if(std::begin(kFamilies), std::end(kFamilies),
                                    [&](const Family& f) { return type == f.model_type; });
  if (family == std::end(kFamilies)) {
    config.refuse({"model_type"}, fmt::format("one of {}", fmt::join(described_families(), ", ")));
  }
  Description d;
  d.family = type;
  read_sizes(config, d);
  d.tied = config.boolean({"tie_word_embeddings"}, family->tied);
  d.quantization = read_quantization(config);
  config.only("add_cross_attention", false);
  config.only("is_encoder_decoder", false);
  family->describe(config, d);
  if (d.scales.empty()) {
    d.scales = {static_cast<float>(1 / std::sqrt(static_cast<double>(d.head_dim)))};
  }
  check(config, d);
  return d;
}

}  // namespace nibble::frontends::safetensors
