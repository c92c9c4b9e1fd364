// A family of safetensors_families.json as the GGUF that llama.cpp's converter makes of it: keys,
// names, and tensors as they are ordered there.
#pragma once

#include <string>

#include "tests/frontends/family_models.h"
#include "tests/support/gguf_builder.h"

namespace nibble::test {

// Empty for a family that GGUF has no architecture for.
std::string gguf_architecture(const std::string& model_type);
// The rows of Q and K change places, so that sums over a head are of another order.
bool gguf_turns_heads(const std::string& model_type);

struct GgufOptions {
  std::string architecture = {};  // as which the model is written; empty: its own
  bool one_matrix = false;        // of Q, K and V
  bool turn_heads = true;         // where the architecture does
  bool double_mlp = false;        // feed_forward_length counts gate and up
  nlohmann::json more = {};       // keys of the architecture, beside or instead of its own
};
std::string convert_to_gguf(const FamilyModel& model, const GgufOptions& options = {});

// Lists are of booleans.
void write_gguf_key(GgufBuilder& out, const std::string& key, const nlohmann::json& value);

}  // namespace nibble::test
