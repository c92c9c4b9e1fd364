// What a solver knows of the inputs x of a linear layer y = W x, W [n][k]: their Gram matrix, from
// which every squared output error follows exactly, and their mean magnitudes. Collecting them is
// calibration's business, not this file's.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quant/products/steps.h"
#include "runtime/thread_pool.h"

namespace nibble::quant {

struct InputStats {
  int64_t k = 0, rows = 0;      // rows: how many inputs were seen
  std::vector<float> gram;      // [k][k], sum of x x^T, both triangles
  std::vector<float> mean_abs;  // [k]
};

// Throws Error where sizes do not fit k, or a number of the diagonal is not finite or negative.
void check_stats(const InputStats& stats, int64_t k);

// The diagonal divided by its largest element: weights for squared errors that neither overflow nor
// vanish. Empty when the whole diagonal is 0.
std::vector<float> diagonal_weights(const InputStats& stats);

// sum |W' x - W x|^2 over the inputs seen, = tr(D G D^T) with D = W' - W.
struct OutputError {
  double sum = 0;       // in units of y^2
  double relative = 0;  // over sum |W x|^2; 0 when both are 0
};
// w and changed: [n][k]. Summed in double in the order of the rows.
OutputError output_error(std::span<const float> w, std::span<const float> changed, int64_t n,
                         int64_t k, std::span<const float> gram, runtime::ThreadPool& pool);

// sum |W x|^2 = tr(W G W^T), and the sum above alone: n k^2 FLOP each.
double output_square(std::span<const float> w, int64_t n, int64_t k, std::span<const float> gram,
                     runtime::ThreadPool& pool, const Steps& steps = {});
double output_error_sum(std::span<const float> w, std::span<const float> changed, int64_t n,
                        int64_t k, std::span<const float> gram, runtime::ThreadPool& pool,
                        const Steps& steps = {});

// The same for every row: out[r] = d_r G d_r^T, where d is [n][k]. G is symmetric, so that the
// triangle above its diagonal is enough, and half the work.
void row_errors(std::span<const float> d, int64_t n, int64_t k, std::span<const float> gram,
                runtime::ThreadPool& pool, std::span<double> out, const Steps& steps = {});
// The same by way of d G, which `product` [n][k] receives.
void row_errors_and_products(std::span<const float> d, int64_t n, int64_t k,
                             std::span<const float> gram, runtime::ThreadPool& pool,
                             std::span<double> out, std::span<float> product);

}  // namespace nibble::quant
