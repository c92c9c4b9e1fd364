// The tensors that a decoder is built from, by name, whatever file they are from: readers of
// formats put them in, the builder takes them out. It keeps count of what was taken: a tensor that
// nobody took means that the model is not what its description says. It opens no file. One
// that makes up what it is asked for (Maker) stands for a model that is described but not there.
#pragma once

#include <filesystem>
#include <functional>
#include <optional>
#include <string>
#include <unordered_map>
#include <utility>
#include <vector>

#include "graph/matrix_source.h"
#include "graph/tensor.h"

namespace nibble::frontends::decoder {

class Checkpoint {
 public:
  // An empty one. `path` names it in messages; documents are looked for in `folders`.
  explicit Checkpoint(std::string path, std::vector<std::filesystem::path> folders = {})
      : path_(std::move(path)), folders_(std::move(folders)) {}
  struct Maker {
    std::function<graph::MatrixSource(const std::string& name, int64_t n, int64_t k)> matrix;
    std::function<graph::TensorData(const std::string& name, const graph::Shape& shape)> tensor;
  };
  Checkpoint(std::string path, Maker maker) : path_(std::move(path)), maker_(std::move(maker)) {}
  // Of names that are new.
  void add(std::string name, graph::TensorData tensor);
  void add(std::string name, graph::MatrixSource matrix);  // one that is no tensor

  const std::string& path() const { return path_; }
  // Where config.json and the tokenizer's files are looked for.
  const std::vector<std::filesystem::path>& folders() const { return folders_; }

  bool has(const std::string& name) const { return maker_ || tensors_.count(name) != 0; }
  // Throws Error when there is none. The shape is only for what is made up.
  const graph::TensorData& take(const std::string& name, const graph::Shape& shape = {});
  // The same of a matrix that was added as one; null when there is none.
  const graph::MatrixSource* take_matrix(const std::string& name, int64_t n, int64_t k);
  // Names that were never taken, in alphabetic order.
  std::vector<std::string> untaken() const;

 private:
  struct Item {
    graph::TensorData tensor;
    std::optional<graph::MatrixSource> matrix = std::nullopt;
    bool taken = false;
  };

  std::string path_;
  std::optional<Maker> maker_;
  std::vector<std::filesystem::path> folders_;
  std::unordered_map<std::string, Item> tensors_;
};

}  // namespace nibble::frontends::decoder
