// A checkpoint in which every number says where it belongs: built into a graph and fused like a
// real one, it shows which columns of a merged matrix and which elements of a merged vector are
// which of the checkpoint's, whatever the family's layout. For exports.
#pragma once

#include <map>
#include <memory>
#include <string>
#include <vector>

#include "frontends/decoder/checkpoint.h"

namespace nibble::frontends::decoder {

// Stands for the matrix of a name; nothing can be read of it.
class NamedMatrix : public graph::ColumnReader {
 public:
  NamedMatrix(std::string name, int64_t n, int64_t k)
      : ColumnReader(n, k), name_(std::move(name)) {}
  void read_column(int64_t c, std::span<float> out) const override;
  std::string_view type() const override { return "named"; }
  const std::string& name() const { return name_; }

 private:
  std::string name_;
};

// An element of a vector of the checkpoint.
struct VectorElement {
  const std::string* name = nullptr;
  int64_t index = 0;
};

class NumberedCheckpoint {
 public:
  explicit NumberedCheckpoint(std::string path);

  Checkpoint& checkpoint() { return checkpoint_; }
  // The element that a number of a vector stands for; no name where it is 0: padding.
  VectorElement element(float number) const;
  // The length of each vector that was asked for.
  const std::map<std::string, int64_t>& vectors() const { return lengths_; }
  // The name of a table (a tensor of two dimensions that is no weight), by its data; empty when it
  // is none.
  std::string table_name(const graph::TensorData& tensor) const;

 private:
  graph::TensorData make(const std::string& name, const graph::Shape& shape);

  std::map<int64_t, std::string> first_;  // names of vectors by the number of their first element
  std::map<std::string, int64_t> lengths_;
  std::map<const std::byte*, std::string> tables_;
  int64_t next_ = 1;
  Checkpoint checkpoint_;
};

}  // namespace nibble::frontends::decoder
