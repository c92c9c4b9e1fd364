// The rounding model of SignRound (Cheng et al., 2023): a matrix that is rounded to a grid by
// parameters that can be tuned, and the gradients of any loss with respect to them. For those who
// tune whole blocks by back-propagation, and for sign_round_gram.h, which needs no inputs but their
// Gram matrix. Knows no loss and no schedule.
//
//   symmetric   s = |low| alpha / 8 if |low| alpha >= high beta, else -high beta / 8;  z = 8
//   asymmetric  s = (high beta - low alpha) / 15;  z = rn(-low alpha / s)
//   both        W' = s clamp(rn(W / s + V), -z, 15 - z)
//
// with low <= 0 <= high the extremes of a group's weights; 128 and 255 take the places of 8 and 15
// in 8 bits. s is rounded to its stored precision, so W' is exactly what the kernels will see. At
// the start (V = 0, alpha = beta = 1) W' is that of RtnRange::full in 4 bits.
//
// Gradients are straight-through: d rn(x) / dx = 1 for the rounding of weights, zero points and
// stored scales. Where the clamp acts, w' = s (q - z) with q fixed.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "jit/packed_layout.h"
#include "quant/solvers/solved_matrix.h"
#include "runtime/thread_pool.h"

namespace nibble::quant {

struct SignRoundParams {
  jit::WeightFormat format;
  int64_t n = 0, k = 0;
  std::vector<float> v;            // [n][k]
  std::vector<float> alpha, beta;  // [n][groups], in [kSmallestShare, 1]
  std::vector<float> low, high;    // [n][groups], not tuned
};

// alpha and beta end here instead of at 0, where a scale would vanish.
inline constexpr float kSmallestShare = 1.0F / 256;

struct SignRoundGradients {
  std::vector<float> v, alpha, beta;  // as in SignRoundParams
};

// At the start. w: [n][k]. Throws Error naming the column and k of a weight that is not finite.
SignRoundParams make_sign_round(std::span<const float> w, int64_t n, int64_t k,
                                const jit::WeightFormat& format, runtime::ThreadPool& pool);
SignRoundGradients make_gradients(const SignRoundParams& params);

// rounded = W'. Throws Error when a scale is too large for its type; so does the next but one.
void sign_round_forward(std::span<const float> w, const SignRoundParams& params,
                        std::span<float> rounded, runtime::ThreadPool& pool);

// d_rounded = dL/dW' [n][k] gives dL/dV, dL/dalpha, dL/dbeta. d_rounded may be gradients.v itself.
// All gradients of an all-zero group are 0.
void sign_round_backward(std::span<const float> w, const SignRoundParams& params,
                         std::span<const float> d_rounded, SignRoundGradients& gradients,
                         runtime::ThreadPool& pool);

// p -= rate * sign(gradient) for every parameter, alpha and beta within their bounds. Without
// `range` only V moves.
void sign_round_step(SignRoundParams& params, const SignRoundGradients& gradients, float rate,
                     bool range, runtime::ThreadPool& pool);

// Row `row` as quantized values; `to_row` is where it goes in `solved`, of the same format and k.
void sign_round_store(std::span<const float> w, const SignRoundParams& params, int64_t row,
                      SolvedMatrix& solved, int64_t to_row);
SolvedMatrix sign_round_matrix(std::span<const float> w, const SignRoundParams& params,
                               runtime::ThreadPool& pool);

}  // namespace nibble::quant
