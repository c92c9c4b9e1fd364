// What constants of an export of one length N stand for: positions, causal masks, and shapes with N
// in them. No graph: arrays and numbers alone.
#pragma once

#include <array>
#include <cstdint>
#include <optional>
#include <vector>

#include "graph/interpreter.h"

namespace nibble::graph {

bool same_array(const Array& a, const Array& b);

// first, first + 1, ..., first + N - 1 along one axis, the others 1.
struct Positions {
  int64_t first = 0;
};
std::optional<Positions> match_positions(const Array& array, int64_t length);

// [.., N, N] of two numbers: `seen` where a row's position sees a column's, `hidden` elsewhere. A
// row sees itself and what precedes it, or the last `window` of these where that is not 0, and what
// follows where `future` says so.
struct BandMask {
  float seen = 0, hidden = 0;
  int64_t window = 0;
  bool future = false;
};
std::optional<BandMask> match_band_mask(const Array& array, int64_t length);

// The target of a Reshape at any length, of that at N: with -1 or, where that is taken,
// kLengthItself for the length, at the axis that keeps every position where it is in memory.
// `from`: the input's shape at two other lengths. nullopt when several axes would do, or none.
inline constexpr int64_t kLengthItself = -2;
std::optional<std::vector<int64_t>> free_target(const std::array<Shape, 2>& from,
                                                const std::array<int64_t, 2>& lengths,
                                                const std::vector<int64_t>& target, int64_t length);

}  // namespace nibble::graph
