#include "quant/formats/dequantize.h"

#include <utility>
#include <vector>

namespace nibble::quant {

graph::TensorData dequantize(const runtime::PackedMatrix& matrix, bool k_major) {
  const int64_t n = matrix.view.n, k = matrix.view.k;
  std::vector<float> values(static_cast<size_t>(n * k));
  std::vector<float> column(static_cast<size_t>(k));
  for (int64_t c = 0; c < n; ++c) {
    if (!k_major) {
      jit::unpack_column(matrix.view, c, {values.data() + c * k, static_cast<size_t>(k)});
      continue;
    }
    jit::unpack_column(matrix.view, c, column);
    for (int64_t kk = 0; kk < k; ++kk) {
      values[static_cast<size_t>(kk * n + c)] = column[static_cast<size_t>(kk)];
    }
  }
  return graph::make_f32(k_major ? graph::Shape{k, n} : graph::Shape{n, k}, std::move(values));
}

}  // namespace nibble::quant
