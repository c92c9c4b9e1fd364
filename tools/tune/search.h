// Finds the fastest of many candidates by measuring few of them often and most of them hardly.
// Knows no kernels: what it measures is a function, so tests give it one whose best is known.
//
// The machine's speed drifts while it is measured, so a candidate is judged by its time over that
// of the default, measured shortly before. Exploring takes every second candidate in an order drawn
// from the seed and every other one beside the best so far; a candidate whose bound is above the
// fastest sample so far is never measured (bounds that samples have beaten are lowered first), and
// one that is far behind only once. Then the best are measured in
// rounds, and the worse half leaves after each (successive halving). Last, the best of all meets
// the default in turns, and wins only when it is faster by more than the noise.
#pragma once

#include <cstdint>
#include <functional>
#include <map>
#include <span>
#include <string>
#include <utility>
#include <vector>

#include "jit/kernel_spec.h"
#include "runtime/tuning_db.h"

namespace nibble::tune {

struct SearchProgress {
  int64_t tried = 0, candidates = 0;
  jit::Tiling best;
  double best_ratio = 1;  // its time over the default's
  double share = 0;       // of the budget that is spent
};

struct SearchHooks {
  // Seconds of one matmul. `whole`: measured in full; otherwise a part may stand for it.
  std::function<double(const jit::Tiling&, bool whole)> sample;
  std::function<double(const jit::Tiling&)> bound;      // no sample is shorter; empty: not known
  std::function<double()> clock;                        // seconds
  std::function<void(const SearchProgress&)> progress;  // may be empty
  std::function<bool()> stop;                           // may be empty
};

struct SearchOptions {
  double budget_s = 1;
  uint64_t seed = 1;
  // Measured by an earlier search, as time over the default's: not explored again.
  std::vector<std::pair<jit::Tiling, double>> known{};
};

struct SearchResult {
  jit::Tiling winner;
  double ratio = 1;  // the winner's time over the default's; 1 when it is the default
  int64_t candidates = 0, tried = 0, pruned = 0;
  bool complete = false;     // all were tried or pruned
  bool interrupted = false;  // hooks.stop said so; the winner is then the default
  std::map<std::string, runtime::Timing> timings;  // of what this search measured
};

// The first candidate is the default. Throws what hooks.sample throws.
SearchResult search_tilings(std::span<const jit::Tiling> candidates, const SearchOptions& options,
                            const SearchHooks& hooks);

// The last step alone: `challenger` against `holder` in turns, for as long as the budget lasts.
struct Duel {
  runtime::Timing holder, challenger;
  double ratio = 1;     // median of the challenger's times over the holder's
  double noise = 0;     // how far the ratio may be off
  bool faster = false;  // the challenger, beyond noise
  bool slower = false;
};
Duel duel(const jit::Tiling& holder, const jit::Tiling& challenger, double until,
          const SearchHooks& hooks);

runtime::Timing timing_of(std::vector<double> seconds);

}  // namespace nibble::tune
