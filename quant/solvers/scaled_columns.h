// A weight matrix times factors, computed when its columns are read: w[c][kk] * k_factors[kk] *
// column_factors[c]. Nothing of the matrix is copied, so that folding scales into a 7B model costs
// two short vectors a weight.
//
// Rounding: the two products are rounded to fp32 one after the other, so a weight is off by at most
// a factor (1 + 2^-24)^2, and one more for each time that a factor is itself a product. Powers of
// two are exact as long as no product leaves the normal numbers.
#pragma once

#include <span>
#include <string>
#include <string_view>
#include <vector>

#include "graph/matrix_source.h"

namespace nibble::quant {

class ScaledColumns : public graph::ColumnReader {
 public:
  // k_factors [source.k], column_factors [source.n].
  ScaledColumns(graph::MatrixSource source, std::vector<float> k_factors,
                std::vector<float> column_factors);
  void read_column(int64_t c, std::span<float> out) const override;
  void read_columns(int64_t begin, int64_t count, std::span<float> out) const override;
  // That of the numbers below, "mixed" where they differ.
  std::string_view type() const override { return type_; }
  void release() const noexcept override { source_.release(); }

  const graph::MatrixSource& source() const { return source_; }
  std::span<const float> k_factors() const { return k_factors_; }
  std::span<const float> column_factors() const { return column_factors_; }

 private:
  graph::MatrixSource source_;
  std::vector<float> k_factors_, column_factors_;
  std::string type_;
};

// The matrix times factors; an empty span stands for ones. A matrix that is scaled already has its
// factors multiplied instead of a second reader, and is the bare matrix again once they are all 1.
// Throws Error when the lengths do not fit or any column is quantized, whose scales would no longer
// hold it.
graph::MatrixSource scale_matrix(const graph::MatrixSource& source,
                                 std::span<const float> k_factors,
                                 std::span<const float> column_factors);

}  // namespace nibble::quant
