// The families, a function each, and what they share. Private to describe().
#pragma once

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

// The jit's name of an activation function that transformers names; `names` are the keys.
std::string read_activation(const Config& config, Config::Names names, const std::string& fallback);

}  // namespace nibble::frontends::safetensors
