#include "frontends/decoder/checkpoint.h"

#include <algorithm>

#include "jit/error.h"

namespace nibble::frontends::decoder {

void Checkpoint::add(std::string name, graph::TensorData tensor) {
  tensors_.emplace(std::move(name), Item{.tensor = std::move(tensor)});
}

void Checkpoint::add(std::string name, graph::MatrixSource matrix) {
  tensors_.emplace(std::move(name), Item{.tensor = {}, .matrix = std::move(matrix)});
}

const graph::MatrixSource* Checkpoint::take_matrix(const std::string& name, int64_t n, int64_t k) {
  if (maker_ && tensors_.count(name) == 0) add(name, maker_->matrix(name, n, k));
  const auto found = tensors_.find(name);
  if (found == tensors_.end() || !found->second.matrix) return nullptr;
  found->second.taken = true;
  return &*found->second.matrix;
}

const graph::TensorData& Checkpoint::take(const std::string& name, const graph::Shape& shape) {
  if (maker_ && tensors_.count(name) == 0) add(name, maker_->tensor(name, shape));
  const auto found = tensors_.find(name);
  if (found == tensors_.end()) fail("{}: there is no tensor '{}'.", path_, name);
  if (found->second.matrix) {
    fail("{}: the tensor '{}' is quantized, but f32, f16 or bf16 is expected.", path_, name);
  }
  found->second.taken = true;
  return found->second.tensor;
}

std::vector<std::string> Checkpoint::untaken() const {
  std::vector<std::string> names;
  for (const auto& [name, item] : tensors_) {
    if (!item.taken) names.push_back(name);
  }
  std::sort(names.begin(), names.end());
  return names;
}

}  // namespace nibble::frontends::decoder
