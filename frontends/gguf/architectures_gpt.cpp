// GPT-2 and its heirs, and those whose attention has ALiBi. Where llama.cpp has one GELU for both,
// its tanh form, the one here is what the model was trained with.
#include "frontends/gguf/architectures.h"

namespace nibble::frontends::gguf {
namespace {

constexpr double kBiasMax = 8;  // of ALiBi, where the file does not say it

void alibi(Reading& reading, Description& d, double fallback) {
  const double most = reading.meta.real("attention.max_alibi_bias", fallback);
  if (most < 0) {
    reading.meta.refuse("attention.max_alibi_bias", std::to_string(most), "a number from 0 on");
  }
  if (most > 0) d.slopes = decoder::mpt_slopes(d.heads, most);
}

}  // namespace

void parallel_behind_one_norm(Description& d) {
  d.residual = Residual::parallel;
  d.names.mlp_norm.clear();
}

void describe_gpt2(Reading&, Description& d) { d.names.positions = "position_embd"; }

void describe_phi2(Reading&, Description& d) { parallel_behind_one_norm(d); }

void describe_gptneox(Reading& reading, Description& d) {
  if (reading.meta.boolean("use_parallel_residual", true)) d.residual = Residual::parallel;
}

// Of two norms before the layer the second is the attention's.
void describe_falcon(Reading& reading, Description& d) {
  parallel_behind_one_norm(d);
  if (!reading.has("blk.0.attn_norm_2.weight")) return;
  d.names.attention_norm = "attn_norm_2";
  d.names.mlp_norm = "attn_norm";
}

void describe_bloom(Reading& reading, Description& d) {
  d.names.embedding_norm = "token_embd_norm";
  alibi(reading, d, kBiasMax);
}

void describe_mpt(Reading& reading, Description& d) {
  alibi(reading, d, 0);
  if (reading.has("position_embd.weight")) d.names.positions = "position_embd";
}

void describe_refact(Reading& reading, Description& d) { alibi(reading, d, kBiasMax); }

// Scores are divided by the head's size, not by its root.
void describe_jais(Reading& reading, Description& d) {
  alibi(reading, d, 0);
  d.scales = {static_cast<float>(1 / static_cast<double>(d.head_dim))};
}

// The 13B model, known by its layers, has ALiBi instead of rotation.
void describe_baichuan(Reading& reading, Description& d) {
  constexpr int64_t kLayersOf13b = 40;
  if (d.layers != kLayersOf13b) return;
  d.rotation = {};
  alibi(reading, d, kBiasMax);
}

// The length counts gate and up.
void describe_qwen(Reading& reading, Description& d) {
  if (d.mlp % 2 != 0) {
    reading.meta.refuse("feed_forward_length", std::to_string(d.mlp), "an even number");
  }
  d.mlp /= 2;
}

}  // namespace nibble::frontends::gguf
