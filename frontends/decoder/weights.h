// The tensors of a checkpoint as the graph wants them: names put together, shapes and types
// checked, heads of fused projections sorted into Q, K and V, gate and up side by side. Matrices
// are views of the mapped file. Private to the builder.
#pragma once

#include <string>
#include <vector>

#include "frontends/decoder/checkpoint.h"
#include "frontends/decoder/description.h"
#include "graph/matrix_source.h"

namespace nibble::frontends::decoder {

inline constexpr int64_t kOutside = -1;  // of the layers

struct Projection {
  graph::MatrixSource weight;
  std::vector<float> bias;  // [n], or empty
};

class Weights {
 public:
  Weights(const Description& description, Checkpoint& checkpoint);

  // A whole matrix outside the layers, [n][k].
  graph::MatrixSource matrix(const std::string& name, int64_t n, int64_t k);
  // The same as fp32 values, for tables that are added.
  graph::TensorData table(const std::string& name, int64_t rows, int64_t width);
  std::vector<float> vector(int64_t layer, const std::string& name, const char* suffix,
                            int64_t count);
  // The same of a tensor [rows][width] in a layer, row after row.
  std::vector<float> rows(int64_t layer, const std::string& name, const char* suffix, int64_t rows,
                          int64_t width);

  // [Q heads | K heads | V heads], [hidden], [gate and up by blocks of 16 columns] or [mlp], and
  // [hidden] columns.
  Projection qkv(int64_t layer);
  Projection o(int64_t layer);
  Projection up(int64_t layer);
  Projection down(int64_t layer);

  // Throws Error naming a tensor that nothing asked for: a model with parts that its description
  // knows nothing of would give wrong answers.
  void refuse_untaken() const;

 private:
  std::string full_name(int64_t layer, const std::string& name, const char* suffix) const;
  // The matrix [n][k] or, k_major, [k][n], in whatever form the checkpoint has it.
  graph::MatrixSource source(const std::string& full, int64_t n, int64_t k, bool k_major);
  const graph::TensorData& tensor(const std::string& full, const graph::Shape& shape);
  // Quantizers give every matmul a bias, of zeros where the model has none.
  void pass_over_zeros(const std::string& full);
  Projection projection(int64_t layer, const std::string& name, int64_t n, int64_t k, bool bias);

  const Description& d_;
  Checkpoint& checkpoint_;
  bool without_base_ = false;
};

}  // namespace nibble::frontends::decoder
