// Llama and those that keep its tensor names: "model.layers.N.self_attn.q_proj" and so on.
#include <cmath>

#include "frontends/safetensors/families.h"

namespace nibble::frontends::safetensors {
Names llama_names() {
  return {.base = "model.",
          .embedding = "model.embed_tokens",
          .layers = "model.layers.",
          .final_norm = "model.norm",
          .head = "lm_head",
          .attention_norm = "input_layernorm",
          .q = "self_attn.q_proj",
          .k = "self_attn.k_proj",
          .v = "self_attn.v_proj",
          .o = "self_attn.o_proj",
          .mlp_norm = "post_attention_layernorm",
          .gate = "mlp.gate_proj",
          .up = "mlp.up_proj",
          .down = "mlp.down_proj"};
}

void llama_skeleton(const Config& config, Description& d) {
  d.names = llama_names();
  d.norm = Norm::rms;
  d.epsilon = static_cast<float>(config.number({"rms_norm_eps"}, 1e-6));
  d.mlp_layout = MlpLayout::gated;
  d.activation = read_activation(config, {"hidden_act"}, "silu");
}

void llama_like(const Config& config, Description& d, double theta) {
  llama_skeleton(config, d);
  d.rotation = read_rotation(config, d.head_dim, 1, theta);
}

void read_attention_bias(const Config& config, Description& d) {
  d.biases.qkv = d.biases.o = config.boolean({"attention_bias"}, false);
}

namespace {

// A window on all layers.
void read_window(const Config& config, Description& d) {
  if (config.has({"sliding_window"})) d.windows = {config.size({"sliding_window"})};
}

}  // namespace

void read_layer_windows(const Config& config, Description& d,
                        const std::function<bool(int64_t)>& windowed) {
  const std::vector<std::string> types = config.texts({"layer_types"});
  if (!types.empty() && types.size() != static_cast<size_t>(d.layers)) {
    config.refuse({"layer_types"}, "a type for each layer");
  }
  const int64_t window = config.size({"sliding_window"}, 0);
  for (int64_t layer = 0; layer < d.layers; ++layer) {
    bool slides = window > 0 && windowed(layer);
    if (!types.empty()) {
      const std::string& type = types[static_cast<size_t>(layer)];
      slides = type == "sliding_attention";
      if ((!slides && type != "full_attention") || (slides && window == 0)) {
        config.refuse({"layer_types"}, "full_attention, or sliding_attention and a sliding_window");
      }
    }
    d.windows.push_back(slides ? window : 0);
  }
}

namespace {

// Qwen: a window from max_window_layers on, when use_sliding_window says so.
void read_qwen_windows(const Config& config, Description& d) {
  if (!config.boolean({"use_sliding_window"}, false)) return;
  const int64_t first = config.integer({"max_window_layers"}, 28);
  read_layer_windows(config, d, [&](int64_t layer) { return layer >= first; });
}

}  // namespace

void gemma_skeleton(const Config& config, Description& d) {
  if (!config.has({"head_dim"})) d.head_dim = 256;
  llama_skeleton(config, d);
  read_attention_bias(config, d);
  config.only("use_bidirectional_attention", false);
  d.norm_adds_one = true;
  d.embedding_scale = static_cast<float>(std::sqrt(static_cast<double>(d.hidden)));
}

void describe_llama(const Config& config, Description& d) {
  llama_like(config, d);
  read_attention_bias(config, d);
  d.biases.mlp = config.boolean({"mlp_bias"}, false);
}

void describe_mistral(const Config& config, Description& d) {
  llama_like(config, d);
  read_window(config, d);
}

void describe_qwen2(const Config& config, Description& d) {
  llama_like(config, d);
  d.biases.qkv = true;
  read_qwen_windows(config, d);
}

void describe_qwen3(const Config& config, Description& d) {
  if (!config.has({"head_dim"})) d.head_dim = 128;
  llama_like(config, d);
  read_attention_bias(config, d);
  d.names.q_norm = "self_attn.q_norm";
  d.names.k_norm = "self_attn.k_norm";
  read_qwen_windows(config, d);
}

void describe_phi3(const Config& config, Description& d) {
  llama_like(config, d);
  d.qkv = QkvLayout::blocks;
  d.names.qkv = "self_attn.qkv_proj";
  d.mlp_layout = MlpLayout::gate_up;
  d.names.gate = "mlp.gate_up_proj";
  read_window(config, d);
}

// The files of the first Gemma say "gelu" where the model has its tanh form; hidden_activation,
// which came later, says it right.
void describe_gemma(const Config& config, Description& d) {
  gemma_skeleton(config, d);
  d.rotation = read_rotation(config, d.head_dim);
  d.activation = read_activation(config, {"hidden_activation", "hidden_act"}, "gelu_pytorch_tanh");
  if (!config.has({"hidden_activation"}) && d.activation == "gelu") d.activation = "gelu_tanh";
}

void describe_gemma2(const Config& config, Description& d) {
  gemma_skeleton(config, d);
  d.rotation = read_rotation(config, d.head_dim);
  d.activation = read_activation(config, {"hidden_activation"}, "gelu_pytorch_tanh");
  d.names.after_attention = "post_attention_layernorm";
  d.names.mlp_norm = "pre_feedforward_layernorm";
  d.names.after_mlp = "post_feedforward_layernorm";
  d.scales = {static_cast<float>(1 / std::sqrt(config.number({"query_pre_attn_scalar"}, 256)))};
  d.score_cap = static_cast<float>(config.number({"attn_logit_softcapping"}, 0));
  d.logit_cap = static_cast<float>(config.number({"final_logit_softcapping"}, 0));
  read_layer_windows(config, d, [](int64_t layer) { return layer % 2 == 0; });
}

void describe_starcoder2(const Config& config, Description& d) {
  llama_like(config, d);
  d.norm = Norm::layer;
  d.epsilon = static_cast<float>(config.number({"norm_epsilon"}, 1e-5));
  d.mlp_layout = MlpLayout::plain;
  d.activation = read_activation(config, {"hidden_act"}, "gelu_pytorch_tanh");
  d.names.up = "mlp.c_fc";
  d.names.down = "mlp.c_proj";
  const bool bias = config.boolean({"use_bias"}, true);
  d.biases = {.qkv = bias, .o = bias, .mlp = bias};
  read_window(config, d);
}

void describe_phi(const Config& config, Description& d) {
  d.names = llama_names();
  d.names.o = "self_attn.dense";
  d.names.up = "mlp.fc1";
  d.names.down = "mlp.fc2";
  d.names.final_norm = "model.final_layernorm";
  d.names.mlp_norm.clear();
  d.residual = Residual::parallel;
  d.norm = Norm::layer;
  d.epsilon = static_cast<float>(config.number({"layer_norm_eps"}, 1e-5));
  d.activation = read_activation(config, {"hidden_act"}, "gelu_new");
  d.biases = {.qkv = true, .o = true, .mlp = true, .head = true};
  d.rotation = read_rotation(config, d.head_dim, 0.5);
  if (!config.boolean({"qk_layernorm"}, false)) return;
  d.qk_norm = QkNorm::layer_heads;
  d.names.q_norm = "self_attn.q_layernorm";
  d.names.k_norm = "self_attn.k_layernorm";
}

}  // namespace nibble::frontends::safetensors
