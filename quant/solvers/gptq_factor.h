// What GPTQ needs of a layer's inputs, and no weights: the order in which the channels of k are
// rounded and the factor of the inverse Gram matrix by which the rounding of one is made good by
// those after it. The reduction matrix is H = G / mean(diag G) with `damping` added to its
// diagonal.
#pragma once

#include <cstdint>
#include <vector>

#include "quant/products/steps.h"
#include "quant/solvers/input_stats.h"
#include "quant/solvers/solved_matrix.h"
#include "runtime/thread_pool.h"

namespace nibble::quant {

enum class ChannelOrder : uint8_t {
  natural,
  hybrid,  // by falling diagonal within each group, and groups by their largest: storage stays as
           // is
  full,    // by falling diagonal throughout: the groups' grids must be known before (static groups)
};

struct GptqFactor {
  std::vector<int64_t> order;  // [k], the channel at each position
  std::vector<float> u;        // [k][k] by positions, upper: U^T U = H^-1
  std::vector<bool> dead;      // [k] by channels: never anything but 0 in the inputs
  double damping = 0;          // what it took
  int retries = 0;             // how often 0.0015 was added to it
  bool floored = false;        // that did not help: the diagonal was raised until it dominates
};

std::vector<int64_t> order_channels(const InputStats& stats, const GroupShape& shape,
                                    ChannelOrder order);

// Throws Error when a product is not finite.
GptqFactor factor_inputs(const InputStats& stats, const GroupShape& shape, ChannelOrder order,
                         double damping, runtime::ThreadPool& pool, const Steps& steps = {});

}  // namespace nibble::quant
