// The tensors of a Hugging Face folder, from one file or from the shards that an index names.
#pragma once

#include <string>

#include "frontends/decoder/checkpoint.h"

namespace nibble::frontends::safetensors {

// `path`: a folder (model.safetensors, else the shards of model.safetensors.index.json, else its
// one .safetensors file), or a .safetensors file. The checkpoint's path is that of the file or of
// the index; its folders are where config.json and the tokenizer's files are looked for. Throws
// Error naming file and tensor.
decoder::Checkpoint open_checkpoint(const std::string& path);

}  // namespace nibble::frontends::safetensors
