// AWQ's search for clipped ranges: for every group of every row, how far to shrink the range of the
// weights before they are rounded to nearest, so that the outputs' error from this group alone is
// least. It sees how errors within a group add up or cancel, which range_search.h does not.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "jit/packed_layout.h"
#include "quant/formats/rtn.h"
#include "quant/solvers/input_stats.h"
#include "runtime/thread_pool.h"

namespace nibble::quant {

// The shrinks that are tried: 1, 0.95, ... 0.55.
inline constexpr int kClipSteps = 10;

// [n][groups], the best share of each group's range: of d G_gg d^T, d = Q(clip(w)) - w, G_gg the
// group's block of the Gram matrix; the widest among equals. w: [n][k]. Costs 20 n k group FLOP.
// Throws Error for weights or statistics that are not finite or do not fit.
std::vector<float> search_clips(std::span<const float> w, int64_t n, int64_t k,
                                const jit::WeightFormat& format, RtnRange range,
                                const InputStats& stats, runtime::ThreadPool& pool);

// Every weight into its group's range [share * low, share * high], low and high the extremes.
void clip_weights(std::span<float> w, int64_t n, int64_t k, const jit::WeightFormat& format,
                  std::span<const float> shares, runtime::ThreadPool& pool);

}  // namespace nibble::quant
