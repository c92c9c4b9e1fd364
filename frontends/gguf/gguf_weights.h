// The tensors of a GGUF file as a checkpoint that the decoder's builder takes from, each in the
// form in which the file has it: floats as they are mapped, Q4_0 and Q8_0 as quantized matrices
// whose numbers are packed unchanged, every other type as columns that are dequantized when they
// are read.
#pragma once

#include <memory>

#include "frontends/decoder/checkpoint.h"
#include "frontends/gguf/gguf_file.h"

namespace nibble::frontends::gguf {

// Throws Error naming the tensor that holds no weights (integers, f64) or is quantized without
// being a matrix.
decoder::Checkpoint read_weights(const File& file);

}  // namespace nibble::frontends::gguf
