// How the threads of a pass share one step's work. Every thread has a home range, contiguous and
// the same in every pass, so that it reads one long stream of weights and finds its share of them
// and of the KV cache in its own caches (and, on large machines, in its own memory). It takes its
// range piece by piece, and when that is done takes pieces of the others': on a noisy machine all
// end together. Called by steps, within a parallel region; a barrier must follow.
#pragma once

#include <algorithm>
#include <atomic>
#include <cstdint>

#include "runtime/placement.h"

namespace nibble::runtime {

// Work that no memory bounds is taken in about so many pieces a thread, the last of which are
// shorter.
inline constexpr int64_t kPiecesPerThread = 8;

// How far a thread's home range has been taken; a cache line each. Zero before a step.
struct alignas(64) WorkCounter {
  std::atomic<int64_t> taken{0};
};

// The threads of a step and the counter of each.
struct WorkShare {
  int thread = 0;
  const Placement* placement = nullptr;
  WorkCounter* counters = nullptr;  // one a thread

  int threads() const noexcept { return placement->size(); }
  Range home(int64_t count, int64_t unit) const noexcept {
    return placement->home_range(count, unit, thread);
  }

  // How a range is taken: in pieces that are whole units, half of what is left of the range but
  // `least` at least and `most` at most (both become multiples of the unit, one at least): long
  // ones for as long as it matters little who ends when. The last piece is what is left.
  struct Cut {
    int64_t unit = 1, least = 1, most = 1;
  };

  // Calls body(begin, end) until all of [0, count) is taken.
  template <typename Body>
  void claim(int64_t count, Cut cut, Body body) const noexcept {
    const int all = threads();
    if (all == 1) return body(0, count);
    const auto whole = [&cut](int64_t n) { return std::max(n / cut.unit * cut.unit, cut.unit); };
    cut.least = whole(cut.least);
    cut.most = std::max(whole(cut.most), cut.least);
    for (int i = 0; i < all; ++i) {
      const int owner = thread + i < all ? thread + i : thread + i - all;
      const Range range = placement->home_range(count, cut.unit, owner);
      std::atomic<int64_t>& taken = counters[owner].taken;
      for (;;) {
        // Read first: a range that is all taken is left without disturbing its owner.
        int64_t before = taken.load(std::memory_order_relaxed);
        const int64_t begin = range.begin + before, left = range.end - begin;
        if (left <= 0) break;
        const int64_t piece = std::clamp(whole(left / 2), cut.least, cut.most);
        if (taken.compare_exchange_weak(before, before + piece, std::memory_order_relaxed)) {
          body(begin, std::min(begin + piece, range.end));
        }
      }
    }
  }
};

}  // namespace nibble::runtime
