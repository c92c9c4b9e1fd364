// Heirs of Llama with the same skeleton: other factors, activations, biases, pairs of dimensions,
// or layers that do not rotate.
#include "frontends/safetensors/families.h"

namespace nibble::frontends::safetensors {
namespace {

void read_mlp_bias(const Config& config, Description& d) {
  d.biases.mlp = config.boolean({"mlp_bias"}, false);
}

// Parallel residuals of one LayerNorm without biases, rotation of pairs, scaled logits.
void cohere_like(const Config& config, Description& d, double theta) {
  llama_like(config, d, theta);
  read_attention_bias(config, d);
  d.norm = Norm::layer;
  d.norm_bias = false;
  d.epsilon = static_cast<float>(config.number({"layer_norm_eps"}, 1e-5));
  d.residual = Residual::parallel;
  d.names.mlp_norm.clear();
  d.rotation.interleaved = true;
  d.logit_scale = static_cast<float>(config.number({"logit_scale"}, 0.0625));
}

void plain_mlp(const Config& config, Description& d) {
  d.mlp_layout = MlpLayout::plain;
  d.activation = read_activation(config, {"hidden_act"}, "relu2");
  read_mlp_bias(config, d);
}

}  // namespace

// LayerNorms without factors and biases.
void describe_olmo(const Config& config, Description& d) {
  llama_like(config, d);
  read_attention_bias(config, d);
  d.norm = Norm::layer;
  d.norm_weight = d.norm_bias = false;
  d.epsilon = 1e-5F;
  if (config.has({"clip_qkv"})) d.qkv_clip = static_cast<float>(config.number({"clip_qkv"}));
}

void describe_granite(const Config& config, Description& d) {
  describe_llama(config, d);
  d.embedding_scale = static_cast<float>(config.number({"embedding_multiplier"}, 1));
  d.residual_scale = static_cast<float>(config.number({"residual_multiplier"}, 1));
  d.scales = {static_cast<float>(config.number({"attention_multiplier"}, 1))};
  const double divisor = config.number({"logits_scaling"}, 1);
  if (!(divisor > 0)) config.refuse({"logits_scaling"}, "a number above 0");
  d.logit_scale = static_cast<float>(1 / divisor);
}

void describe_cohere(const Config& config, Description& d) {
  constexpr double kTheta = 500000;
  cohere_like(config, d, kTheta);
  if (!config.boolean({"use_qk_norm"}, false)) return;
  d.qk_norm = QkNorm::layer_stacked;
  d.names.q_norm = "self_attn.q_norm";
  d.names.k_norm = "self_attn.k_norm";
}

// Layers without a window do not rotate.
void describe_cohere2(const Config& config, Description& d) {
  cohere_like(config, d, 10000);
  const int64_t period = config.integer({"sliding_window_pattern"}, 4);
  if (period < 1) config.refuse({"sliding_window_pattern"}, "a number of layers");
  read_layer_windows(config, d, [&](int64_t layer) { return (layer + 1) % period != 0; });
  for (const int64_t window : d.windows) d.unrotated.push_back(window == 0);
}

// no_rope_layers says 0 of the layers that do not rotate: every fourth, when it is absent.
void describe_smollm3(const Config& config, Description& d) {
  constexpr double kTheta = 2000000;
  describe_llama(config, d);
  d.rotation = read_rotation(config, d.head_dim, 1, kTheta);
  std::vector<double> rotates;
  if (config.has({"no_rope_layers"})) rotates = config.numbers({"no_rope_layers"});
  const int64_t period = config.integer({"no_rope_layer_interval"}, 4);
  if (period < 1) config.refuse({"no_rope_layer_interval"}, "a number of layers");
  if (!rotates.empty() && std::ssize(rotates) != d.layers) {
    config.refuse({"no_rope_layers"}, "a number for each layer");
  }
  for (int64_t layer = 0; layer < d.layers; ++layer) {
    d.unrotated.push_back(rotates.empty() ? (layer + 1) % period == 0
                                          : rotates[static_cast<size_t>(layer)] == 0);
  }
  if (!config.boolean({"use_sliding_window"}, false)) return;
  read_layer_windows(config, d,
                     [&](int64_t layer) { return d.unrotated[static_cast<size_t>(layer)]; });
}

void describe_nemotron(const Config& config, Description& d) {
  llama_like(config, d);
  read_attention_bias(config, d);
  plain_mlp(config, d);
  d.norm = Norm::layer;
  d.norm_adds_one = true;
  d.epsilon = static_cast<float>(config.number({"norm_eps"}, 1e-5));
  d.rotation = read_rotation(config, d.head_dim, 0.5);
}

void describe_arcee(const Config& config, Description& d) {
  llama_like(config, d);
  read_attention_bias(config, d);
  plain_mlp(config, d);
}

void describe_helium(const Config& config, Description& d) {
  constexpr double kTheta = 100000;
  llama_like(config, d, kTheta);
  d.biases.qkv = config.boolean({"attention_bias"}, false);
  read_mlp_bias(config, d);
  d.rotation.interleaved = true;
}

void describe_ernie4_5(const Config& config, Description& d) {
  constexpr double kTheta = 500000;
  llama_like(config, d, kTheta);
  const bool bias = config.boolean({"use_bias"}, false);
  d.biases = {.qkv = bias, .o = bias, .mlp = bias};
  d.rotation.interleaved = true;
}

void describe_seed_oss(const Config& config, Description& d) {
  llama_like(config, d);
  d.biases.qkv = config.boolean({"attention_bias"}, true);
  d.biases.o = config.boolean({"attention_out_bias"}, false);
  read_mlp_bias(config, d);
}

void describe_ministral(const Config& config, Description& d) {
  llama_like(config, d);
  read_layer_windows(config, d, [](int64_t) { return true; });
}

}  // namespace nibble::frontends::safetensors
