// What this machine can do at most, measured: the marks that decode and prefill are judged by.
// Called by benchmarks; takes about a second, with nothing else running.
#pragma once

#include "runtime/thread_pool.h"

namespace nibble::runtime {

struct Roofs {
  double read_gbs = 0;   // 1e9 bytes a second, read in order from memory by all threads
  double int8_gops = 0;  // 1e9 operations a second, two a multiply-accumulate, from registers
};

// With the widest loads and the best 8-bit dot product of the machine, tiles excepted. The best of
// several passes. Throws Error when memory is refused or the machine has no AVX2.
Roofs measure_roofs(ThreadPool& pool);

}  // namespace nibble::runtime
