#include "jit/gemm_blocking.h"

#include <algorithm>

#include "jit/emitter_registers.h"
#include "jit/isa.h"
#include "jit/packed_layout.h"

namespace nibble::jit {
namespace {

constexpr int64_t kLeastChunk = 512 << 10;
constexpr int64_t kMostChunk = 1 << 20;
// Of weights; scales of groups of 32 are 2 KiB more. Leaves an L1 room for a tile's activations.
constexpr int64_t kPanelBytes = 16 << 10;

// Half of an L2: the other half sees weights, sums and results come and go.
int64_t chunk_bytes() {
  return std::clamp(static_cast<int64_t>(cpu().l2_bytes / 2), kLeastChunk, kMostChunk);
}

}  // namespace

int64_t chunk_rows(const GemmSpec& spec, const Tiling& tiling) {
  const int64_t row = packed_shape(spec.weight, spec.n, spec.k).kpad * act_bytes(spec.act);
  return std::max<int64_t>(1, chunk_bytes() / row / tiling.mr) * tiling.mr;
}

int64_t even_chunk_rows(const GemmSpec& spec, const Tiling& tiling, int64_t m) {
  const auto divided = [](int64_t a, int64_t b) { return (a + b - 1) / b; };
  const int64_t chunks = divided(m, chunk_rows(spec, tiling));
  return divided(divided(m, tiling.mr), chunks) * tiling.mr;
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
