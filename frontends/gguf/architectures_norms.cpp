// Heirs of Llama that normalise elsewhere: behind attention and MLP, or Q and K.
#include <cmath>

#include "frontends/gguf/architectures.h"

namespace nibble::frontends::gguf {
namespace {

void norms_behind(Description& d) {
  d.names.after_attention = "post_attention_norm";
  d.names.after_mlp = "post_ffw_norm";
}

void norms_only_behind(Description& d) {
  norms_behind(d);
  d.names.attention_norm.clear();
  d.names.mlp_norm.clear();
}

// The scale, which no key says as a rule, is that of the head but in the largest model of the
// series, known by its layers.
void scale_by_layers(Metadata& meta, Description& d, int64_t layers_of_27b) {
  if (meta.has("attention.scale")) return;
  const int64_t width = d.layers == layers_of_27b ? d.hidden / d.heads : d.head_dim;
  d.scales = {static_cast<float>(1 / std::sqrt(static_cast<double>(width)))};
}

// Layers with a window rotate by this base, unscaled.
void near_base(Description& d, Metadata& meta, const char* key) {
  const double theta = meta.real(key, 10000);
  if (!(theta > 1)) meta.refuse(key, std::to_string(theta), "a base above 1");
  if (d.windows.empty()) return;
  d.near_rotation.rotary = d.rotation.rotary;
  d.near_rotation.inv_freq = decoder::plain_frequencies(theta, d.rotation.rotary);
}

}  // namespace

void norms_of_q_and_k(Description& d, QkNorm kind) {
  d.qk_norm = kind;
  d.names.q_norm = "attn_q_norm";
  d.names.k_norm = "attn_k_norm";
}

void describe_qwen3(Reading&, Description& d) { norms_of_q_and_k(d, QkNorm::rms_heads); }

// The file's norm weights have 1 added already.
void describe_gemma(Reading&, Description& d) {
  d.embedding_scale = static_cast<float>(std::sqrt(static_cast<double>(d.hidden)));
}

void describe_gemma2(Reading& reading, Description& d) {
  constexpr int64_t kLayersOf27b = 46;
  describe_gemma(reading, d);
  scale_by_layers(reading.meta, d, kLayersOf27b);
  norms_behind(d);
  d.score_cap = static_cast<float>(reading.meta.real("attn_logit_softcapping", 50));
  d.logit_cap = static_cast<float>(reading.meta.real("final_logit_softcapping", 30));
}

void describe_gemma3(Reading& reading, Description& d) {
  constexpr int64_t kLayersOf27b = 62;
  describe_gemma(reading, d);
  scale_by_layers(reading.meta, d, kLayersOf27b);
  norms_behind(d);
  norms_of_q_and_k(d, QkNorm::rms_heads);
  near_base(d, reading.meta, "rope.freq_base_swa");
}

// OLMo 2, and OLMo 3, which has windows.
void describe_olmo2(Reading& reading, Description& d) {
  norms_only_behind(d);
  norms_of_q_and_k(d, QkNorm::rms_whole);
  near_base(d, reading.meta, "rope.freq_base");
}

void describe_exaone4(Reading&, Description& d) {
  norms_only_behind(d);
  norms_of_q_and_k(d, QkNorm::rms_heads);
  unrotated_beyond_windows(d);
}

void describe_glm4(Reading&, Description& d) { norms_behind(d); }

// What is named for behind the attention stands before the MLP.
void describe_seed_oss(Reading&, Description& d) { d.names.mlp_norm = "post_attention_norm"; }

// And Maincoder. Hunyuan's stretched base of long contexts is in rope.freq_base already.
void describe_hunyuan(Reading&, Description& d) { norms_of_q_and_k(d, QkNorm::rms_heads_last); }

// StableLM 2 12B has no norm before the MLP, which then is beside the attention; the key is true in
// files of others too.
void describe_stablelm(Reading& reading, Description& d) {
  reading.meta.pass("use_parallel_residual");
  if (!reading.has("blk.0.ffn_norm.weight")) parallel_behind_one_norm(d);
  if (reading.has("blk.0.attn_q_norm.weight")) norms_of_q_and_k(d, QkNorm::layer_stacked);
}

}  // namespace nibble::frontends::gguf
