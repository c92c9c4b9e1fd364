// What this machine can do at most, measured: the marks that decode and prefill are judged by.
// Called by benchmarks; takes about a second, with nothing else running.
#pragma once

#include <cstdint>
#include <memory>

#include "runtime/thread_pool.h"

namespace nibble::runtime {

// Bytes that a benchmark goes through before it comes to the same ones again, so that each time
// they come from memory: 320 MiB, or four times the L3 cache if that is more.
int64_t beyond_caches_bytes();

struct Roofs {
  double read_gbs = 0;   // 1e9 bytes a second, read from memory by all threads, in the best of
                         // the orders that it is read in
  double int8_gops = 0;  // 1e9 operations a second, two a multiply-accumulate, from registers
  double read_gbs_median = 0;  // of the passes: what the machine did most of the time
  double int8_gops_median = 0;
};

// The better of two measurements, as a disturbed one must not lower a roof; medians in the middle.
Roofs best_of(const Roofs& a, const Roofs& b);

// With the widest loads and the best 8-bit dot product of the machine, tiles excepted. The best of
// several passes. Throws Error when memory is refused or the machine has no AVX2.
Roofs measure_roofs(ThreadPool& pool);

// The read roof by itself, for shared machines whose memory changes its pace from one second to the
// next: passes between what is measured tell what the machine could do at that very moment.
class ReadRoof {
 public:
  // Takes a buffer far larger than the caches. Throws as measure_roofs does.
  explicit ReadRoof(ThreadPool& pool);
  ~ReadRoof();
  ReadRoof(const ReadRoof&) = delete;
  ReadRoof& operator=(const ReadRoof&) = delete;

  double pass();  // 1e9 bytes a second; some 10 to 30 ms

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

// The same of dot products: 1e9 operations a second, as measure_roofs counts them, the median of a
// quarter of a second's passes. One that a thread was interrupted in does not count. Throws Error
// when the machine has no AVX2.
double dot_roof(ThreadPool& pool);

}  // namespace nibble::runtime
