// How the loop nest of a matmul (gemm_nest.h) cuts rows and k for the caches.
#pragma once

#include <cstdint>

#include "jit/kernel_spec.h"

namespace nibble::jit {

// Rows at most of a chunk, whose activations are a part of any L2: a multiple of mr, and at least
// mr. Kernels cut longer calls into as many rows and what is left.
int64_t chunk_rows(const GemmSpec& spec, const Tiling& tiling);
// Rows of each but the last of the chunks that m rows had better come in: as few as can be, of as
// many rows each as the others, whole tiles.
int64_t even_chunk_rows(const GemmSpec& spec, const Tiling& tiling, int64_t m);

// A panel is read again for every few rows, so it should stay in the L1: k is cut into slices whose
// panel does, and the fp32 sums of a chunk of rows wait in the scratch between slices. Groups are
// folded in the same order as in one pass, so no bit depends on it.
struct PanelSlices {
  int64_t count = 1;
  int64_t folds = 0;  // act_groups of a whole slice (packed_layout.h)
  int64_t k = 0;      // of a whole slice, a multiple of 8
};
// One slice of nothing where the tiling has no panel. Not of AMX tiles (amx_plan.h).
PanelSlices panel_slices(const GemmSpec& spec, const Tiling& tiling);

}  // namespace nibble::jit
