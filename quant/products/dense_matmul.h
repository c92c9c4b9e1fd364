// Products of dense fp32 matrices for calibration: what a BLAS would do, on the kernels that run
// the models. Every element is summed in ascending k by fused multiply-adds, 512 at a time from
// zero, and the sums of 512 added up in order: the same bits on any number of threads and every
// instruction set.
#pragma once

#include <cstdint>

#include "quant/products/steps.h"
#include "runtime/thread_pool.h"

namespace nibble::quant {

// Row-major: element (r, c) is data[r * stride + c].
struct ConstMatrix {
  const float* data = nullptr;
  int64_t rows = 0, columns = 0, stride = 0;
};
struct Matrix {
  float* data = nullptr;
  int64_t rows = 0, columns = 0, stride = 0;
  operator ConstMatrix() const { return {data, rows, columns, stride}; }  // NOLINT: a view of it
};

// c = op(a) op(b), or c += with `accumulate`; op transposes where its flag says so. c must not
// overlap a or b. Throws Error when the shapes do not fit.
void matmul(runtime::ThreadPool& pool, ConstMatrix a, bool transpose_a, ConstMatrix b,
            bool transpose_b, Matrix c, bool accumulate);

// c = x^T x (or c +=), both triangles, in half the time: c must be symmetric before.
void gram(runtime::ThreadPool& pool, ConstMatrix x, Matrix c, bool accumulate,
          const Steps& steps = {});

}  // namespace nibble::quant
