// The matmul kernels' calling convention, their plain C++ reference and the choice of tiling.
#pragma once

#include <cstdint>

#include "jit/core.h"
#include "jit/kernel_spec.h"

namespace nibble::jit {

// Everything one call needs. Strides in elements unless said. All threads share all pointers but
// `scratch`; a call computes columns [nb_begin*16, nb_end*16) of all m rows. For gates nb counts
// weight blocks (both even), and output columns are halved.
struct GemmArgs {
  // s8 or bf16 [m][a_stride], zero padded to kpad, or f32 [m][a_stride].
  const void* a = nullptr;
  int64_t a_stride = 0;
  const float* a_scale = nullptr;  // s8: [m][act_groups]
  const void* a_sum = nullptr;     // s8: [m][groups] int32 (int16 of q8 minimums), -zero * sum of
                                   // the group's q (zero = 1 if asym)
  const uint8_t* w = nullptr;      // packed data, scales, zeros of the whole matrix
  const void* w_scale = nullptr;
  const void* w_zero = nullptr;  // u8 zero points, or minimums in the type of the scales
  const float* bias = nullptr;   // [n] (for gates in weight-column order)
  const float* residual = nullptr;
  int64_t residual_stride = 0;
  float* c = nullptr;
  int64_t c_stride = 0;
  int64_t c_columns = 0;  // valid output columns: nothing is stored past them
  int64_t m = 0;
  int64_t nb_begin = 0, nb_end = 0;
  void* scratch = nullptr;  // gemm_scratch_bytes() bytes, 64-byte aligned, one a thread
};

// Stores the sum of a group of int8 activations, sums being those of its row.
inline void store_activation_sum(const PackedShape& shape, void* sums, int64_t group, int32_t sum) {
  if (shape.act_sum_bytes == shape.groups * 4) {
    static_cast<int32_t*>(sums)[group] = sum;
  } else {
    static_cast<int16_t*>(sums)[group] = static_cast<int16_t>(sum);
  }
}

using GemmFn = void (*)(const GemmArgs*);

// Upper bound of the scratch one call of this kernel needs.
int64_t gemm_scratch_bytes(const GemmSpec& spec, const Tiling& tiling);

// The oracle and the fall-back: any spec, plain C++, same bits as every generated kernel.
void gemm_reference(const GemmSpec& spec, const GemmArgs& args);

// The closed-form register budget: whether kernels of `isa` exist with this tiling for this spec.
// On amx_int8 an mr of 16 or 32 means tiles (amx_plan.h), any other a kernel of avx512_vnni.
bool tiling_fits(const GemmSpec& spec, Isa isa, const Tiling& tiling);
// Up to so many rows a pass over weights in memory is bound by reading them.
inline constexpr int64_t kStreamedRows = 16;
// A model of the machine: a good tiling for up to m rows (m = 1 decode, large m prefill).
Tiling default_tiling(const GemmSpec& spec, Isa isa, int64_t m, Core core = this_core());

}  // namespace nibble::jit
