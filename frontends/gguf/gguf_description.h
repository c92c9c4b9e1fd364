// The description (frontends/safetensors/description.h) of the decoder in a GGUF file, from its
// metadata and from which tensors it has. Follows llama.cpp (src/llama-model.cpp) in what the keys
// of an architecture mean.
#pragma once

#include <string>
#include <vector>

#include "frontends/gguf/gguf_file.h"
#include "frontends/safetensors/checkpoint.h"
#include "frontends/safetensors/description.h"

namespace nibble::frontends::gguf {

// Takes the tensors of rotary factors from the checkpoint. Throws Error naming the key, what is
// expected and what was found: for an unknown architecture, and for every key of it that has no
// meaning here.
safetensors::Description describe(const File& file, safetensors::Checkpoint& checkpoint);
std::vector<std::string> described_architectures();

}  // namespace nibble::frontends::gguf
