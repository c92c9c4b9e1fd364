// How a matmul of s8 or bf16 activations is cut into AMX tiles: which tilings mean tiles, how long
// a step of k is, and what lies where in the panel and the scratch. Asked by the tiler and by
// amx_generator.cpp; knows no instruction.
//
// A step multiplies 16 rows x s k of activations (tile A) by s k x 16 columns of weights (tile B:
// s/4 rows of 64 bytes in quads of s8, the packed order; s/2 rows in pairs of bf16). All steps of a
// kernel have the same s = min(64, group, kpad), or min(32, ...) of bf16, so that tiles are
// configured for it once. A group of L k is ceil(L / s) steps; the last is shifted back to end
// where the group ends:
//
//     L = 88, s = 64     step 0   k  0..63
//                        step 1   k 24..87, its first 40 k are zero in the panel
//
// so activations are never read past their row, and no tile has another shape. A group shorter than
// s (the last one may be) is one step that begins before the group, over zero weights. (Of bf16
// they add 0 to chains that are +0 still, which is no change: the bits are those of the k that
// count.)
#pragma once

#include <cstdint>

#include "jit/kernel_spec.h"

namespace nibble::jit {

inline constexpr int kTileRows = 16;      // rows of a tile
inline constexpr int kTileRowBytes = 64;  // bytes of a row
inline constexpr int kMaxTileBlocks = 2;  // accumulators side by side, and above each other
static_assert(kBf16Step * act_bytes(ActType::bf16) == kTileRowBytes);

struct AmxPlan {
  ActType act = ActType::s8;
  int64_t step = 0;         // k of one step, a multiple of 8
  int64_t groups = 0;       // all of the same length but the last
  int64_t group = 0;        // k of a group,
  int64_t last_group = 0;   // and of the last one
  int64_t block_bytes = 0;  // of one column block as the tiles read it

  int64_t act_bytes() const { return jit::act_bytes(act); }
  int64_t row_k() const { return 4 / act_bytes(); }                         // k of a row of tile B
  int64_t row_bytes() const { return step * act_bytes(); }                  // of tile A
  int64_t step_bytes() const { return step * act_bytes() * kColumnBlock; }  // of tile B

  int64_t steps(int64_t length) const { return (length + step - 1) / step; }
  // k by which the last step of a group is shifted back: so many are zero in the panel.
  int64_t shift(int64_t length) const { return steps(length) * step - length; }
  bool has_shifts() const { return shift(group) != 0 || shift(last_group) != 0; }
};

AmxPlan plan_amx(const GemmSpec& spec);

// Whether the kernel of this key runs on tiles: amx_int8, u4 or u8 weights (with q8 scales in
// groups of 32 or more), s8 or bf16 activations, mr 16 or 32.
// Every other tiling of amx_int8 means the kernel of vector_isa(amx_int8), avx512_vnni.
bool runs_on_tiles(const GemmSpec& spec, Isa isa, const Tiling& tiling);
Isa vector_isa(Isa isa);

// Whether the weights go through a panel: u4 are unpacked there, and u8 of bf16 activations are
// made bf16; other u8 are copied when steps are shifted and read as they are otherwise.
// Tiling.panel of a tile kernel says the same.
bool amx_panel(const GemmSpec& spec);
bool amx_tiling_fits(const GemmSpec& spec, const Tiling& tiling);
// A step of a tile kernel's loop body is this many of Tiling.k_unroll's quads.
int amx_unroll(const GemmSpec& spec, const Tiling& tiling);

// Scratch: the fp32 sums as every kernel has them, the sums of one group in the same order (int32,
// or fp32 of bf16), with q8 scales those of one super-block (fp32), the panel.
int64_t amx_group_offset(const GemmSpec& spec, const Tiling& tiling);
int64_t amx_group_bytes(const Tiling& tiling);
int64_t amx_panel_offset(const GemmSpec& spec, const Tiling& tiling);
int64_t amx_scratch_bytes(const GemmSpec& spec, const Tiling& tiling);

}  // namespace nibble::jit
