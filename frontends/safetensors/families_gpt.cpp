// The families with layer norms and names of their own: GPT-2 and its heirs, OPT, BLOOM, Falcon,
// MPT.
#include <bit>
#include <cmath>
#include <cstdint>
#include <string>

#include "frontends/safetensors/families.h"

namespace nibble::frontends::safetensors {
namespace {

void gpt_layer_norms(const Config& config, Description& d) {
  d.norm = Norm::layer;
  d.epsilon = static_cast<float>(config.number({"layer_norm_epsilon", "layer_norm_eps"}, 1e-5));
}

Names gpt2_names() {
  return {.base = "transformer.",
          .embedding = "transformer.wte",
          .positions = "transformer.wpe",
          .layers = "transformer.h.",
          .final_norm = "transformer.ln_f",
          .head = "lm_head",
          .attention_norm = "ln_1",
          .qkv = "attn.c_attn",
          .o = "attn.c_proj",
          .mlp_norm = "ln_2",
          .up = "mlp.c_fc",
          .down = "mlp.c_proj"};
}

void gpt2_like(const Config& config, Description& d) {
  gpt_layer_norms(config, d);
  d.names = gpt2_names();
  d.biases = {.qkv = true, .o = true, .mlp = true};
  d.position_rows = config.size({"n_positions", "max_position_embeddings"}, 1024);
  config.only("scale_attn_weights", true);
}

// The nearest bfloat16, ties to even.
float rounded_to_bf16(float value) {
  const auto bits = std::bit_cast<uint32_t>(value);
  return std::bit_cast<float>((bits + 0x7fff + ((bits >> 16) & 1)) & 0xffff0000U);
}

}  // namespace

void describe_gpt2(const Config& config, Description& d) {
  gpt2_like(config, d);
  d.activation = read_activation(config, {"activation_function"}, "gelu_new");
  d.qkv = QkvLayout::blocks;
  d.k_major = true;
  if (!config.boolean({"scale_attn_by_inverse_layer_idx"}, false)) return;
  for (int64_t layer = 0; layer < d.layers; ++layer) {
    const double root = std::sqrt(static_cast<double>(d.head_dim));
    d.scales.push_back(static_cast<float>(1 / root / static_cast<double>(layer + 1)));
  }
}

void describe_gpt_bigcode(const Config& config, Description& d) {
  gpt2_like(config, d);
  d.activation = read_activation(config, {"activation_function"}, "gelu_pytorch_tanh");
  const bool shared = config.boolean({"multi_query"}, true);
  d.kv_heads = shared ? 1 : d.heads;
  d.qkv = QkvLayout::per_group;
}

void describe_gptj(const Config& config, Description& d) {
  gpt_layer_norms(config, d);
  d.names = gpt2_names();
  d.names.positions.clear();
  d.names.q = "attn.q_proj";
  d.names.k = "attn.k_proj";
  d.names.v = "attn.v_proj";
  d.names.o = "attn.out_proj";
  d.names.mlp_norm.clear();
  d.names.up = "mlp.fc_in";
  d.names.down = "mlp.fc_out";
  d.residual = Residual::parallel;
  d.activation = read_activation(config, {"activation_function"}, "gelu_new");
  d.biases = {.mlp = true, .head = true};
  d.rotation.rotary = config.size({"rotary_dim"}, 64);
  d.rotation.interleaved = true;
  if (d.rotation.rotary % 2 != 0 || d.rotation.rotary > d.head_dim) {
    config.refuse({"rotary_dim"}, "an even number up to " + std::to_string(d.head_dim));
  }
  d.rotation.inv_freq = plain_frequencies(10000, d.rotation.rotary);
}

void describe_gpt_neox(const Config& config, Description& d) {
  gpt_layer_norms(config, d);
  d.names = {.base = "gpt_neox.",
             .embedding = "gpt_neox.embed_in",
             .layers = "gpt_neox.layers.",
             .final_norm = "gpt_neox.final_layer_norm",
             .head = "embed_out",
             .attention_norm = "input_layernorm",
             .qkv = "attention.query_key_value",
             .o = "attention.dense",
             .mlp_norm = "post_attention_layernorm",
             .up = "mlp.dense_h_to_4h",
             .down = "mlp.dense_4h_to_h"};
  d.activation = read_activation(config, {"hidden_act"}, "gelu");
  d.qkv = QkvLayout::per_group;
  const bool parallel = config.boolean({"use_parallel_residual"}, true);
  d.residual = parallel ? Residual::parallel : Residual::serial;
  const bool bias = config.boolean({"attention_bias"}, true);
  d.biases = {.qkv = bias, .o = bias, .mlp = true};
  d.rotation = read_rotation(config, d.head_dim, 0.25);
}

void describe_opt(const Config& config, Description& d) {
  d.names = {.base = "model.",
             .embedding = "model.decoder.embed_tokens",
             .positions = "model.decoder.embed_positions",
             .layers = "model.decoder.layers.",
             .final_norm = "model.decoder.final_layer_norm",
             .head = "lm_head",
             .attention_norm = "self_attn_layer_norm",
             .q = "self_attn.q_proj",
             .k = "self_attn.k_proj",
             .v = "self_attn.v_proj",
             .o = "self_attn.out_proj",
             .mlp_norm = "final_layer_norm",
             .up = "fc1",
             .down = "fc2"};
  gpt_layer_norms(config, d);
  config.only("do_layer_norm_before", true);
  config.only("_remove_final_layer_norm", false);
  config.only("layer_norm_elementwise_affine", true);
  if (config.size({"word_embed_proj_dim"}, d.hidden) != d.hidden) {
    config.refuse({"word_embed_proj_dim"}, "the hidden size");
  }
  d.activation = read_activation(config, {"activation_function"}, "relu");
  const bool bias = config.boolean({"enable_bias"}, true);
  d.biases = {.qkv = bias, .o = bias, .mlp = bias};
  d.position_offset = 2;
  d.position_rows = config.size({"max_position_embeddings"}, 2048) + d.position_offset;
}

void describe_bloom(const Config& config, Description& d) {
  gpt_layer_norms(config, d);
  d.names = {.base = "transformer.",
             .embedding = "transformer.word_embeddings",
             .embedding_norm = "transformer.word_embeddings_layernorm",
             .layers = "transformer.h.",
             .final_norm = "transformer.ln_f",
             .head = "lm_head",
             .attention_norm = "input_layernorm",
             .qkv = "self_attention.query_key_value",
             .o = "self_attention.dense",
             .mlp_norm = "post_attention_layernorm",
             .up = "mlp.dense_h_to_4h",
             .down = "mlp.dense_4h_to_h"};
  config.only("apply_residual_connection_post_layernorm", false);
  d.activation = "gelu_tanh";
  d.mlp = 4 * d.hidden;
  d.qkv = QkvLayout::per_group;
  d.biases = {.qkv = true, .o = true, .mlp = true};
  d.slopes = alibi_slopes(d.heads);
}

void describe_falcon(const Config& config, Description& d) {
  gpt_layer_norms(config, d);
  d.names = {.base = "transformer.",
             .embedding = "transformer.word_embeddings",
             .layers = "transformer.h.",
             .final_norm = "transformer.ln_f",
             .head = "lm_head",
             .attention_norm = "input_layernorm",
             .qkv = "self_attention.query_key_value",
             .o = "self_attention.dense",
             .up = "mlp.dense_h_to_4h",
             .down = "mlp.dense_4h_to_h"};
  const bool newer = config.boolean({"new_decoder_architecture"}, false);
  const bool parallel = newer || config.boolean({"parallel_attn"}, true);
  if (newer) config.only("parallel_attn", true);
  if (newer && config.integer({"num_ln_in_parallel_attn"}, 2) == 2) {
    d.names.attention_norm = "ln_attn";
    d.names.mlp_norm = "ln_mlp";
  } else if (!parallel) {
    d.names.mlp_norm = "post_attention_layernorm";
  }
  d.residual = parallel ? Residual::parallel : Residual::serial;
  d.qkv = QkvLayout::per_group;
  const bool shared = config.boolean({"multi_query"}, true);
  d.kv_heads = newer ? config.size({"num_kv_heads", "n_head_kv"}, d.heads) : shared ? 1 : d.heads;
  const bool bias = config.boolean({"bias"}, false);
  d.biases = {.qkv = bias, .o = bias, .mlp = bias};
  d.activation = read_activation(config, {"activation"}, "gelu");
  if (!config.boolean({"alibi"}, false)) {
    d.rotation = read_rotation(config, d.head_dim);
    return;
  }
  // Added before the scores are scaled, and held in bfloat16.
  const auto root = static_cast<float>(std::sqrt(static_cast<double>(d.head_dim)));
  for (float slope : alibi_slopes(d.heads)) {
    d.slopes.push_back(rounded_to_bf16(slope) / root);
  }
}

void describe_mpt(const Config& config, Description& d) {
  d.names = {.base = "transformer.",
             .embedding = "transformer.wte",
             .layers = "transformer.blocks.",
             .final_norm = "transformer.norm_f",
             .head = "lm_head",
             .attention_norm = "norm_1",
             .qkv = "attn.Wqkv",
             .o = "attn.out_proj",
             .mlp_norm = "norm_2",
             .up = "ffn.up_proj",
             .down = "ffn.down_proj"};
  gpt_layer_norms(config, d);
  d.norm_bias = false;
  d.mlp = config.size({"expansion_ratio"}, 4) * d.hidden;
  d.activation = "gelu";
  d.qkv = QkvLayout::blocks;
  config.only("no_bias", true);
  config.only_absent("logit_scale");
  double bias_max = 8;
  if (const auto attention = config.object({"attn_config"})) {
    attention->only("alibi", true);
    attention->only("qk_ln", false);
    attention->only("prefix_lm", false);
    if (attention->text({"attn_type"}, "multihead_attention") != "multihead_attention") {
      attention->refuse({"attn_type"}, "multihead_attention");
    }
    bias_max = attention->number({"alibi_bias_max"}, bias_max);
    d.qkv_clip = static_cast<float>(attention->number({"clip_qkv"}, 0));
    if (attention->has({"softmax_scale"})) {
      d.scales = {static_cast<float>(attention->number({"softmax_scale"}))};
    }
  }
  d.slopes = mpt_slopes(d.heads, bias_max);
}

}  // namespace nibble::frontends::safetensors
