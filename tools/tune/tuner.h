// What `nibble tune` does once it knows the matmuls: shares the budget among them, searches, writes
// every result into the database at once, and can verify what is written. Says nothing itself:
// progress and warnings go to the caller.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "jit/kernel_spec.h"
#include "runtime/machine_roofs.h"
#include "runtime/plan.h"
#include "runtime/thread_pool.h"
#include "runtime/tuning_db.h"
#include "tools/tune/search.h"

namespace nibble::tune {

// The distinct matmuls of a plan, in its order. The plan's weights are not read.
std::vector<jit::GemmSpec> matmuls_of(const runtime::Plan& plan);

struct TuneOptions {
  jit::Isa isa = jit::Isa::avx2;
  std::vector<int64_t> rows;  // what to tune for
  double budget_s = 60;
  uint64_t seed = 1;
  bool resume = false;       // complete entries are skipped, others continued
  int64_t weight_bytes = 0;  // of all copies of a matrix; 0: several times the L3 cache
};

// One matmul and number of rows, as it was tuned or verified.
struct Tuned {
  runtime::TuningKey key;
  std::string default_tiling, winner;
  double default_s = 0, winner_s = 0;
  double ratio = 1;  // winner's time over the default's
  double gbs = 0, gops = 0;
  int64_t candidates = 0, tried = 0, pruned = 0;
  bool complete = false;
  bool skipped = false;  // by resume: complete already
  bool replaced =
      false;  // by verify: the winner was slower than the default, which takes its place
};

struct TuneProgress {
  const runtime::TuningKey& key;
  size_t index = 0, count = 0;  // of (matmul, rows) pairs
  SearchProgress search;        // of this one
  double share = 0;             // of the whole budget
  double seconds_left = 0;      // of the budget
};

struct TuneCallbacks {
  std::function<void(const TuneProgress&)> progress;
  std::function<void(const Tuned&)> done;  // each as it ends
  std::function<bool()> stop;
};

struct TuneOutcome {
  std::vector<Tuned> entries;
  runtime::Roofs roofs;
  double seconds = 0;
  bool interrupted = false;
};

// Tunes every spec for every number of rows and writes the database at `path`. Throws Error when
// the database cannot be written (before anything is measured), or a kernel gives wrong bits.
TuneOutcome tune(std::span<const jit::GemmSpec> specs, const TuneOptions& options,
                 runtime::ThreadPool& pool, const std::string& path,
                 const TuneCallbacks& callbacks);

// Measures the winner of every entry made with as many threads as the pool has against the default,
// in turns, and where it is slower puts the default in its place.
TuneOutcome verify(const std::string& path, double budget_s, runtime::ThreadPool& pool,
                   const TuneCallbacks& callbacks);

}  // namespace nibble::tune
