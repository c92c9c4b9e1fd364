// A packed matrix as a plain fp32 tensor, for tests and tools: (q - zero) * scale, rounded once.
#pragma once

#include "graph/tensor.h"
#include "runtime/packed_matrix.h"

namespace nibble::quant {

// [k][n] when k_major (as MatMul has it), otherwise [n][k].
graph::TensorData dequantize(const runtime::PackedMatrix& matrix, bool k_major);

}  // namespace nibble::quant
