#include "jit/amx_plan.h"

#include <algorithm>
#include <limits>

#include "jit/emitter_registers.h"

namespace nibble::jit {

AmxPlan plan_amx(const GemmSpec& spec) {
  const PackedShape shape = packed_shape(spec.weight, spec.n, spec.k);
  AmxPlan plan{.act = spec.act};
  plan.groups = shape.groups;
  plan.group = std::min(shape.group, shape.kpad);
  plan.last_group = shape.kpad - (shape.groups - 1) * shape.group;
  plan.step = std::min<int64_t>(kTileRowBytes / plan.act_bytes(), plan.group);
  const int64_t steps = (plan.groups - 1) * plan.steps(plan.group) + plan.steps(plan.last_group);
  plan.block_bytes = steps * plan.step_bytes();
  return plan;
}

namespace {

// Under q8 scales groups may be so short that vectors are as fast.
constexpr int64_t kShortestSuperGroup = 32;

}  // namespace

bool runs_on_tiles(const GemmSpec& spec, Isa isa, const Tiling& tiling) {
  return isa == Isa::amx_int8 && spec.act != ActType::f32 &&
         (spec.weight.type == WeightType::u4 || spec.weight.type == WeightType::u8) &&
         (spec.weight.scale != ScaleType::q8 || spec.weight.group >= kShortestSuperGroup) &&
         (tiling.mr == kTileRows || tiling.mr == 2 * kTileRows);
}

Isa vector_isa(Isa isa) { return isa == Isa::amx_int8 ? Isa::avx512_vnni : isa; }

bool amx_panel(const GemmSpec& spec) {
  return spec.weight.type == WeightType::u4 || spec.act == ActType::bf16 ||
         plan_amx(spec).has_shifts();
}

bool amx_tiling_fits(const GemmSpec& spec, const Tiling& tiling) {
  if (tiling.nr < 1 || tiling.nr > kMaxTileBlocks || tiling.apart) return false;
  if (tiling.k_unroll < 1 || tiling.k_unroll > kMaxUnroll) return false;
  if (tiling.panel != amx_panel(spec)) return false;
  // Column blocks are reached by 32-bit displacements.
  return plan_amx(spec).block_bytes <= std::numeric_limits<int32_t>::max() / 4;
}

int amx_unroll(const GemmSpec& spec, const Tiling& tiling) {
  return std::max(1, static_cast<int>(tiling.k_unroll * 4 / plan_amx(spec).step));
}

int64_t amx_group_offset(const GemmSpec& spec, const Tiling& tiling) {
  return tile_scratch_bytes(spec, tiling);
}

int64_t amx_group_bytes(const Tiling& tiling) {
  return int64_t{tiling.nr} * tiling.mr * kColumnBlock * static_cast<int64_t>(sizeof(int32_t));
}

int64_t amx_panel_offset(const GemmSpec& spec, const Tiling& tiling) {
  const int64_t planes = spec.weight.scale == ScaleType::q8 ? 2 : 1;
  return amx_group_offset(spec, tiling) + planes * amx_group_bytes(tiling);
}

int64_t amx_scratch_bytes(const GemmSpec& spec, const Tiling& tiling) {
  const int64_t panel =
      amx_panel(spec) ? epilogue_blocks(spec, tiling) * plan_amx(spec).block_bytes : 0;
  return amx_panel_offset(spec, tiling) + panel;
}

}  // namespace nibble::jit
