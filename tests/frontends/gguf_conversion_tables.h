// How llama.cpp's converter turns each family of transformers into an architecture, and what it
// calls the tensors.
#pragma once

#include <map>
#include <string>

namespace nibble::test {

struct GgufConversion {
  const char* architecture;
  bool turned = false;  // rows of Q and K: pairs (i, i + half) become neighbours
  bool norms_plus_1 = false;
  bool layer_norm = false;
  bool norms_behind = false;  // "post_attention_layernorm" means what it says
};

// By model_type.
const std::map<std::string, GgufConversion>& gguf_conversions();
// By the tensor's name, inside a layer without what stands before.
const std::map<std::string, std::string>& gguf_names();

}  // namespace nibble::test
