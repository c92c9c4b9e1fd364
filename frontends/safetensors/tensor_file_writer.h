// Writes a .safetensors file (its layout: tensor_file.h): the header from all names, types and
// shapes, then tensor after tensor, each made when its turn comes, so that a model need not be in
// memory as a whole. All or nothing.
#pragma once

#include <functional>
#include <span>
#include <string>
#include <vector>

#include "graph/tensor.h"

namespace nibble::frontends::safetensors {

using ByteSink = std::function<void(std::span<const std::byte>)>;

struct WrittenTensor {
  std::string name;
  graph::DType dtype = graph::DType::f32;
  graph::Shape shape;
  std::function<void(const ByteSink&)> write;  // gives the sink just the bytes of that shape
};

// Throws Error naming the file and, where it did not give all its bytes, the tensor.
void write_tensor_file(const std::string& path, const std::vector<WrittenTensor>& tensors);

}  // namespace nibble::frontends::safetensors
