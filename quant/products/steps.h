// How far a computation of minutes is, told to whoever asked for it while it runs: so that progress
// moves and Ctrl-C is heard before the end. Nothing is printed or stopped here.
#pragma once

#include <functional>

namespace nibble::quant {

// Called on the thread that asked for the computation, between its parallel loops, with the share
// from 0 to 1 that is done. What it throws ends the computation, whose results are then of no use.
// Empty: nobody asks.
using Steps = std::function<void(double share)>;

inline void tell(const Steps& steps, double share) {
  if (steps) steps(share);
}

// For a part of a computation: 0 to 1 of it are `begin` to `end` of the whole. `whole` must outlive
// what is returned.
inline Steps part_of(const Steps& whole, double begin, double end) {
  if (!whole) return {};
  return [&whole, begin, end](double share) { whole(begin + share * (end - begin)); };
}

}  // namespace nibble::quant
