// GPTQ (Frantar et al., 2023): a matrix is rounded channel by channel of k, and after each the
// channels that are not rounded yet take over its error, as far as the inputs' Gram matrix lets
// them:  e = (w_i - rounded w_i) / U_ii,  w_j -= e U_ij for j > i.  Rows (output columns) do not
// know of each other, so the result does not depend on the threads. Nothing here decides which
// layers are solved in which order or with whose inputs.
#pragma once

#include <cstdint>
#include <span>

#include "jit/packed_layout.h"
#include "quant/products/steps.h"
#include "quant/solvers/gptq_factor.h"
#include "quant/solvers/range_search.h"
#include "quant/solvers/solved_matrix.h"
#include "runtime/thread_pool.h"

namespace nibble::quant {

struct GptqOptions {
  ChannelOrder order = ChannelOrder::natural;
  // Grids from the original weights, before anything is rounded. Otherwise from the weights as they
  // are, errors taken over included, when the first channel of the group is rounded. Needed for
  // ChannelOrder::full.
  bool static_groups = false;
  // A search weighs errors by what they cost: 1 / U_ii^2, or for static groups the diagonal.
  RangeOptions range = {};
  double damping = 0.01;  // of the mean of the diagonal
  // The weights of channels that were 0 in all inputs become 0, as in the paper; otherwise they are
  // rounded to nearest, for inputs that calibration did not see.
  bool zero_dead = true;
  Steps steps = {};
};

struct GptqResult {
  SolvedMatrix matrix;
  double damping = 0;  // these as in GptqFactor
  int retries = 0;
  bool floored = false;
  int64_t dead = 0;  // channels
};

// w: [n][k]. Throws Error naming the column and k of a weight that is not finite, for statistics
// that do not fit, and for ChannelOrder::full without static groups.
GptqResult solve_gptq(std::span<const float> w, int64_t n, int64_t k,
                      const jit::WeightFormat& format, const GptqOptions& options,
                      const InputStats& stats, runtime::ThreadPool& pool);

}  // namespace nibble::quant
