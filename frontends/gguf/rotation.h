// How a GGUF says where tokens are: "rope.*" of its metadata, and the factors of each frequency
// that Llama 3 and Phi-3 keep as tensors.
#pragma once

#include <cstdint>

#include "frontends/decoder/checkpoint.h"
#include "frontends/decoder/positions.h"
#include "frontends/gguf/metadata.h"

namespace nibble::frontends::gguf {

// Positions that the model was made for before its rotation was stretched.
int64_t original_context(Metadata& meta);

// Scalings none, linear, yarn and longrope (exact up to the original context length). Throws Error
// for another one.
decoder::Rotation read_rotation(Metadata& meta, decoder::Checkpoint& checkpoint, int64_t head_dim);

}  // namespace nibble::frontends::gguf
