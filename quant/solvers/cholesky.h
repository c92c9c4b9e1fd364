// Triangular factors of symmetric positive definite matrices for GPTQ: blocked, in fp32 with the
// blocks of the diagonal in double, everything else products on the model's kernels. Every function
// gives the same bits on any number of threads. What to do about a matrix that is not positive
// definite is the caller's decision: it is told the pivot, and never gets NaN.
#pragma once

#include <cstdint>
#include <optional>

#include "quant/products/dense_matmul.h"
#include "quant/products/steps.h"
#include "runtime/thread_pool.h"

namespace nibble::quant {

// Where a factorisation stopped: what was left of the diagonal element `index` after the columns
// before it is `value`, not above its own rounding error. Then the matrix is not positive definite
// as far as fp32 can tell.
struct BadPivot {
  int64_t index = 0;
  double value = 0;
};

// a = L L^T; L replaces the lower triangle of a (only that is read), zeros the upper one. On
// failure the contents of a are undefined.
std::optional<BadPivot> cholesky(runtime::ThreadPool& pool, Matrix a, const Steps& steps = {});

// L^-1 replaces the lower triangular matrix L, whose diagonal must not hold zeros; what lies above
// the diagonal must be zeros.
void invert_lower(runtime::ThreadPool& pool, Matrix l, const Steps& steps = {});

// The upper triangular U with U^T U = h^-1 replaces h, which must be contiguous (stride = columns),
// symmetric, both triangles filled. From one factorisation of h with rows and columns reversed:
// h = R R^T, R upper, U = R^-1. The pivot of a failure is numbered as in h.
std::optional<BadPivot> upper_factor_of_inverse(runtime::ThreadPool& pool, Matrix h,
                                                const Steps& steps = {});

}  // namespace nibble::quant
