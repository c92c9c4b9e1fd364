// Random packed weights of a given shape, for measuring speed without a model file.
#pragma once

#include <cstdint>

#include "jit/packed_layout.h"
#include "runtime/packed_matrix.h"
#include "runtime/thread_pool.h"

namespace nibble::quant {

// Uniform quantized values with scales near 1 / (sqrt(k) * their deviation): inputs of variance 1
// give outputs of about variance 1. The same seed gives the same bytes on any number of threads.
runtime::PackedMatrix random_matrix(const jit::WeightFormat& format, int64_t n, int64_t k,
                                    uint64_t seed, runtime::ThreadPool& pool);

}  // namespace nibble::quant
