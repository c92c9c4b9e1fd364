// A weight matrix as a solver leaves it: quantized values by rows, scales and zero points, before
// they are packed for the kernels. Every solver of this folder (range_search, gptq, sign_round, and
// awq's clip through them) returns one.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "jit/packed_layout.h"
#include "quant/solvers/input_stats.h"
#include "runtime/packed_matrix.h"
#include "runtime/thread_pool.h"

namespace nibble::quant {

struct SolvedMatrix {
  jit::WeightFormat format;    // u4 or u8
  int64_t n = 0, k = 0;        // output columns, reduction
  std::vector<uint8_t> q;      // [n][k], 0..15 or 0..255
  std::vector<float> scales;   // [n][groups], representable in format.scale; those of q8 become
                               // what is stored when they are packed or multiplied out
  std::vector<uint8_t> zeros;  // [n][groups]; 8 or 128 in a symmetric format
};

// How k is cut into groups: group g is [begin(g), end(g)).
struct GroupShape {
  int64_t k = 0, group = 0, groups = 0;
  int64_t begin(int64_t g) const { return g * group; }
  int64_t end(int64_t g) const { return g + 1 == groups ? k : (g + 1) * group; }
};
// Throws Error for f32 and for shapes that cannot be packed.
GroupShape group_shape(const jit::WeightFormat& format, int64_t n, int64_t k);

// Zeroed arrays of the right sizes.
SolvedMatrix make_solved(const jit::WeightFormat& format, int64_t n, int64_t k);

// The kernels' layout. Throws Error when the arrays do not fit the format: sizes, values past 15,
// other zero points than a symmetric format has, scales that are not finite or not representable.
runtime::PackedMatrix pack(const SolvedMatrix& solved, runtime::ThreadPool& pool);

// [n][k], (q - zero) * scale rounded once: the numbers that the kernels multiply by.
std::vector<float> dequantize(const SolvedMatrix& solved, runtime::ThreadPool& pool);

// Throws Error naming the column and k of a weight that is not finite; w is [n][k].
void check_weights(std::span<const float> w, int64_t n, int64_t k, runtime::ThreadPool& pool);

}  // namespace nibble::quant
