// The closed-form register budget of one tile: which vector registers hold what. The tiler asks
// plan_registers whether a tile fits; the emitters place their registers where it says. Nothing is
// ever spilled behind its back: a tile that does not fit does not exist.
//
// With R registers (16 of AVX2, 32 of AVX-512), h registers a column block (2 and 1), V = mr*nr*h
// tile registers and C = nr*h weight registers, a tile of s8 activations needs
//   accumulators   V * chains            int32 (chains = 2 hides vpdpbusd's latency in small tiles)
//                + V                     int16 sums, vpmaddubsw only
//                + V                     sums of a super-block, q8 scales only
//                + V                     fp32 sums, or 0: then they live in the tile's scratch, as
//                                        they always do with q8 scales
//   work           max(3, C + a + ...)   weights, activations, and the temporaries of a fold (with
//                                        minimums 4)
//   mask           1 or 0                0x0f bytes of u4 and u6, else read from memory
//   upper          1                     u6
//   lines          C or 0                u4 in two steps: a line loaded once for both its quads
// of f32 activations V fp32 sums, C weights, C scales, C zero points or minimums (asymmetric), the
// C or 2 C numbers over the bytes of q8, and the mask, and of bf16 activations
//   accumulators   2 V                   a step's chains of even and odd k
//                + V                     sums of a group
//                + V                     fp32 sums, or 0: in the tile's scratch
//   work           C + 1 + ...           weights, activations, C zero points (asymmetric)
//   table          1                     u4 with AVX-512: what a nibble is as a float
//   mask           1                     u4 without, as above
#pragma once

#include <optional>

#include "jit/kernel_spec.h"

namespace nibble::jit {

// How one quad (s8) or one k (f32, bf16) of weights meets one of activations.
enum class DotKind {
  vnni,     // vpdpbusd
  nibbles,  // vpmaddubsw into int16, 8 quads of 0..15 (u6: 2 of 0..63), then vpmaddwd with ones
  bytes,    // 0..255 would saturate vpmaddubsw: even and odd bytes widened, two vpmaddwd
  fma,      // fp32
  bf16,     // fp32 as well, even and odd k apart (kernel_spec.h)
};

struct RegisterPlan {
  DotKind dot = DotKind::vnni;
  bool zmm = false;
  int rows = 0, blocks = 0;  // the tile: rows x blocks of 16 columns
  int halves = 1;            // registers a column block
  int chains = 1;
  bool embed_a = false;        // activations are broadcast by the instruction that multiplies
  bool f32_in_memory = false;  // fp32 sums live in the tile's scratch
  bool mask_in_register = false;
  bool lines_in_registers = false;
  // First register of each kind.
  int acc = 0, acc16 = 0, f32 = 0, b = 0, a = 0, tmp = 0, scale = 0, zero = 0, mask = 0;
  int group_sums = 0, table = 0;  // bf16
  int supers = 0, numbers = 0;    // q8 scales: sums of a super-block; numbers over the bytes
  int lines = 0;                  // the lines that are being unpacked
  int upper = 0;                  // u6: the upper bits of what is being loaded
  int work = 0;                   // registers of a fold, free between dots (they overlap b, a, tmp)
  int used = 0;

  int vectors() const { return rows * blocks * halves; }
};

inline constexpr int kMaxRows = 20;      // a_address() reaches 4 pointers x 5 rows
inline constexpr int kMaxBlocks = 8;     // column blocks side by side
inline constexpr int kMaxUnroll = 64;    // k steps of one loop body
inline constexpr int kMaxNibbleSum = 8;  // 8 * 2 * 15 * 128 < 2^15
inline constexpr int kMaxSixBitSum = 2;  // 2 * 2 * 63 * 128 < 2^15

// nullopt when the tile needs more registers than the ISA has. `bytes_in_panel`: u4 weights arrive
// unpacked.
std::optional<RegisterPlan> plan_registers(const GemmSpec& spec, Isa isa, bool bytes_in_panel,
                                           int rows, int blocks);

// Bytes of one column block of a panel: a slice of u4 unpacked to bytes (gemm_blocking.h).
int64_t panel_block_bytes(const GemmSpec& spec, const Tiling& tiling);
// Behind the lines of a group there, so many of its scales, and zero points or minimums, as floats.
// None under q8 scales.
int64_t panel_scale_lines(const GemmSpec& spec);
// Column blocks whose tiles share one run of the epilogue: nr, and whole pairs for gates.
int epilogue_blocks(const GemmSpec& spec, const Tiling& tiling);
// Scratch bytes of the fp32 sums of a tile, [epilogue_blocks][mr][16], and of all whose sums are
// kept at a time, which lie before the panel.
int64_t tile_scratch_bytes(const GemmSpec& spec, const Tiling& tiling);
int64_t sums_scratch_bytes(const GemmSpec& spec, const Tiling& tiling);

}  // namespace nibble::jit
