// Collects what solvers know of a weight's inputs (input_stats.h) from activations.
#pragma once

#include <cstdint>
#include <span>

#include "quant/products/steps.h"
#include "quant/solvers/input_stats.h"
#include "runtime/thread_pool.h"

namespace nibble::quant {

// x is [rows][k].
InputStats measure_inputs(std::span<const float> x, int64_t rows, int64_t k,
                          runtime::ThreadPool& pool, const Steps& steps = {});

}  // namespace nibble::quant
