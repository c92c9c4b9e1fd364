// Heirs of Llama that normalise elsewhere: behind attention and MLP instead of before them, or Q
// and K.
#include <cmath>

#include "frontends/safetensors/families.h"

namespace nibble::frontends::safetensors {
namespace {

void norms_of_q_and_k(Description& d, QkNorm kind, const char* q, const char* k) {
  d.qk_norm = kind;
  d.names.q_norm = q;
  d.names.k_norm = k;
}

// x += norm(attention(x)); x += norm(mlp(x))
void norms_behind(Description& d) {
  d.names.attention_norm.clear();
  d.names.mlp_norm.clear();
  d.names.after_attention = "post_attention_layernorm";
  d.names.after_mlp = "post_feedforward_layernorm";
}

// layer_types, or every `period`th layer without a window.
void windows_but_every(const Config& config, Description& d, int64_t period) {
  read_layer_windows(config, d, [&](int64_t layer) { return (layer + 1) % period != 0; });
}

void layer_norms(const Config& config, Description& d) {
  d.norm = Norm::layer;
  d.epsilon = static_cast<float>(config.number({"layer_norm_eps"}, 1e-5));
}

// Partial rotation of pairs, and one matrix of gate and up.
void glm_like(const Config& config, Description& d) {
  llama_like(config, d);
  d.biases.qkv = config.boolean({"attention_bias"}, true);
  d.rotation = read_rotation(config, d.head_dim, 0.5);
  d.rotation.interleaved = true;
  d.mlp_layout = MlpLayout::gate_up;
  d.names.gate = "mlp.gate_up_proj";
}

}  // namespace

void describe_olmo2(const Config& config, Description& d) {
  llama_like(config, d);
  read_attention_bias(config, d);
  norms_behind(d);
  norms_of_q_and_k(d, QkNorm::rms_whole, "self_attn.q_norm", "self_attn.k_norm");
}

// Every layer rotates alike, scaled or not, as in transformers 5.12.
void describe_olmo3(const Config& config, Description& d) {
  describe_olmo2(config, d);
  constexpr int64_t kPeriod = 4;
  windows_but_every(config, d, kPeriod);
}

// Layers without a window do not rotate, in a model that has windows.
void describe_exaone4(const Config& config, Description& d) {
  llama_like(config, d);
  norms_behind(d);
  norms_of_q_and_k(d, QkNorm::rms_heads, "self_attn.q_norm", "self_attn.k_norm");
  if (!config.has({"sliding_window"})) return;
  constexpr int64_t kPeriod = 4;
  const int64_t period =
      config.has({"layer_types"}) ? kPeriod : config.integer({"sliding_window_pattern"}, kPeriod);
  if (period < 1) config.refuse({"sliding_window_pattern"}, "a number of layers");
  windows_but_every(config, d, period);
  for (const int64_t window : d.windows) d.unrotated.push_back(window == 0);
}

void describe_glm(const Config& config, Description& d) { glm_like(config, d); }

void describe_glm4(const Config& config, Description& d) {
  glm_like(config, d);
  d.names.after_attention = "post_self_attn_layernorm";
  d.names.after_mlp = "post_mlp_layernorm";
}

// Layers with a window rotate by a base of their own.
void describe_gemma3(const Config& config, Description& d) {
  gemma_skeleton(config, d);
  d.activation = read_activation(config, {"hidden_activation"}, "gelu_pytorch_tanh");
  d.names.after_attention = "post_attention_layernorm";
  d.names.mlp_norm = "pre_feedforward_layernorm";
  d.names.after_mlp = "post_feedforward_layernorm";
  norms_of_q_and_k(d, QkNorm::rms_heads, "self_attn.q_norm", "self_attn.k_norm");
  d.scales = {static_cast<float>(1 / std::sqrt(config.number({"query_pre_attn_scalar"}, 256)))};
  d.score_cap = static_cast<float>(config.number({"attn_logit_softcapping"}, 0));
  d.logit_cap = static_cast<float>(config.number({"final_logit_softcapping"}, 0));
  constexpr int64_t kPeriod = 6;
  const int64_t period = config.integer({"sliding_window_pattern"}, kPeriod);
  if (period < 1) config.refuse({"sliding_window_pattern"}, "a number of layers");
  windows_but_every(config, d, period);
  constexpr double kFarTheta = 1e6, kNearTheta = 1e4;
  const auto parameters = config.object({"rope_parameters"});
  if (parameters && parameters->has({"full_attention"})) {
    d.rotation =
        read_rotation(config, parameters->object({"full_attention"}), d.head_dim, 1, kFarTheta);
    d.near_rotation =
        read_rotation(config, parameters->object({"sliding_attention"}), d.head_dim, 1, kNearTheta);
    return;
  }
  d.rotation = read_rotation(config, d.head_dim, 1, kFarTheta);
  d.near_rotation.rotary = d.head_dim;
  d.near_rotation.inv_freq =
      plain_frequencies(config.number({"rope_local_base_freq"}, kNearTheta), d.head_dim);
}

// With "alpha" the base of "dynamic" is stretched once and for all.
void describe_hunyuan(const Config& config, Description& d) {
  llama_like(config, d);
  read_attention_bias(config, d);
  norms_of_q_and_k(d, QkNorm::rms_heads_last, "self_attn.query_layernorm",
                   "self_attn.key_layernorm");
  const auto scaling = config.object({"rope_parameters", "rope_scaling"});
  if (!scaling || scaling->text({"rope_type", "type"}, "default") != "dynamic") return;
  const double alpha = scaling->number({"alpha"}, 0);
  if (!(alpha > 0)) return;
  const double theta = scaling->number({"rope_theta"}, config.number({"rope_theta"}, 10000));
  const auto dimensions = static_cast<double>(d.head_dim);
  d.rotation = {};
  d.rotation.rotary = d.head_dim;
  d.rotation.inv_freq =
      plain_frequencies(theta * std::pow(alpha, dimensions / (dimensions - 2)), d.head_dim);
}

void describe_stablelm(const Config& config, Description& d) {
  llama_like(config, d);
  layer_norms(config, d);
  d.biases.qkv = config.boolean({"use_qkv_bias"}, false);
  d.rotation = read_rotation(config, d.head_dim, 0.25);
  if (config.boolean({"use_parallel_residual"}, false)) {
    d.residual = Residual::parallel;
    d.names.mlp_norm.clear();
  }
  if (!config.boolean({"qk_layernorm"}, false)) return;
  norms_of_q_and_k(d, QkNorm::layer_numbered, "self_attn.q_layernorm.norms",
                   "self_attn.k_layernorm.norms");
}

void describe_persimmon(const Config& config, Description& d) {
  d.names = llama_names();
  layer_norms(config, d);
  d.names.final_norm = "model.final_layernorm";
  d.names.qkv = "self_attn.query_key_value";
  d.names.o = "self_attn.dense";
  d.names.up = "mlp.dense_h_to_4h";
  d.names.down = "mlp.dense_4h_to_h";
  d.qkv = QkvLayout::per_group;
  d.biases = {.qkv = true, .o = true, .mlp = true};
  d.activation = read_activation(config, {"hidden_act"}, "relu2");
  d.rotation = read_rotation(config, d.head_dim, 0.5);
  if (!config.boolean({"qk_layernorm"}, true)) return;
  norms_of_q_and_k(d, QkNorm::layer_heads, "self_attn.q_layernorm", "self_attn.k_layernorm");
}

}  // namespace nibble::frontends::safetensors
