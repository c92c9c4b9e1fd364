// The one list of kernels that tests, benchmarks and `nibble kernels list` share, and the check of
// one kernel against its plain C++ reference that `nibble kernels check NAME` runs.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "jit/code_cache.h"
#include "jit/kernel_spec.h"

namespace nibble::jit {

// Every op, type, group length, zero point, scale type and epilogue at least once, shapes with and
// without tails, tiled for one row and for many. In a fixed order, names unique; empty for an ISA
// without an emitter.
std::vector<KernelKey> kernel_catalog(Isa isa);

// Runs the kernel and its reference over random data made from `seed`, with tails, and (matmuls)
// with m of 1, 3, mr and 2 mr + 1. Compares bits, and the memory around every result. Returns "" or
// a description of the first difference. Throws Error when the kernel does not exist or this
// machine cannot run it. Where executable memory is refused there is nothing to compare: also an
// Error.
std::string check_kernel(const KernelKey& key, uint64_t seed);
// The same for code that is at hand already and can run here.
std::string compare_with_reference(const Kernel& kernel, uint64_t seed);

}  // namespace nibble::jit
