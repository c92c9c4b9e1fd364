// The tensors of a GGUF file as a checkpoint that the decoder's builder takes from, each in the
// form in which the file has it: floats as they are mapped, quantized types as columns whose
// numbers are read when they are packed.
#pragma once

#include <memory>

#include "frontends/decoder/checkpoint.h"
#include "frontends/gguf/gguf_file.h"

namespace nibble::frontends::gguf {

// Throws Error naming the tensor that holds no weights (integers, f64) or is quantized without
// being a matrix.
decoder::Checkpoint read_weights(const File& file);

}  // namespace nibble::frontends::gguf
