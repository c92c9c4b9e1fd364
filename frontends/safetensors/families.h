// The families, a function each, and what they share. Private to describe().
#pragma once

#include <functional>

#include "frontends/decoder/config.h"
#include "frontends/decoder/description.h"

namespace nibble::frontends::safetensors {

using namespace decoder;  // all that a family's function writes

struct Family {
  const char* model_type;
  bool tied;  // when the configuration says nothing of tie_word_embeddings
  void (*describe)(const Config&, Description&);
};

// Each gets a description that has model_type, sizes, activation and tie already.
void describe_llama(const Config& config, Description& d);
void describe_mistral(const Config& config, Description& d);
void describe_qwen2(const Config& config, Description& d);
void describe_qwen3(const Config& config, Description& d);
void describe_phi3(const Config& config, Description& d);
void describe_gemma(const Config& config, Description& d);
void describe_gemma2(const Config& config, Description& d);
void describe_starcoder2(const Config& config, Description& d);
void describe_phi(const Config& config, Description& d);
void describe_gptj(const Config& config, Description& d);
void describe_gpt_neox(const Config& config, Description& d);
void describe_gpt2(const Config& config, Description& d);
void describe_gpt_bigcode(const Config& config, Description& d);
void describe_opt(const Config& config, Description& d);
void describe_bloom(const Config& config, Description& d);
void describe_falcon(const Config& config, Description& d);
void describe_mpt(const Config& config, Description& d);

void describe_olmo(const Config& config, Description& d);
void describe_olmo2(const Config& config, Description& d);
void describe_olmo3(const Config& config, Description& d);
void describe_exaone4(const Config& config, Description& d);
void describe_glm(const Config& config, Description& d);
void describe_glm4(const Config& config, Description& d);
void describe_gemma3(const Config& config, Description& d);
void describe_hunyuan(const Config& config, Description& d);
void describe_stablelm(const Config& config, Description& d);
void describe_persimmon(const Config& config, Description& d);
void describe_granite(const Config& config, Description& d);
void describe_cohere(const Config& config, Description& d);
void describe_cohere2(const Config& config, Description& d);
void describe_smollm3(const Config& config, Description& d);
void describe_nemotron(const Config& config, Description& d);
void describe_arcee(const Config& config, Description& d);
void describe_helium(const Config& config, Description& d);
void describe_ernie4_5(const Config& config, Description& d);
void describe_seed_oss(const Config& config, Description& d);
void describe_ministral(const Config& config, Description& d);

// What the heirs of Llama share (families_llama.cpp).
Names llama_names();
// RMS norms, serial residuals, a gated MLP; and rotation of halves (`theta`: when nothing is said).
void llama_skeleton(const Config& config, Description& d);
void llama_like(const Config& config, Description& d, double theta = 10000);
void read_attention_bias(const Config& config, Description& d);
// A window on the layers that layer_types says, or that `windowed` says where it is absent.
void read_layer_windows(const Config& config, Description& d,
                        const std::function<bool(int64_t)>& windowed);
// All of Gemma but its activation and rotation.
void gemma_skeleton(const Config& config, Description& d);

// The jit's name of an activation function that transformers names; `names` are the keys.
std::string read_activation(const Config& config, Config::Names names, const std::string& fallback);

}  // namespace nibble::frontends::safetensors
