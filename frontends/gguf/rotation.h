// How a GGUF says where tokens are: "rope.*" of its metadata, and the factors of each frequency
// that Llama 3 and Phi-3 keep as tensors.
#pragma once

#include <cstdint>

#include "frontends/gguf/metadata.h"
#include "frontends/safetensors/checkpoint.h"
#include "frontends/safetensors/positions.h"

namespace nibble::frontends::gguf {

// Scalings none, linear, yarn and longrope (exact up to the original context length). Throws Error
// for another one.
safetensors::Rotation read_rotation(Metadata& meta, safetensors::Checkpoint& checkpoint,
                                    int64_t head_dim);

}  // namespace nibble::frontends::gguf
