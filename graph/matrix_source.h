// A weight matrix that is still where it was loaded from, seen as n output columns of k values.
// Merged matmuls (Q, K and V; gate and up) are several parts and a list of column segments, so that
// merging copies nothing: columns are read when they are quantized.
#pragma once

#include <cstdint>
#include <memory>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "graph/quantized_matrix.h"
#include "graph/tensor.h"

namespace nibble::graph {

// A matrix whose columns are computed when they are asked for. Frontends derive from it. Many
// threads may read at a time.
class ColumnReader {
 public:
  ColumnReader(int64_t n, int64_t k) : n_(n), k_(k) {}
  virtual ~ColumnReader() = default;
  int64_t n() const { return n_; }
  int64_t k() const { return k_; }
  virtual void read_column(int64_t c, std::span<float> out) const = 0;
  // Columns [begin, begin + count), one after another; for readers that several cost less together.
  virtual void read_columns(int64_t begin, int64_t count, std::span<float> out) const;
  // The packed format that holds the numbers of a file that are quantized already; none: floats.
  virtual std::optional<jit::WeightFormat> packed_format() const { return std::nullopt; }
  // Column c in that format, its scales and minimums not yet rounded to the type of the scales.
  // `out` has the sizes of a column of k.
  virtual void read_numbers(int64_t c, QuantizedColumn& out) const;
  virtual std::string_view type() const = 0;  // of the file's numbers, for messages
  virtual void release() const noexcept {}    // as MatrixSource::release

 private:
  int64_t n_, k_;
};

struct MatrixPart {
  TensorData tensor;    // 2-D float tensor
  bool k_major = true;  // true: [k][n] as MatMul has it; false: [n][k] (Gemm transB, embeddings)
  std::shared_ptr<const QuantizedMatrix> quantized = nullptr;  // then there is no tensor
  float factor = 1;                                            // what every weight is multiplied by
  std::shared_ptr<const ColumnReader> reader = nullptr;        // then there is nothing else
  bool is_tensor() const { return !quantized && !reader; }
  bool is_quantized() const { return quantized || (reader && reader->packed_format()); }
  int64_t n() const {
    return quantized ? quantized->n : reader ? reader->n() : tensor.shape[k_major ? 1 : 0];
  }
  int64_t k() const {
    return quantized ? quantized->k : reader ? reader->k() : tensor.shape[k_major ? 0 : 1];
  }
  // Whether two parts are the same numbers of the same file.
  bool same_as(const MatrixPart& other) const;
};

// Columns [begin, begin + count) of a part; part -1 is `count` columns of zeros (padding).
struct ColumnSegment {
  int part = 0;
  int64_t begin = 0, count = 0;
  friend bool operator==(const ColumnSegment&, const ColumnSegment&) = default;
};

// Columns as jit::pack_block takes them: q[c * kpad + kk], scale and zero or minimum [c * groups +
// g], of q8 scales the numbers above both [c * supers + s].
struct QuantizedColumns {
  std::span<uint8_t> q;
  std::span<float> scales;
  std::span<uint8_t> zeros;
  std::span<float> minimums, super_scales, super_minimums;
};

struct MatrixSource {
  int64_t n = 0, k = 0;
  std::vector<MatrixPart> parts;
  std::vector<ColumnSegment> segments;  // in output order; counts add up to n

  // The whole of one tensor.
  static MatrixSource whole(TensorData tensor, bool k_major);
  static MatrixSource whole(std::shared_ptr<const QuantizedMatrix> matrix);
  static MatrixSource whole(std::shared_ptr<const ColumnReader> reader);
  // out[c * k + kk] for columns [begin, begin + count).
  void read_columns(int64_t begin, int64_t count, std::span<float> out) const;
  // The same in the order [k][n], for reference matmuls.
  std::vector<float> to_k_major() const;

  // Lets go of the memory under what the columns are read from, where that is a mapped file; it is
  // read again when somebody asks. So streaming through a model takes no more than one weight.
  void release() const noexcept;

  // Whether any of the columns are quantized already.
  bool has_quantized() const;
  // The packed format that holds every number of the quantized columns as it is; nullopt, with the
  // reason when some column is quantized, when there is none.
  std::optional<jit::WeightFormat> packed_format(std::string& why_not) const;
  // Columns [begin, begin + count) in that format, or in it with scales of another type than q8.
  // Narrower numbers are moved to a wider format's zero point, zero points become minimums, longer
  // groups are repeated.
  void read_quantized(const jit::WeightFormat& format, int64_t begin, int64_t count,
                      const QuantizedColumns& out) const;
};

// Whether two matrices are the same columns of the same numbers of the same files.
bool same_source(const MatrixSource& a, const MatrixSource& b);

// Concatenation of whole sources (same k), and the selection of columns in any order.
MatrixSource concatenate(std::span<const MatrixSource> sources);
MatrixSource select_columns(const MatrixSource& source, std::span<const ColumnSegment> columns);

}  // namespace nibble::graph
