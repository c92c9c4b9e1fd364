// What an architecture has that no other one has: a function each, beside the rows of
// gguf_description.cpp, and what these functions share. Private to describe().
#pragma once

#include <cstdint>
#include <string>

#include "frontends/decoder/checkpoint.h"
#include "frontends/decoder/description.h"
#include "frontends/gguf/gguf_file.h"
#include "frontends/gguf/metadata.h"

namespace nibble::frontends::gguf {

using decoder::Description;
using decoder::QkNorm;
using decoder::Residual;

struct Reading {
  const File& file;
  Metadata& meta;
  decoder::Checkpoint& checkpoint;

  bool has(const std::string& tensor) const { return file.find(tensor) != nullptr; }
};

// Each gets a description that has sizes, norms, MLP, biases, rotation and windows already.
using Describe = void (*)(Reading&, Description&);

// Of architectures_norms.cpp: norms elsewhere than before attention and MLP.
void describe_gemma(Reading& reading, Description& d);
void describe_gemma2(Reading& reading, Description& d);
void describe_gemma3(Reading& reading, Description& d);
void describe_qwen3(Reading& reading, Description& d);
void describe_olmo2(Reading& reading, Description& d);
void describe_exaone4(Reading& reading, Description& d);
void describe_glm4(Reading& reading, Description& d);
void describe_seed_oss(Reading& reading, Description& d);
void describe_hunyuan(Reading& reading, Description& d);
void describe_stablelm(Reading& reading, Description& d);

// Of architectures_factors.cpp: parallel residuals, factors, layers that do not rotate.
void describe_olmo(Reading& reading, Description& d);
void describe_command_r(Reading& reading, Description& d);
void describe_cohere2(Reading& reading, Description& d);
void describe_granite(Reading& reading, Description& d);
void describe_minicpm(Reading& reading, Description& d);
void describe_smollm3(Reading& reading, Description& d);
void describe_mistral3(Reading& reading, Description& d);
void describe_qwen2vl(Reading& reading, Description& d);
void describe_qwen3vl(Reading& reading, Description& d);

// Of architectures_gpt.cpp: GPT-2 and its heirs, ALiBi.
void describe_gpt2(Reading& reading, Description& d);
void describe_phi2(Reading& reading, Description& d);
void describe_gptneox(Reading& reading, Description& d);
void describe_falcon(Reading& reading, Description& d);
void describe_bloom(Reading& reading, Description& d);
void describe_mpt(Reading& reading, Description& d);
void describe_refact(Reading& reading, Description& d);
void describe_jais(Reading& reading, Description& d);
void describe_baichuan(Reading& reading, Description& d);
void describe_qwen(Reading& reading, Description& d);

// Layers without a window do not rotate, in a model that has windows.
void unrotated_beyond_windows(Description& d);
void norms_of_q_and_k(Description& d, QkNorm kind);
// The MLP reads what attention reads, of one norm.
void parallel_behind_one_norm(Description& d);

}  // namespace nibble::frontends::gguf
