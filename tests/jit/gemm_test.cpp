// Generated matmuls against gemm_reference, bit by bit: every spec on every ISA of this machine,
// over tilings, tails in m, n and k, extremes and column splits, with guard pages around every
// operand. Since the reference is one, kernels that agree with it agree with each other.
#include <gtest/gtest.h>

#include <algorithm>
#include <string>
#include <vector>

#include "jit/emitter_registers.h"
#include "jit/gemm_blocking.h"
#include "jit/gemm_generator.h"
#include "tests/jit/gemm_runner.h"
#include "tests/jit/spec_groups.h"
#include "tests/jit/spec_parts.h"

namespace nibble::test {
namespace {

using namespace jit;  // NOLINT(google-build-using-namespace)

// amx_int8 has gemm_amx_test.cpp.
constexpr Isa kIsas[] = {Isa::avx2, Isa::avx_vnni, Isa::avx512, Isa::avx512_vnni};

std::vector<Tiling> tilings(const GemmSpec& spec, Isa isa) {
  std::vector<Tiling> all = {
      default_tiling(spec, isa, 1, Core::zen4),
      default_tiling(spec, isa, 512, Core::zen4),
      default_tiling(spec, isa, 1, Core::zen5),
      default_tiling(spec, isa, 4, Core::zen5),
      default_tiling(spec, isa, 16, Core::zen5),
      default_tiling(spec, isa, 512, Core::zen5),
      default_tiling(spec, isa, 16, Core::golden_cove),
      default_tiling(spec, isa, 512, Core::golden_cove),
      {.mr = 1, .nr = 1, .k_unroll = 2},
      {.mr = 1, .nr = 4, .k_unroll = 16, .prefetch_l1 = 512},
      {.mr = 2, .nr = 1, .k_unroll = 1},
      {.mr = 2, .nr = 1, .k_unroll = 8, .panel = true},
      {.mr = 3, .nr = 1, .k_unroll = 12, .panel = true, .prefetch_l1 = 256},
      {.mr = 2, .nr = 2, .k_unroll = 24},
      {.mr = 3, .nr = 2, .k_unroll = 8, .panel = true},
      {.mr = 6, .nr = 1, .k_unroll = 64},
      {.mr = 4, .nr = 3, .k_unroll = 8},
      {.mr = 6, .nr = 4, .k_unroll = 4, .panel = true},
      {.mr = 15, .nr = 1, .k_unroll = 3, .panel = true},
      {.mr = 20, .nr = 1, .k_unroll = 8},
      {.mr = 1, .nr = 2, .k_unroll = 8, .apart = true},
      {.mr = 1, .nr = 4, .k_unroll = 4, .apart = true, .prefetch_l1 = 512},
      {.mr = 1, .nr = 1, .k_unroll = 8, .prefetch_l1 = 512, .prefetch_l2 = 1024},
      {.mr = 1, .nr = 4, .k_unroll = 16, .apart = true, .prefetch_l1 = 512, .prefetch_l2 = 1024},
      {.mr = 4, .nr = 3, .k_unroll = 8, .apart = true},
      {.mr = 2, .nr = 2, .k_unroll = 16, .apart = true},
  };
  if (spec.act == ActType::bf16) {
    all.insert(all.end(), {{.mr = 1, .nr = 1, .k_unroll = 32},
                           {.mr = 1, .nr = 3, .k_unroll = 32, .prefetch_l1 = 512},
                           {.mr = 2, .nr = 1, .k_unroll = 32},
                           {.mr = 4, .nr = 2, .k_unroll = 32},
                           {.mr = 1, .nr = 2, .k_unroll = 32, .apart = true},
                           {.mr = 2, .nr = 4, .k_unroll = 32, .apart = true},
                           {.mr = 8, .nr = 1, .k_unroll = 32}});
  }
  std::vector<Tiling> out;  // each once: cores and numbers of rows may share one
  for (const Tiling& t : all) {
    if (tiling_fits(spec, isa, t) && std::ranges::find(out, t) == out.end()) out.push_back(t);
  }
  return out;
}

void add_groups(std::vector<GemmSpec>& out) {
  for (const int64_t group : {16, 32, 64, 128, 256, 512, 1024, 0}) {
    for (const bool asym : {false, true}) {
      const ScaleType scale = asym ? ScaleType::f32 : ScaleType::f16;
      const int64_t k = std::max<int64_t>(2 * group, 160) + 44;  // a short group, k % 8 == 4
      out.push_back({.weight = weights(WeightType::u4, group, asym, scale), .n = 40, .k = k});
      if (group % 64 != 0) continue;
      out.push_back({.weight = weights(WeightType::u4, group, asym, scale),
                     .act = ActType::bf16,
                     .n = 40,
                     .k = k});
    }
  }
}

void add_types(std::vector<GemmSpec>& out) {
  for (const WeightType type : {WeightType::u4, WeightType::u8}) {
    for (const ActType act : {ActType::s8, ActType::f32, ActType::bf16}) {
      for (const bool asym : {false, true}) {
        for (const ScaleType scale : {ScaleType::f16, ScaleType::f32}) {
          for (const auto& [n, k, group] :
               {std::array<int64_t, 3>{100, 200, 64}, {17, 77, 32}, {5, 1, 0}, {33, 24, 128}}) {
            out.push_back(
                {.weight = weights(type, group, asym, scale), .act = act, .n = n, .k = k});
          }
        }
      }
    }
  }
  // Six bits: groups of whole units, and half a unit at the end.
  for (const ActType act : {ActType::s8, ActType::f32}) {
    for (const bool asym : {false, true}) {
      for (const int64_t group : {16, 32, 48, 128, 0}) {
        for (const int64_t k : {int64_t{208}, 2 * group + 24, 2 * group + 13}) {
          const WeightFormat weight = weights(WeightType::u6, group, asym, ScaleType::f16);
          out.push_back({.weight = weight, .act = act, .n = 40, .k = k});
        }
      }
    }
  }
  // Minimums, and scales of bf16.
  for (const WeightType type : {WeightType::u4, WeightType::u6, WeightType::u8}) {
    for (const ActType act : {ActType::s8, ActType::f32}) {
      for (const auto& [n, k, group] :
           {std::array<int64_t, 3>{100, 200, 64}, {17, 77, 32}, {5, 1, 0}, {33, 24, 128}}) {
        for (const ScaleType scale : {ScaleType::f16, ScaleType::f32, ScaleType::bf16}) {
          out.push_back({.weight = minimums(type, group, scale), .act = act, .n = n, .k = k});
        }
        for (const bool asym : {false, true}) {
          const WeightFormat weight = weights(type, group, asym, ScaleType::bf16);
          out.push_back({.weight = weight, .act = act, .n = n, .k = k});
        }
      }
    }
  }
  // Super-blocks: one, several, every length of groups.
  for (const WeightType type : {WeightType::u4, WeightType::u6, WeightType::u8}) {
    for (const ActType act : {ActType::s8, ActType::f32}) {
      for (const auto& [n, k, group] :
           {std::array<int64_t, 3>{100, 512, 16}, {17, 256, 32}, {40, 768, 64}, {33, 256, 128}}) {
        out.push_back({.weight = minimums(type, group, ScaleType::q8), .act = act, .n = n, .k = k});
        const WeightFormat weight = weights(type, group, false, ScaleType::q8);
        out.push_back({.weight = weight, .act = act, .n = n, .k = k});
      }
    }
  }
  // Groups that are no whole number of steps of bf16.
  for (const int64_t group : {8, 24, 40, 88}) {
    out.push_back({.weight = weights(WeightType::u4, group, true, ScaleType::f16),
                   .act = ActType::bf16,
                   .n = 20,
                   .k = 2 * group + 31});
  }
  for (const int64_t k : {1, 7, 64, 203}) {
    out.push_back({.weight = {.type = WeightType::f32}, .act = ActType::f32, .n = 37, .k = k});
  }
}

void add_epilogues(std::vector<GemmSpec>& out) {
  for (const Activation activation :
       {Activation::none, Activation::silu, Activation::gelu, Activation::gelu_tanh,
        Activation::quick_gelu, Activation::relu, Activation::relu2}) {
    for (const bool gate : {false, true}) {
      for (const bool extras : {false, true}) {
        GemmSpec spec{.weight = weights(WeightType::u4, 32, false, ScaleType::f16),
                      .n = gate ? 160 : 75,
                      .k = 96,
                      .bias = extras,
                      .residual = extras,
                      .activation = activation,
                      .gate = gate};
        out.push_back(spec);
        spec.act = ActType::f32;
        out.push_back(spec);
        if (activation != Activation::silu) continue;
        spec.act = ActType::bf16;
        out.push_back(spec);
      }
    }
  }
  out.push_back({.weight = {.type = WeightType::f32},
                 .act = ActType::f32,
                 .n = 96,
                 .k = 40,
                 .bias = true,
                 .residual = true,
                 .activation = Activation::silu,
                 .gate = true});
}

std::vector<GemmSpec> all_specs() {
  std::vector<GemmSpec> out;
  add_groups(out);
  add_types(out);
  add_epilogues(out);
  return out;
}

using Param = std::tuple<SpecGroup, Isa>;

std::string param_name(const ::testing::TestParamInfo<Param>& info) {
  return fmt::format("{}_{}", std::get<0>(info.param).name, isa_name(std::get<1>(info.param)));
}

class GemmKernel : public ::testing::TestWithParam<Param> {
 protected:
  void SetUp() override {
    if (!supports(isa())) GTEST_SKIP() << "this machine has no " << isa_name(isa());
  }
  const std::vector<GemmSpec>& specs() const { return std::get<0>(GetParam()).specs; }
  Isa isa() const { return std::get<1>(GetParam()); }
};

TEST_P(GemmKernel, EqualsReferenceForEveryTilingAndTail) {
  for (const GemmSpec& spec : specs()) {
    const GemmProblem problem(spec, 2 * kMaxRows + 1, Filling::random, 1);
    for (const Tiling& tiling : tilings(spec, isa())) {
      SCOPED_TRACE(repro(spec, isa(), tiling));
      Runner run(spec, isa(), tiling);
      for (const int64_t m : {1, 3, tiling.mr, 2 * tiling.mr + 1}) check_rows(problem, run, m);
      check_split(problem, run, tiling.mr + 1);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(GemmKernel, EqualsReferenceAtExtremesAndZeros) {
  for (const GemmSpec& spec : specs()) {
    for (const Filling filling : {Filling::extremes, Filling::zeros}) {
      const GemmProblem problem(spec, 7, filling, 2);
      for (const int64_t m : {1, 512}) {
        const Tiling tiling = default_tiling(spec, isa(), m);
        SCOPED_TRACE(repro(spec, isa(), tiling));
        Runner run(spec, isa(), tiling);
        check_rows(problem, run, 7);
        if (HasFatalFailure()) return;
      }
    }
  }
}

INSTANTIATE_TEST_SUITE_P(All, GemmKernel,
                         ::testing::Combine(::testing::ValuesIn(grouped(all_specs())),
                                            ::testing::ValuesIn(kIsas)),
                         param_name);

// 13 blocks, or 7 pairs of them, and 14 when the call begins elsewhere: parts of every length, some
// with blocks left behind them.
TEST(GemmGenerator, BlocksApartAreAllColumns) {
  const WeightFormat format = weights(WeightType::u4, 32, true, ScaleType::f16);
  std::vector<GemmSpec> all = {
      {.weight = format, .n = 197, .k = 96, .bias = true, .residual = true},
      {.weight = format, .n = 224, .k = 96, .activation = Activation::silu, .gate = true}};
  for (const GemmSpec& spec : all) {
    const GemmProblem problem(spec, 7, Filling::random, 5);
    for (const Isa isa : supported_isas()) {
      for (int nr = 2; nr <= 4; ++nr) {
        for (const int mr : {1, 3}) {
          const Tiling tiling{.mr = mr, .nr = nr, .k_unroll = 8, .apart = true};
          if (!tiling_fits(spec, isa, tiling)) continue;
          SCOPED_TRACE(repro(spec, isa, tiling));
          Runner run(spec, isa, tiling);
          check_rows(problem, run, 7);
          check_split(problem, run, 2);
          if (HasFatalFailure()) return;
        }
      }
    }
  }
}

// Panels of several slices of k: a short last group behind whole ones and by itself, groups as long
// as a slice, super-blocks, pairs of gates; and rows of several chunks.
TEST(GemmGenerator, SlicesOfKAreAllOfK) {
  const WeightFormat format = weights(WeightType::u4, 128, false, ScaleType::f16);
  const std::vector<GemmSpec> all = {
      {.weight = format, .n = 72, .k = 4348, .bias = true, .residual = true},
      {.weight = weights(WeightType::u4, 32, true, ScaleType::f32), .n = 40, .k = 4160},
      {.weight = weights(WeightType::u4, 128, true, ScaleType::f16), .n = 40, .k = 4100},
      {.weight = weights(WeightType::u4, 1024, false, ScaleType::f16), .n = 40, .k = 2560},
      {.weight = minimums(WeightType::u4, 64, ScaleType::bf16), .n = 40, .k = 4224},
      {.weight = minimums(WeightType::u4, 32, ScaleType::q8), .n = 40, .k = 4352},
      {.weight = weights(WeightType::u4, 64, false, ScaleType::q8), .n = 40, .k = 4352},
      {.weight = format, .n = 160, .k = 2304, .activation = Activation::silu, .gate = true}};
  for (const GemmSpec& spec : all) {
    const GemmProblem problem(spec, 15, Filling::random, 6);
    for (const Isa isa : supported_isas()) {
      for (const Tiling& tiling : {Tiling{.mr = 2, .nr = 1, .k_unroll = 8, .panel = true},
                                   Tiling{.mr = 2, .nr = 2, .k_unroll = 4, .panel = true},
                                   Tiling{.mr = 7, .nr = 2, .k_unroll = 8, .panel = true},
                                   Tiling{.mr = 6, .nr = 4, .k_unroll = 8, .panel = true}}) {
        if (!tiling_fits(spec, isa, tiling)) continue;
        SCOPED_TRACE(repro(spec, isa, tiling));
        EXPECT_GT(panel_slices(spec, tiling).count, 1);
        Runner run(spec, isa, tiling);
        check_rows(problem, run, 15);
        check_split(problem, run, 2);
        if (HasFatalFailure()) return;
      }
    }
  }
}

TEST(GemmGenerator, SlicesOfKForRowsOfSeveralChunks) {
  const GemmSpec spec{.weight = weights(WeightType::u4, 128, false, ScaleType::f16),
                      .n = 40,
                      .k = 11008,
                      .bias = true};
  constexpr int64_t kRows = 193;
  const GemmProblem problem(spec, kRows, Filling::random, 7);
  for (const Isa isa : supported_isas()) {
    const Tiling tiling{.mr = 3, .nr = 1, .k_unroll = 8, .panel = true, .prefetch_l2 = 8192};
    SCOPED_TRACE(repro(spec, isa, tiling));
    EXPECT_LT(chunk_rows(spec, tiling), kRows / 2);
    Runner run(spec, isa, tiling);
    check_rows(problem, run, kRows);
  }
}

TEST(GemmGenerator, RowsBeyondOneChunkOfActivations) {
  constexpr int64_t kRows = 259;  // of 4096 bytes
  const GemmProblem problem(llama_spec(), kRows, Filling::random, 3);
  for (const Isa isa : supported_isas()) {
    const Tiling tiling = default_tiling(llama_spec(), isa, kRows);
    SCOPED_TRACE(repro(llama_spec(), isa, tiling));
    EXPECT_LT(chunk_rows(llama_spec(), tiling), kRows);
    Runner run(llama_spec(), isa, tiling);
    check_rows(problem, run, kRows);
  }
}

TEST(GemmGenerator, NoRowsAndNoColumnsWriteNothing) {
  const GemmProblem problem(llama_spec(), 2, Filling::random, 4);
  for (const Isa isa : supported_isas()) {
    Runner run(llama_spec(), isa, default_tiling(llama_spec(), isa, 1));
    GuardedBuffer<float> c(static_cast<size_t>(problem.c_count(2)), kUntouched);
    GemmArgs args = problem.args(0, c.data());
    run(args);
    args = problem.args(2, c.data());
    args.nb_begin = args.nb_end = 1;
    run(args);
    for (const float value : c) ASSERT_EQ(value, kUntouched);
  }
}

TEST(GemmGenerator, RefusesTilesThatDoNotFit) {
  const GemmSpec spec = llama_spec();
  EXPECT_THROW(generate_gemm(spec, Isa::avx2, {.mr = 8, .nr = 4}), Error);
  EXPECT_THROW(generate_gemm(spec, Isa::avx512_vnni, {.mr = 16, .nr = 2}), Error);
  EXPECT_THROW(generate_gemm(spec, Isa::avx512_vnni, {.mr = 0, .nr = 1}), Error);
  EXPECT_THROW(generate_gemm(spec, Isa::avx512_vnni, {.mr = 1, .nr = 1, .k_unroll = 0}), Error);
  GemmSpec f32 = spec;
  f32.act = ActType::f32;
  EXPECT_THROW(generate_gemm(f32, Isa::avx512, {.mr = 1, .nr = 1, .panel = true}), Error);
  GemmSpec bf16 = spec;
  bf16.act = ActType::bf16;
  EXPECT_THROW(generate_gemm(bf16, Isa::avx512, {.mr = 1, .nr = 1, .k_unroll = 8}), Error);
  GemmSpec gate = spec;
  gate.gate = true;
  EXPECT_THROW(generate_gemm(gate, Isa::avx512_vnni, {.mr = 1, .nr = 3}), Error);
}

// The budget is closed-form: whatever it admits can be generated, tails included.
TEST(GemmGenerator, EveryTileWithinBudgetIsGenerated) {
  for (const Isa isa : kIsas) {
    for (const GemmSpec& spec :
         {llama_spec(), GemmSpec{.weight = {.asym = true}, .n = 64, .k = 96},
          GemmSpec{.weight = {.type = WeightType::u8}, .n = 64, .k = 96},
          GemmSpec{.weight = {.asym = true}, .act = ActType::f32, .n = 64, .k = 96},
          GemmSpec{.weight = {.type = WeightType::u6, .asym = true}, .n = 64, .k = 96},
          GemmSpec{.weight = {.type = WeightType::u6}, .act = ActType::f32, .n = 64, .k = 96},
          GemmSpec{.act = ActType::bf16, .n = 64, .k = 96},
          GemmSpec{.weight = {.asym = true}, .act = ActType::bf16, .n = 64, .k = 96}}) {
      int largest = 0;
      for (int mr = 1; mr <= kMaxRows; ++mr) {
        for (int nr = 1; nr <= kMaxBlocks; ++nr) {
          Tiling tiling{.mr = mr, .nr = nr};
          if (spec.act == ActType::bf16) tiling.k_unroll = kBf16Step;
          if (!tiling_fits(spec, isa, tiling)) continue;
          EXPECT_NO_THROW(generate_gemm(spec, isa, tiling)) << repro(spec, isa, tiling);
          largest = std::max(largest, mr * nr);
        }
      }
      EXPECT_GE(largest, spec.act == ActType::bf16 && isa < Isa::avx512 ? 1 : 2);
    }
  }
}

TEST(GemmGenerator, DefaultTilingsFit) {
  for (const Isa isa : {Isa::avx2, Isa::avx_vnni, Isa::avx512, Isa::avx512_vnni, Isa::amx_int8}) {
    for (const GemmSpec& spec : all_specs()) {
      for (const int64_t m : {1, 2, 3, 4, 8, 16, 512}) {
        const Tiling tiling = default_tiling(spec, isa, m);
        EXPECT_TRUE(tiling_fits(spec, isa, tiling)) << repro(spec, isa, tiling);
      }
    }
  }
}

}  // namespace
}  // namespace nibble::test
