// Which tiles fit, how much scratch they need, and a model of the machine that picks one.
#include <algorithm>
#include <limits>

#include "jit/amx_plan.h"
#include "jit/emitter_registers.h"
#include "jit/gemm.h"
#include "jit/gemm_blocking.h"

namespace nibble::jit {
namespace {

constexpr int64_t kMaxDisplacement = std::numeric_limits<int32_t>::max();
constexpr int kMaxPrefetch = 1 << 20;

bool is_zmm(Isa isa) { return isa == Isa::avx512 || isa == Isa::avx512_vnni; }
bool has_vnni(Isa isa) { return isa == Isa::avx_vnni || isa == Isa::avx512_vnni; }

DotKind dot_kind(const GemmSpec& spec, Isa isa) {
  if (spec.act == ActType::f32) return DotKind::fma;
  if (spec.act == ActType::bf16) return DotKind::bf16;
  if (has_vnni(isa)) return DotKind::vnni;
  return spec.weight.type == WeightType::u8 ? DotKind::bytes : DotKind::nibbles;
}

// Whether nibbles are looked up by a permutation of 16 floats, which ignores all bits but four.
bool has_value_table(const GemmSpec& spec, const RegisterPlan& plan) {
  return plan.dot == DotKind::bf16 && plan.zmm && spec.weight.type == WeightType::u4;
}

// Whether a super-block of k has sums of its own. It is so long that these may as well be added to
// the fp32 sums in memory.
bool sums_super_blocks(const GemmSpec& spec, const RegisterPlan& plan) {
  return spec.weight.scale == ScaleType::q8 && plan.dot != DotKind::fma;
}

// Registers besides the accumulators and the mask; also places them from plan.work on.
int place_work_of_dots(const GemmSpec& spec, RegisterPlan& plan) {
  const int columns = plan.blocks * plan.halves;
  const int a_registers = plan.embed_a ? 0 : 1;
  const int fold = spec.weight.minimum ? 4 : 3;
  plan.b = plan.work;
  switch (plan.dot) {
    case DotKind::vnni:
      plan.a = plan.b + columns;
      return std::max(fold, columns + a_registers);
    case DotKind::nibbles:
      plan.a = plan.b + columns;
      plan.tmp = plan.a + 1;
      return std::max(fold, columns + 2);
    case DotKind::bytes:  // even and odd bytes of weights, the same of activations, one product
      plan.a = plan.b + 2 * columns;
      plan.tmp = plan.a + 2;
      return 2 * columns + 3;
    case DotKind::fma: {
      const bool dequantize = spec.weight.type != WeightType::f32;
      plan.a = plan.b + columns;
      plan.scale = plan.a + a_registers;
      plan.zero = plan.scale + (dequantize ? columns : 0);
      plan.numbers = plan.zero + (dequantize && spec.weight.asym ? columns : 0);
      if (!dequantize || spec.weight.scale != ScaleType::q8) return plan.numbers - plan.work;
      return plan.numbers - plan.work + (spec.weight.minimum ? 2 : 1) * columns;
    }
    case DotKind::bf16:
      plan.a = plan.b + columns;
      plan.zero = plan.a + 1;
      plan.table = plan.zero + (spec.weight.asym ? columns : 0);
      return plan.table - plan.work + (has_value_table(spec, plan) ? 1 : 0);
  }
  return 0;
}

// The upper bits of u6 take one more.
int place_work(const GemmSpec& spec, RegisterPlan& plan) {
  const int used = place_work_of_dots(spec, plan);
  plan.upper = plan.work + used;
  return used + (spec.weight.type == WeightType::u6 ? 1 : 0);
}

bool plan_with(const GemmSpec& spec, bool bytes_in_panel, int chains, bool f32_in_memory,
               RegisterPlan& plan) {
  const int vectors = plan.vectors();
  plan.chains = chains;
  plan.f32_in_memory = f32_in_memory;
  plan.acc = 0;
  plan.acc16 = plan.dot == DotKind::fma ? 0 : vectors * chains;
  plan.group_sums = plan.acc16;
  const bool more_sums = plan.dot == DotKind::nibbles || plan.dot == DotKind::bf16;
  plan.supers = plan.acc16 + (more_sums ? vectors : 0);
  plan.f32 = plan.supers + (sums_super_blocks(spec, plan) ? vectors : 0);
  plan.work = plan.f32 + (f32_in_memory ? 0 : vectors);
  plan.mask = plan.work + place_work(spec, plan);
  const int registers = plan.zmm ? 32 : 16;
  const bool masks = (spec.weight.type == WeightType::u4 || spec.weight.type == WeightType::u6) &&
                     !bytes_in_panel && !has_value_table(spec, plan);
  plan.mask_in_register = masks && plan.mask < registers;
  plan.lines = plan.mask + (plan.mask_in_register ? 1 : 0);
  const int kept = plan.blocks * plan.halves;
  const bool quads = spec.weight.type == WeightType::u4 && spec.act == ActType::s8;
  plan.lines_in_registers = quads && plan.mask_in_register && plan.lines + kept <= registers;
  plan.used = plan.lines + (plan.lines_in_registers ? kept : 0);
  return plan.used <= registers;
}

// Small tiles are bound by the latency of one chain of dots.
constexpr int kLatencyBoundVectors = 4;

bool displacements_fit(const Tiling& tiling, const PackedShape& shape) {
  // Blocks of a tile and rows of scales are reached by 32-bit displacements.
  constexpr int64_t kMaxPerBlock = kMaxDisplacement / (int64_t{2} * kMaxBlocks);
  constexpr int64_t kMaxPerRow = kMaxDisplacement / (int64_t{2} * kMaxRows);
  return shape.block_bytes <= kMaxPerBlock && shape.kpad * kColumnBlock <= kMaxPerBlock &&
         shape.groups * 64 <= kMaxPerBlock && shape.groups * 4 <= kMaxPerRow &&
         tiling.prefetch_l1 >= 0 && tiling.prefetch_l1 <= kMaxPrefetch && tiling.prefetch_l2 >= 0 &&
         tiling.prefetch_l2 <= kMaxPrefetch;
}

// Blocks apart are reached by registers that the pointers to many rows leave free
// (Emitter::apart()).
bool reaches_apart(const Tiling& tiling) {
  return tiling.nr >= 2 && tiling.nr <= 4 && tiling.mr <= 10 && !tiling.panel;
}

// A panel is filled through such a register too (Emitter::panel()).
bool reaches_panel(const GemmSpec& spec, const Tiling& tiling) {
  return spec.weight.type == WeightType::u4 && spec.act == ActType::s8 && tiling.mr <= 15;
}

}  // namespace

std::optional<RegisterPlan> plan_registers(const GemmSpec& spec, Isa isa, bool bytes_in_panel,
                                           int rows, int blocks) {
  RegisterPlan plan;
  plan.dot = dot_kind(spec, isa);
  plan.zmm = is_zmm(isa);
  plan.rows = rows;
  plan.blocks = blocks;
  plan.halves = plan.zmm ? 1 : 2;
  plan.embed_a = plan.zmm && blocks == 1 && (plan.dot == DotKind::vnni || plan.dot == DotKind::fma);
  const int chains = plan.dot == DotKind::bf16 ? 2 : 1;
  const bool small = plan.vectors() <= kLatencyBoundVectors && plan.dot == DotKind::vnni;
  const bool in_memory = sums_super_blocks(spec, plan);
  if (small && plan_with(spec, bytes_in_panel, 2, in_memory, plan)) return plan;
  if (plan_with(spec, bytes_in_panel, chains, in_memory, plan)) return plan;
  if (plan.dot != DotKind::fma && plan_with(spec, bytes_in_panel, chains, true, plan)) return plan;
  return std::nullopt;
}

int64_t panel_scale_lines(const GemmSpec& spec) {
  if (spec.weight.scale == ScaleType::q8) return 0;
  return spec.weight.asym ? 2 : 1;
}

int64_t panel_block_bytes(const GemmSpec& spec, const Tiling& tiling) {
  const PanelSlices slices = panel_slices(spec, tiling);
  return slices.k * kColumnBlock + slices.folds * panel_scale_lines(spec) * kLineBytes;
}

int epilogue_blocks(const GemmSpec& spec, const Tiling& tiling) {
  if (tiling.apart) return (spec.gate ? 2 : 1) * tiling.nr;
  return spec.gate ? std::max(2, tiling.nr) : tiling.nr;
}

int64_t tile_scratch_bytes(const GemmSpec& spec, const Tiling& tiling) {
  return int64_t{epilogue_blocks(spec, tiling)} * tiling.mr * kColumnBlock *
         static_cast<int64_t>(sizeof(float));
}

int64_t sums_scratch_bytes(const GemmSpec& spec, const Tiling& tiling) {
  const int64_t tile = tile_scratch_bytes(spec, tiling);
  return panel_slices(spec, tiling).count == 1 ? tile : chunk_rows(spec, tiling) / tiling.mr * tile;
}

int64_t gemm_scratch_bytes(const GemmSpec& spec, const Tiling& tiling) {
  const int64_t panel = epilogue_blocks(spec, tiling) * panel_block_bytes(spec, tiling);
  const int64_t vectors = sums_scratch_bytes(spec, tiling) + panel;
  if (!runs_on_tiles(spec, Isa::amx_int8, tiling)) return vectors;
  return std::max(vectors, amx_scratch_bytes(spec, tiling));
}

bool tiling_fits(const GemmSpec& spec, Isa isa, const Tiling& tiling) {
  if (!displacements_fit(tiling, packed_shape(spec.weight, spec.n, spec.k))) return false;
  if (runs_on_tiles(spec, isa, tiling)) return amx_tiling_fits(spec, tiling);
  if (tiling.mr < 1 || tiling.mr > kMaxRows) return false;
  if (tiling.nr < 1 || tiling.nr > kMaxBlocks) return false;
  if (tiling.k_unroll < 1 || tiling.k_unroll > kMaxUnroll) return false;
  if (spec.gate && tiling.nr != 1 && tiling.nr % 2 != 0 && !tiling.apart) return false;
  if (tiling.apart && !reaches_apart(tiling)) return false;
  // A pass through the k loop is a step of k.
  if (spec.act == ActType::bf16 && tiling.k_unroll != kBf16Step) return false;
  if (tiling.panel && !reaches_panel(spec, tiling)) return false;
  return plan_registers(spec, vector_isa(isa), tiling.panel, tiling.mr, tiling.nr).has_value();
}

namespace {

// Up to so many rows a pass is bound by reading the weights, which vectors unpack in registers.
constexpr int kVectorRows = 8;

// Rows of the one-block tile that perf/gemm_bench.cpp finds best. AVX-512 gains nothing from more
// than 8, and 8 rows whose stride is a multiple of a page just fit the ways of an L1 set.
int most_rows(const GemmSpec& spec, Isa isa) {
  if (isa == Isa::avx512 || isa == Isa::avx512_vnni || isa == Isa::amx_int8) return kVectorRows;
  if (spec.act == ActType::f32) return spec.weight.type == WeightType::f32 ? 6 : 5;
  if (isa == Isa::avx_vnni) return 6;
  return spec.weight.type == WeightType::u8 ? 4 : 3;
}

// With as many blocks, then as many rows, as the registers hold.
Tiling shrunk_to_fit(const GemmSpec& spec, Isa isa, Tiling tiling) {
  while (tiling.nr > 1 && !tiling_fits(spec, isa, tiling)) --tiling.nr;
  if (tiling.nr == 1) tiling.apart = false;
  while (tiling.mr > 1 && !tiling_fits(spec, isa, tiling)) --tiling.mr;
  return tiling;
}

// On Zen 4, whole models: one long stream of weights, which the hardware foresees best when left
// alone, beats several side by side in decoding (`nibble bench --shape tinyllama-1.1b`: 0.92 of the
// read roof, 0.82 when fetched 2048 bytes ahead by instructions, 0.73 with two streams).
constexpr Tiling kDecodeTiling{.mr = 1, .nr = 1, .k_unroll = 8};
// Where groups are short and their folding takes a fifth of the instructions, four blocks share the
// loads of activations (g32 at 58 GB/s: 0.92 of the roof, one block 0.84 to 0.86; at 34: both
// 0.98).
constexpr Tiling kDecodeShortTiling{.mr = 1, .nr = 4, .k_unroll = 8};
// Batches compute too long between lines for the hardware to look far enough ahead: it is told to
// take into the L2 what is 128 lines away. Nearer, and into the L1, it comes too late where memory
// is fast (llama2-7b g128 at 58 GB/s, 8 rows: 2048 bytes into the L1 1.07 times the time; three
// blocks side by side, whose streams the hardware foresees, for 4 rows 1.16 times).
constexpr Tiling kBatchTiling{.mr = 1, .nr = 1, .k_unroll = 8, .prefetch_l2 = 8192};

// 2 x 2 tiles, a load for every product; narrower where there is but one column block.
constexpr Tiling kTileTiling{.mr = 2 * kTileRows, .nr = kMaxTileBlocks, .k_unroll = 64};

Tiling tile_tiling(const GemmSpec& spec) {
  Tiling tiling = kTileTiling;
  if (spec.n <= kColumnBlock) tiling.nr = 1;
  tiling.panel = amx_panel(spec);
  if (tiling.panel) tiling.prefetch_l2 = kBatchTiling.prefetch_l2;
  return tiling;
}

// Groups under q8 scales fold in half as many instructions (Q4_K at 58 GB/s: one block 0.86 to 0.89
// of the time of four).
bool slow_folding(const GemmSpec& spec) {
  constexpr int64_t kLongGroup = 64;
  return spec.weight.group != 0 && spec.weight.group < kLongGroup &&
         spec.weight.scale != ScaleType::q8;
}

// On Zen 5, whole models (`nibble bench --rows`, two threads): four streams of a thread's own part
// each read faster than one (0.83 of the speed) or six side by side (0.92), and want to be fetched
// ahead as well: a line of nibbles is five vector instructions, so that the instructions a core has
// under way are but 4 KiB of weights, what arrives while the first of them is waited for. Fetched 6
// KiB ahead in all, into the L1, tinyllama-1.1b decodes at 0.86 to 0.91 of the roof (0.78 when not,
// two streams 0.76; of AVX2, whose tiles have two, 0.79 and not 0.72). Few rows take three blocks,
// whose fp32 sums have registers (four rows of llama2-7b g128: 59 ms, by four blocks 62; not
// fetched 72, side by side 78), eight two (95 ms, 133 when not fetched, 109 one by one). A dot a
// load is what the loads can just do, and a line of weights that is not in the L1 waits behind
// them: in prompts two blocks share the activations (1.17 times the speed of eight rows by one).
//
// On Golden Cove dots share two ports with what unpacks nibbles, 6 instructions beside 14 dots of a
// 7 x 2 tile: prompts unpack to a panel (llama2-7b: 0.66 of the int8 roof, 0.57 in registers), from
// which dots run at the roof but for the fold, 0.905. Nine rows and more, of a batch, unpack the
// weights once for all of them (9, 12 and 16 rows of 4096 x 4096 from memory: 1.16, 1.17 and 1.09
// times the speed of eight by two blocks).
constexpr int kStreamsAhead = 6144;
constexpr Tiling kStreamsDecode{.mr = 1, .nr = 4, .k_unroll = 16, .apart = true};
constexpr Tiling kStreamsFew{.mr = 4, .nr = 3, .k_unroll = 8, .apart = true, .prefetch_l1 = 2048};
constexpr Tiling kStreamsBatch{.mr = 8, .nr = 2, .k_unroll = 8, .apart = true, .prefetch_l1 = 2048};
constexpr Tiling kStreamsMany{.mr = 14, .nr = 2, .k_unroll = 8, .prefetch_l1 = 2048};
constexpr Tiling kRegisterPrompt{.mr = 7, .nr = 2, .k_unroll = 8, .prefetch_l1 = 2048};
constexpr Tiling kPanelPrompt{.mr = 6, .nr = 4, .k_unroll = 8, .panel = true, .prefetch_l1 = 2048};

// On Golden Cove (Sapphire and Emerald Rapids) weights that are bound by reading are fetched in two
// steps, into the L2 and from there into the L1, where one step leaves a line in the way of the
// next until it has come from memory. 4096 x 4096 g128 from memory, two threads, of the read roof:
// one row 0.97 (four blocks in one step 0.82), AVX2 0.92 (0.83), four rows 0.90 (three blocks in
// one step 0.78), eight 0.83 (two 0.72). Each block of a tile is a stream that so many bytes are
// fetched ahead of: more of them, beside rows of activations that come back with every block, leave
// an L1 less room for each (1024 bytes ahead and not 3072, beside busy neighbours: four rows 1.018
// times the speed, eight 1.025).
constexpr Tiling two_steps(int mr, int nr, int into_l1, int into_l2) {
  return {.mr = mr,
          .nr = nr,
          .k_unroll = 8,
          .apart = true,
          .prefetch_l1 = into_l1,
          .prefetch_l2 = into_l2};
}
constexpr Tiling kTwoStepsDecode = two_steps(1, 2, 3072, 6144);
constexpr Tiling kTwoStepsFew = two_steps(4, 4, 1024, 4096);
constexpr Tiling kTwoStepsBatch = two_steps(8, 3, 1024, 4096);

Tiling prompt_tiling(const GemmSpec& spec, Core core) {
  const bool panel = core == Core::golden_cove && spec.weight.type == WeightType::u4;
  return panel ? kPanelPrompt : kRegisterPrompt;
}

Tiling streams_tiling(const GemmSpec& spec, Isa isa, int64_t m, Core core) {
  const bool golden_cove = core == Core::golden_cove;
  Tiling tiling = golden_cove ? kTwoStepsDecode : kStreamsDecode;
  if (m > kStreamsDecode.mr) tiling = golden_cove ? kTwoStepsFew : kStreamsFew;
  if (m > kStreamsFew.mr) tiling = golden_cove ? kTwoStepsBatch : kStreamsBatch;
  if (m > kStreamsBatch.mr && golden_cove) tiling = kStreamsMany;
  if (m > kStreamedRows) tiling = prompt_tiling(spec, core);
  tiling.mr = static_cast<int>(std::min<int64_t>(tiling.mr, m));
  tiling = shrunk_to_fit(spec, isa, tiling);
  if (m == 1 && !golden_cove) tiling.prefetch_l1 = kStreamsAhead / tiling.nr;
  return tiling;
}

// Rows share the unpacking of weights, blocks the widening of activations. What fills the registers
// of AVX-512, by rows (g128 on Zen 4, one row: 0.88 of the time of one block; 64 rows: three by
// three 0.91 of that of four by two and 0.79 of eight by one); those of AVX2 have room for two rows
// of one.
constexpr int kBf16MostRows = 4;
constexpr int kBf16Blocks[kBf16MostRows] = {4, 4, 3, 2};
constexpr int kBf16BatchRows = 3;

Tiling bf16_tiling(const GemmSpec& spec, Isa isa, int64_t m) {
  const auto tile = [&](int rows) {
    return Tiling{.mr = rows,
                  .nr = kBf16Blocks[rows - 1],
                  .k_unroll = kBf16Step,
                  .prefetch_l2 = m == 1 ? 0 : kBatchTiling.prefetch_l2};
  };
  Tiling tiling = tile(static_cast<int>(std::min<int64_t>(m, kBf16MostRows)));
  const Tiling batch = tile(kBf16BatchRows);
  if (m > kBf16MostRows && tiling_fits(spec, isa, batch)) tiling = batch;
  return shrunk_to_fit(spec, isa, tiling);
}

}  // namespace

Tiling default_tiling(const GemmSpec& spec, Isa isa, int64_t m, Core core) {
  if (m > kVectorRows && runs_on_tiles(spec, isa, kTileTiling)) return tile_tiling(spec);
  if (spec.act == ActType::bf16) return bf16_tiling(spec, isa, m);
  const bool vnni = spec.act == ActType::s8 && vector_isa(isa) == Isa::avx512_vnni;
  if (core != Core::zen4 && (vnni || m == 1)) return streams_tiling(spec, isa, m, core);
  if (m == 1) return vnni && slow_folding(spec) ? kDecodeShortTiling : kDecodeTiling;
  Tiling tiling = kBatchTiling;
  tiling.mr = static_cast<int>(std::min<int64_t>(most_rows(spec, isa), m));
  return shrunk_to_fit(spec, isa, tiling);
}

}  // namespace nibble::jit
