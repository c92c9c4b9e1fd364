// One .safetensors file, mapped: its header read and checked, its tensors left where they are. Not
// a checkpoint (checkpoint.h puts several files together) and without an opinion on names.
//
//   bytes [0, 8)        n: length of the header, little-endian
//   bytes [8, 8 + n)    JSON: {"name": {"dtype": "F32", "shape": [2, 3], "data_offsets": [0, 24]},
//   ...}
//                       and an optional "__metadata__": {"key": "text"}; padded with spaces
//   bytes [8 + n, end)  data; offsets count from its beginning
//
// The format: https://github.com/huggingface/safetensors. Nothing in the file is trusted: tensors
// must cover the data without holes and without overlap, as the format says.
#pragma once

#include <string>
#include <vector>

#include "graph/tensor.h"

namespace nibble::frontends::safetensors {

struct NamedTensor {
  std::string name;
  graph::TensorData tensor;
};

struct TensorFile {
  std::string path;
  std::vector<NamedTensor> tensors;  // in the order of their names
};

// Throws Error naming the file, the tensor, what was expected and what was found.
TensorFile read_tensor_file(const std::string& path);

}  // namespace nibble::frontends::safetensors
