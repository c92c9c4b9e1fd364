// Broadcasting and strided access: one loop nest over an output shape with up to three operands
// that step through their memory by strides (0 where an operand is broadcast).
#pragma once

#include <array>
#include <cstddef>
#include <cstdint>

#include "graph/interpreter.h"

namespace nibble::graph {

// Row-major strides in elements.
Shape row_major_strides(const Shape& shape);
// The numpy rule. Throws Error when the shapes do not fit.
Shape broadcast_shape(const Shape& a, const Shape& b);
// Strides of `shape` within `out`: 0 where it is broadcast.
Shape broadcast_strides(const Shape& shape, const Shape& out);

// Elements offset + sum(index * strides) of x for every index of `shape`, in row-major order: this
// is Transpose, Slice, Expand, Split and Tile.
Array strided_copy(const Array& x, Shape shape, Shape strides, int64_t offset);

// A loop nest without dimensions of 1 and with neighbouring dimensions merged where every operand
// walks through them in one stride.
template <size_t N>
struct LoopNest {
  Shape dims;
  std::array<Shape, N> strides;

  LoopNest(const Shape& shape, const std::array<Shape, N>& all) {
    for (size_t d = 0; d < shape.size(); ++d) {
      if (shape[d] == 1) continue;
      if (!dims.empty() && merges(shape, all, d)) {
        dims.back() *= shape[d];
        for (size_t i = 0; i < N; ++i) strides[i].back() = all[i][d];
        continue;
      }
      dims.push_back(shape[d]);
      for (size_t i = 0; i < N; ++i) strides[i].push_back(all[i][d]);
    }
    if (dims.empty()) {
      dims.push_back(1);
      for (size_t i = 0; i < N; ++i) strides[i].push_back(0);
    }
  }

  // body(out, offsets, count, steps): elements [out, out + count) of the output come from
  // offsets[i] + j * steps[i] of operand i.
  template <typename Body>
  void run(const Body& body) const {
    const size_t rank = dims.size();
    for (const int64_t dim : dims) {
      if (dim == 0) return;
    }
    Shape index(rank, 0);
    std::array<int64_t, N> offsets{}, steps{};
    for (size_t i = 0; i < N; ++i) steps[i] = strides[i].back();
    for (int64_t out = 0;; out += dims.back()) {
      body(out, offsets, dims.back(), steps);
      size_t d = rank - 1;
      while (d > 0) {
        --d;
        for (size_t i = 0; i < N; ++i) offsets[i] += strides[i][d];
        if (++index[d] < dims[d]) break;
        for (size_t i = 0; i < N; ++i) offsets[i] -= strides[i][d] * dims[d];
        index[d] = 0;
        if (d == 0) return;
      }
      if (rank == 1) return;
    }
  }

 private:
  bool merges(const Shape& shape, const std::array<Shape, N>& all, size_t d) const {
    for (size_t i = 0; i < N; ++i) {
      if (strides[i].back() != all[i][d] * shape[d]) return false;
    }
    return true;
  }
};

}  // namespace nibble::graph
