// Choosing the grid of a group by search instead of by its extremes, and round-to-nearest of a
// whole matrix by any of these rules. Every group is on its own: what the rounding of one weight
// can make good for another's is the business of gptq.h and sign_round.h.
#pragma once

#include <cstdint>
#include <span>

#include "jit/packed_layout.h"
#include "quant/formats/group_grid.h"
#include "quant/solvers/solved_matrix.h"
#include "runtime/thread_pool.h"

namespace nibble::quant {

enum class RangeMethod : uint8_t {
  plain,    // RtnRange::plain
  full,     // RtnRange::full
  search,   // the grid of least squared error among ranges shrunk by `steps` ratios
  inverse,  // "opt-RTN": among 201 inverse scales around -8 / w of the largest |w|; symmetric only
};

struct RangeOptions {
  RangeMethod method = RangeMethod::full;
  // Of search: ratios from 1 down to this. Symmetric grids are tried with either sign, asymmetric
  // ones with both ends shrunk together, then each on its own. Last the scale is fitted to what was
  // rounded, by least squares, as long as that helps.
  float smallest_ratio = 0.5F;
  int steps = 50;
};

// The grid for w (one group of one column). `weight` is empty or a factor for each squared error;
// plain and full take no notice of it. The error is never above that of RtnRange::full (search) or
// of the scale -w / 8 (inverse). An all-zero group has scale 1. Throws Error for a weight that is
// not finite, and for `inverse` in an asymmetric format.
GroupResult choose_range(std::span<const float> w, const jit::WeightFormat& format,
                         const RangeOptions& options, std::span<const float> weight);

// The same, and rounds to it: q receives the stored values. plain and full are rtn_group.
GroupResult round_best(std::span<const float> w, const jit::WeightFormat& format,
                       const RangeOptions& options, std::span<const float> weight,
                       std::span<uint8_t> q);

// Rounds w [n][k]. Errors are weighted by the diagonal of the Gram matrix where statistics are
// given. plain and full give the very bytes of quantize_matrix. Throws Error naming the column and
// k of a weight that is not finite.
SolvedMatrix solve_rtn(std::span<const float> w, int64_t n, int64_t k,
                       const jit::WeightFormat& format, const RangeOptions& options,
                       const InputStats* stats, runtime::ThreadPool& pool);

}  // namespace nibble::quant
