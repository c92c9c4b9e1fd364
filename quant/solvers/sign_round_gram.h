// SignRound of one linear layer from the Gram matrices of its inputs: the whole calibration set at
// every step and no inputs kept. What tuning a whole block can trade between its layers is out of
// reach here.
//
// Minimises sum |W' x - W x0|^2, x the inputs that the layer will get and x0 those that it had
// before anything was quantized. dL/dW' = 2 (W' XX - W X0X), with XX = sum x x^T and X0X = sum
// x0 x^T.
#pragma once

#include <cstdint>
#include <span>

#include "jit/packed_layout.h"
#include "quant/products/steps.h"
#include "quant/solvers/input_stats.h"
#include "quant/solvers/sign_round.h"
#include "quant/solvers/solved_matrix.h"
#include "runtime/thread_pool.h"

namespace nibble::quant {

struct SignRoundOptions {
  int iterations = 200;
  float rate = 0;     // of the first step, falling linearly to 0; 0 stands for 1 / iterations
  bool range = true;  // alpha and beta too
  Steps steps = {};
};

struct SignRoundResult {
  SolvedMatrix matrix;
  double start = 0, best = 0;  // the loss, less its share that no W' changes when x0x is given
};

// w: [n][k]; x0x: [k][k], or empty where x0 = x. Of every row the best of all iterations is kept,
// the first (RtnRange::full in 4 bits) included. Costs 2 n k^2 FLOP an iteration. Throws Error for
// weights or statistics that are not finite or do not fit.
SignRoundResult solve_sign_round(std::span<const float> w, int64_t n, int64_t k,
                                 const jit::WeightFormat& format, const SignRoundOptions& options,
                                 const InputStats& stats, std::span<const float> x0x,
                                 runtime::ThreadPool& pool);

}  // namespace nibble::quant
