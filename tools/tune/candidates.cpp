#include "tools/tune/candidates.h"

#include <algorithm>
#include <span>

#include "jit/emitter_registers.h"
#include "jit/gemm.h"

namespace nibble::tune {
namespace {

constexpr double kRoofMargin = 0.9;

constexpr int kColumnBlocks[] = {1, 2, 3, 4, 6, 8};
constexpr int kDecodeUnroll[] = {2, 4, 8, 16, 32};
struct Prefetch {
  int l1 = 0, l2 = 0;
};
constexpr Prefetch kDecodePrefetch[] = {{},           {1024, 0},    {1536, 0},    {2048, 0},
                                        {3072, 0},    {0, 8192},    {1024, 3072}, {2048, 6144},
                                        {3072, 6144}, {4096, 12288}};
constexpr int kBatchUnroll[] = {4, 8, 16};
constexpr Prefetch kBatchPrefetch[] = {{}, {2048, 0}, {0, 8192}};
constexpr Prefetch kApartPrefetch[] = {{}, {2048, 0}, {0, 8192}, {1024, 3072}, {3072, 6144}};
constexpr int kBf16Unroll[] = {static_cast<int>(jit::kBf16Step)};  // all that there is

std::span<const int> unrolls(const jit::GemmSpec& spec, bool decode) {
  if (spec.act == jit::ActType::bf16) return kBf16Unroll;
  if (decode) return kDecodeUnroll;
  return kBatchUnroll;
}

// Steps of k between two folds: loops unrolled further than that are the same code.
int64_t steps_per_group(const jit::GemmSpec& spec) {
  const jit::PackedShape shape = jit::packed_shape(spec.weight, spec.n, spec.k);
  const bool s8 = spec.act == jit::ActType::s8;
  const int64_t length = spec.weight.type == jit::WeightType::f32 ? spec.k : shape.group;
  return std::max<int64_t>(1, s8 ? std::min(length, shape.kpad) / 4 : std::min(length, spec.k));
}

class Candidates {
 public:
  Candidates(const jit::GemmSpec& spec, jit::Isa isa, int64_t m)
      : spec_(spec),
        isa_(isa),
        decode_(m == 1),
        longest_(steps_per_group(spec)),
        blocks_(jit::packed_shape(spec.weight, spec.n, spec.k).nblocks) {
    out_.push_back(jit::default_tiling(spec, isa, m));
  }

  void add(const jit::Tiling& tiling) {
    const int shortest = unrolls(spec_, decode_)[0];
    if (tiling.k_unroll > longest_ && tiling.k_unroll != shortest) return;
    if (tiling.nr > blocks_) return;
    if (!jit::tiling_fits(spec_, isa_, tiling)) return;
    if (tiling != out_.front()) out_.push_back(tiling);
  }

  std::vector<jit::Tiling> take() { return std::move(out_); }

 private:
  const jit::GemmSpec& spec_;
  const jit::Isa isa_;
  const bool decode_;
  const int64_t longest_, blocks_;
  std::vector<jit::Tiling> out_;
};

}  // namespace

std::vector<jit::Tiling> candidate_tilings(const jit::GemmSpec& spec, jit::Isa isa, int64_t m) {
  Candidates out(spec, isa, m);
  if (m == 1) {
    // A panel would be written and read once for one use.
    for (const int nr : kColumnBlocks) {
      for (const int unroll : unrolls(spec, true)) {
        for (const Prefetch& ahead : kDecodePrefetch) {
          for (const bool apart : {false, true}) {
            out.add({.mr = 1,
                     .nr = nr,
                     .k_unroll = unroll,
                     .apart = apart,
                     .prefetch_l1 = ahead.l1,
                     .prefetch_l2 = ahead.l2});
          }
        }
      }
    }
    return out.take();
  }
  const int most = static_cast<int>(std::min<int64_t>(m, jit::kMaxRows));
  for (int mr = 1; mr <= most; ++mr) {
    for (const int nr : kColumnBlocks) {
      for (const int unroll : unrolls(spec, false)) {
        const auto tile = [&](const Prefetch& ahead) {
          return jit::Tiling{.mr = mr,
                             .nr = nr,
                             .k_unroll = unroll,
                             .prefetch_l1 = ahead.l1,
                             .prefetch_l2 = ahead.l2};
        };
        for (const Prefetch& ahead : kBatchPrefetch) {
          jit::Tiling tiling = tile(ahead);
          out.add(tiling);
          tiling.panel = true;
          out.add(tiling);
        }
        // Streams of weights matter while memory is the bound.
        if (m > jit::kStreamedRows) continue;
        for (const Prefetch& ahead : kApartPrefetch) {
          jit::Tiling tiling = tile(ahead);
          tiling.apart = true;
          out.add(tiling);
        }
      }
    }
  }
  return out.take();
}

double weight_bytes(const jit::GemmSpec& spec) {
  const jit::PackedShape shape = jit::packed_shape(spec.weight, spec.n, spec.k);
  return static_cast<double>(shape.data_bytes + shape.scale_bytes + shape.zero_bytes);
}

double operations(const jit::GemmSpec& spec, int64_t m) {
  return 2.0 * static_cast<double>(m) * static_cast<double>(spec.n) * static_cast<double>(spec.k);
}

double least_seconds(const jit::GemmSpec& spec, jit::Isa isa, int64_t m, const jit::Tiling& tiling,
                     const runtime::Roofs& roofs) {
  const jit::PackedShape shape = jit::packed_shape(spec.weight, spec.n, spec.k);
  const auto plan = jit::plan_registers(spec, isa, tiling.panel, tiling.mr, tiling.nr);
  const bool s8 = spec.act == jit::ActType::s8;
  const auto steps = static_cast<double>(s8 ? shape.kpad / 4 : spec.k);
  const double halves = plan && plan->zmm ? 1 : 2;
  const double width = plan && plan->zmm ? 64 : 32;
  const auto rows = static_cast<double>(m), blocks = static_cast<double>(shape.nblocks);
  const auto tiles = static_cast<double>((m + tiling.mr - 1) / tiling.mr);

  const double dots = rows * blocks * halves * steps;
  double others = 3 * rows * blocks * halves * static_cast<double>(shape.groups);
  if (spec.weight.type == jit::WeightType::u4 || spec.weight.type == jit::WeightType::u6) {
    others += (spec.weight.type == jit::WeightType::u4 ? 1.5 : 4) * steps * blocks * halves *
              (tiling.panel ? 1 : tiles);
  }
  const double dot_bytes = roofs.int8_gops * 1e9 / 2;
  const double compute = std::max(dots, (dots + others) / 2) * width / dot_bytes;
  const double memory = weight_bytes(spec) / (roofs.read_gbs * 1e9);
  return kRoofMargin * std::max(compute, memory);
}

}  // namespace nibble::tune
