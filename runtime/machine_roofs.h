// What this machine can do at most, measured: the marks that decode and prefill are judged by.
// Called by benchmarks; takes about a second, with nothing else running.
#pragma once

#include "runtime/thread_pool.h"

namespace nibble::runtime {

struct Roofs {
  double read_gbs = 0;         // 1e9 bytes a second, read in order from memory by all threads
  double int8_gops = 0;        // 1e9 operations a second, two a multiply-accumulate, from registers
  double read_gbs_median = 0;  // of the passes: what the machine did most of the time
  double int8_gops_median = 0;
};

// The better of two measurements, as a disturbed one must not lower a roof; medians in the middle.
Roofs best_of(const Roofs& a, const Roofs& b);

// With the widest loads and the best 8-bit dot product of the machine, tiles excepted. The best of
// several passes. Throws Error when memory is refused or the machine has no AVX2.
Roofs measure_roofs(ThreadPool& pool);

}  // namespace nibble::runtime
