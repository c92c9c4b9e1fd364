#include "jit/gemm_blocking.h"

#include <algorithm>

#include "jit/emitter_registers.h"
#include "jit/packed_layout.h"

namespace nibble::jit {
namespace {

constexpr int64_t kChunkBytes = 512 << 10;
constexpr int64_t kPanelBytes = 16 << 10;  // leaves an L1 room for the activations of a tile

}  // namespace

int64_t rows_of_bytes(const GemmSpec& spec, const Tiling& tiling, int64_t bytes) {
  const int64_t row = packed_shape(spec.weight, spec.n, spec.k).kpad * act_bytes(spec.act);
  return std::max<int64_t>(1, bytes / row / tiling.mr) * tiling.mr;
}

int64_t chunk_rows(const GemmSpec& spec, const Tiling& tiling) {
  return rows_of_bytes(spec, tiling, kChunkBytes);
}

PanelSlices panel_slices(const GemmSpec& spec, const Tiling& tiling) {
  if (!tiling.panel) return {};
  const PackedShape shape = packed_shape(spec.weight, spec.n, spec.k);
  const int64_t most =
      kPanelBytes / (epilogue_blocks(spec, tiling) * kColumnBlock * shape.act_group);
  PanelSlices out;
  out.folds = std::clamp<int64_t>(most, 1, shape.act_groups);
  out.count = (shape.act_groups + out.folds - 1) / out.folds;
  out.k = std::min(out.folds * shape.act_group, shape.kpad);
  return out;
}

}  // namespace nibble::jit
