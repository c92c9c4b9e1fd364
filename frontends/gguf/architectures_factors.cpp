// Heirs of Llama with the same skeleton: parallel residuals, factors, layers that do not rotate.
#include <cmath>

#include "frontends/gguf/architectures.h"
#include "frontends/gguf/rotation.h"

namespace nibble::frontends::gguf {
namespace {

// What logits are divided by in some architectures, and multiplied by in others.
float read_logit_divisor(Metadata& meta, double fallback) {
  const double divisor = meta.real("logit_scale", fallback);
  if (!(divisor > 0)) meta.refuse("logit_scale", std::to_string(divisor), "a number above 0");
  return static_cast<float>(1 / divisor);
}

void cohere_like(Reading& reading, Description& d) {
  parallel_behind_one_norm(d);
  const auto scale = static_cast<float>(reading.meta.real("logit_scale"));
  if (scale != 0) d.logit_scale = scale;
}

// Positions of text alone are the same in all sections of the dimensions.
void text_of_images(Reading& reading) { reading.meta.pass("rope.dimension_sections"); }

}  // namespace

void unrotated_beyond_windows(Description& d) {
  if (d.windows.size() <= 1) return;  // all layers alike
  for (const int64_t window : d.windows) d.unrotated.push_back(window == 0);
}

// LayerNorms without factors and biases.
void describe_olmo(Reading&, Description& d) { d.norm_weight = d.norm_bias = false; }

// Command-R+ normalises Q and K.
void describe_command_r(Reading& reading, Description& d) {
  cohere_like(reading, d);
  if (reading.has("blk.0.attn_q_norm.weight")) norms_of_q_and_k(d, QkNorm::layer_stacked);
}

void describe_cohere2(Reading& reading, Description& d) {
  cohere_like(reading, d);
  unrotated_beyond_windows(d);
}

// "finetuned" stands for rotation here. Files of Granite 4's dense models have keys of the Mamba
// layers that its other ones have.
void describe_granite(Reading& reading, Description& d) {
  reading.meta.pass_group("ssm.");
  d.logit_scale = read_logit_divisor(reading.meta, 1);
  if (!reading.meta.boolean("rope.scaling.finetuned", true)) d.rotation = {};
}

void describe_minicpm(Reading& reading, Description& d) {
  constexpr double kEmbedding = 12, kDepth = 1.4, kWidth = 256;
  Metadata& meta = reading.meta;
  if (!meta.has("embedding_scale")) d.embedding_scale = kEmbedding;
  if (!meta.has("residual_scale")) {
    d.residual_scale = static_cast<float>(kDepth / std::sqrt(static_cast<double>(d.layers)));
  }
  d.logit_scale = read_logit_divisor(meta, static_cast<double>(d.hidden) / kWidth);
}

void describe_smollm3(Reading&, Description& d) {
  constexpr int64_t kPeriod = 4;
  for (int64_t layer = 0; layer < d.layers; ++layer) {
    d.unrotated.push_back((layer + 1) % kPeriod == 0);
  }
}

// Queries grow with their position from the original length on, which is where the context ends.
void describe_mistral3(Reading& reading, Description& d) {
  if (reading.meta.real("attention.temperature_scale", 0) == 0) return;
  d.rotation.most_positions = original_context(reading.meta);
}

void describe_qwen2vl(Reading& reading, Description&) { text_of_images(reading); }

// Deep layers of the image encoder are added to those of images alone.
void describe_qwen3vl(Reading& reading, Description& d) {
  describe_qwen3(reading, d);
  text_of_images(reading);
  reading.meta.pass("n_deepstack_layers");
}

}  // namespace nibble::frontends::gguf
