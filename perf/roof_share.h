// What a kernel does a second, beside the machine's roofs of the same run: the counters that all
// benchmarks of kernels report. Not a benchmark itself.
#pragma once

#include <benchmark/benchmark.h>

#include <algorithm>
#include <map>
#include <mutex>

#include "runtime/machine_roofs.h"
#include "runtime/thread_pool.h"

namespace nibble::perf {

// The roofs of `threads` threads, measured on first use; other callers wait meanwhile.
inline const runtime::Roofs& roofs_of(int threads) {
  static std::mutex mutex;
  static std::map<int, runtime::Roofs> known;
  const std::lock_guard lock(mutex);
  const auto [entry, is_new] = known.try_emplace(threads);
  if (is_new) {
    runtime::ThreadPool pool(threads);
    entry->second = runtime::measure_roofs(pool);
  }
  return entry->second;
}

// What one call moves and computes.
struct Work {
  double bytes = 0;       // read and written once
  double operations = 0;  // two a multiply-accumulate
  bool int8 = false;      // of 8-bit integers, otherwise of fp32
};

// bytes/s, ops/s, and the share of the roof that binds: reading memory, or dot products (for fp32
// a quarter of the 8-bit roof). Above 1 the operands came from caches. The library prints "/s"
// behind all three, as it does behind every rate.
inline void count_work(benchmark::State& state, const Work& work) {
  const runtime::Roofs& roofs = roofs_of(state.threads());
  using benchmark::Counter;
  // The library adds up the counters of all threads and multiplies by the iterations of all.
  const auto rate = [&](double amount) {
    return Counter(amount / state.threads(), Counter::kIsIterationInvariantRate);
  };
  const double read_seconds = work.bytes * 1e-9 / roofs.read_gbs;
  const double dot_seconds = work.operations * 1e-9 / (roofs.int8_gops / (work.int8 ? 1 : 4));
  state.counters["bytes/s"] = rate(work.bytes);
  state.counters["ops/s"] = rate(work.operations);
  state.counters["roof_share"] = rate(std::max(read_seconds, dot_seconds));
}

}  // namespace nibble::perf
