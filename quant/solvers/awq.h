// The numbers of AWQ (Lin et al., 2023): a factor for each input channel by which weights are
// multiplied before they are rounded and inputs divided, so that the channels that matter are
// rounded more finely. Losses are exact on all inputs by way of their Gram matrix G = sum x x^T:
// with D = Q(W s) / s - W, sum |D x|^2 = tr(D G D^T). Where in a model a factor can be folded, and
// who shares it, is the caller's knowledge; clipping is awq_clip.h's.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "jit/packed_layout.h"
#include "quant/products/steps.h"
#include "quant/solvers/input_stats.h"
#include "quant/solvers/range_search.h"
#include "runtime/thread_pool.h"

namespace nibble::quant {

// One of the matrices that read the same inputs: w is [n][k].
struct AwqSharer {
  std::span<const float> w;
  int64_t n = 0;
  jit::WeightFormat format;
};

struct AwqOptions {
  int steps = 20;            // exponents a = 0, 1/steps, ... below 1
  bool inputs_alone = true;  // also try s = x^a, where weights have no say
  RangeOptions range = {};   // how the scaled weights will be rounded
  // Losses are those of so many rows, evenly spread over all the sharers; 0 for all of them. Of 512
  // and more every fourth is looked at first, and only the quarter of the candidates that is best
  // there, and the identity, by the others. The cost is rows k^2 FLOP a candidate, or 7/16 of it.
  int64_t rows = 1024;
  Steps told = {};
};

struct AwqScales {
  std::vector<float> scales;           // [k], multiply weights and divide inputs; all 1: identity
  double loss = 0, identity_loss = 0;  // of the rows that were looked at
  bool identity = true;                // nothing was better
  double exponent = 0;                 // a of the best
  bool inputs_alone = false;           // it was x^a
};

// Searches s = x^a / (w^(1-a) + 1e-4), at least 1e-4, over sqrt(max s * min s): x the mean |input|,
// w the mean over all rows of |W| / (largest |W| of its group). Among equals the identity, then the
// first. Channels whose inputs are all 0 keep the factor 1. `tied` is empty or gives each channel a
// group in 0..k-1 whose channels have one factor, from the means of their x and w. Throws Error for
// weights and statistics that are not finite or do not fit, and formats that are not quantized.
AwqScales search_awq_scales(std::span<const AwqSharer> sharers, const InputStats& stats,
                            std::span<const int64_t> tied, const AwqOptions& options,
                            runtime::ThreadPool& pool);

// w[n][k] *= scales[k], by columns of k.
void scale_channels(std::span<float> w, int64_t n, std::span<const float> scales,
                    runtime::ThreadPool& pool);
// The statistics of inputs that are divided by the scales.
void scale_inputs(InputStats& stats, std::span<const float> scales, runtime::ThreadPool& pool);

}  // namespace nibble::quant
