// The description (frontends/decoder/description.h) of the decoder in a GGUF file, from its
// metadata and from which tensors it has. Follows llama.cpp (src/llama-model.cpp) in what the keys
// of an architecture mean.
#pragma once

#include <string>
#include <vector>

#include "frontends/decoder/checkpoint.h"
#include "frontends/decoder/description.h"
#include "frontends/gguf/gguf_file.h"

namespace nibble::frontends::gguf {

// Takes the tensors of rotary factors from the checkpoint. Throws Error naming the key, what is
// expected and what was found: for an unknown architecture, and for every key of it that has no
// meaning here.
decoder::Description describe(const File& file, decoder::Checkpoint& checkpoint);
std::vector<std::string> described_architectures();

}  // namespace nibble::frontends::gguf
