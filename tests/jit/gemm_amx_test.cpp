// Matmuls of amx_int8 against gemm_reference and the AVX2 kernel, bit by bit, with guard pages
// around every operand: under the AMX emulator where the machine has AVX512-VNNI alone, natively
// where it has tiles.
#include <gtest/gtest.h>

#include <array>
#include <string>
#include <thread>
#include <vector>

#include "jit/amx_plan.h"
#include "jit/kernel_catalog.h"
#include "tests/jit/amx_code.h"
#include "tests/jit/gemm_runner.h"
#include "tests/jit/spec_groups.h"
#include "tests/jit/spec_parts.h"

namespace nibble::test {
namespace {

using namespace jit;  // NOLINT(google-build-using-namespace)

// Two groups and a short one that is no multiple of 8; n = 40 is two blocks and a half.
void add_tile_groups(std::vector<GemmSpec>& out) {
  for (const int64_t group : {8, 16, 24, 32, 40, 64, 72, 88, 96, 128, 256, 512, 1024, 0}) {
    for (const bool asym : {false, true}) {
      const ScaleType scale = asym ? ScaleType::f32 : ScaleType::f16;
      const int64_t k = std::max<int64_t>(2 * group, 160) + (asym ? 44 : 20);
      out.push_back({.weight = weights(WeightType::u4, group, asym, scale), .n = 40, .k = k});
    }
  }
}

// Whole groups, tails in n and k, k shorter than a group and than a tile.
void add_tile_types(std::vector<GemmSpec>& out) {
  for (const WeightType type : {WeightType::u4, WeightType::u8}) {
    for (const bool asym : {false, true}) {
      for (const ScaleType scale : {ScaleType::f16, ScaleType::f32}) {
        for (const auto& [n, k, group] : {std::array<int64_t, 3>{100, 200, 64},
                                          {48, 384, 128},
                                          {17, 77, 32},
                                          {5, 1, 0},
                                          {33, 24, 128},
                                          {70, 256, 32}}) {
          out.push_back({.weight = weights(type, group, asym, scale), .n = n, .k = k});
        }
      }
    }
  }
}

// Minimums, and scales of bf16.
void add_stored_types(std::vector<GemmSpec>& out) {
  for (const WeightType type : {WeightType::u4, WeightType::u8}) {
    for (const auto& [n, k, group] : {std::array<int64_t, 3>{100, 200, 64}, {17, 77, 32}}) {
      for (const ScaleType scale : {ScaleType::f16, ScaleType::f32, ScaleType::bf16}) {
        out.push_back({.weight = minimums(type, group, scale), .n = n, .k = k});
      }
      const WeightFormat symmetric = weights(type, group, false, ScaleType::bf16);
      out.push_back({.weight = symmetric, .n = n, .k = k});
      out.push_back({.weight = symmetric, .act = ActType::bf16, .n = n, .k = k});
    }
  }
}

// One super-block and more; groups of 16 are vectors' alone.
void add_tile_super_blocks(std::vector<GemmSpec>& out) {
  for (const WeightType type : {WeightType::u4, WeightType::u8}) {
    for (const auto& [n, k, group] :
         {std::array<int64_t, 3>{100, 256, 32}, {17, 768, 32}, {48, 512, 64}, {33, 512, 128}}) {
      out.push_back({.weight = minimums(type, group, ScaleType::q8), .n = n, .k = k});
      out.push_back({.weight = weights(type, group, false, ScaleType::q8), .n = n, .k = k});
    }
  }
}

// The same for bf16, whose steps are half as long.
void add_bf16(std::vector<GemmSpec>& out) {
  for (const WeightType type : {WeightType::u4, WeightType::u8}) {
    for (const bool asym : {false, true}) {
      const ScaleType scale = asym ? ScaleType::f32 : ScaleType::f16;
      for (const int64_t group : {8, 16, 24, 32, 40, 64, 88, 128, 256, 0}) {
        const int64_t k = std::max<int64_t>(2 * group, 96) + (asym ? 44 : 20);
        out.push_back(
            {.weight = weights(type, group, asym, scale), .act = ActType::bf16, .n = 40, .k = k});
      }
      for (const auto& [n, k, group] : {std::array<int64_t, 3>{48, 384, 128},
                                        {17, 77, 32},
                                        {5, 1, 0},
                                        {33, 24, 128},
                                        {70, 256, 32}}) {
        out.push_back(
            {.weight = weights(type, group, asym, scale), .act = ActType::bf16, .n = n, .k = k});
      }
    }
  }
  out.push_back({.weight = weights(WeightType::u4, 32, true, ScaleType::f16),
                 .act = ActType::bf16,
                 .n = 96,
                 .k = 96,
                 .bias = true,
                 .residual = true,
                 .activation = Activation::silu,
                 .gate = true});
}

void add_tile_epilogues(std::vector<GemmSpec>& out) {
  for (const Activation activation :
       {Activation::none, Activation::silu, Activation::gelu, Activation::gelu_tanh,
        Activation::quick_gelu, Activation::relu, Activation::relu2}) {
    for (const bool gate : {false, true}) {
      for (const bool extras : {false, true}) {
        out.push_back({.weight = weights(WeightType::u4, 32, false, ScaleType::f16),
                       .n = gate ? 96 : 75,
                       .k = 96,
                       .bias = extras,
                       .residual = extras,
                       .activation = activation,
                       .gate = gate});
      }
    }
  }
}

std::vector<GemmSpec> tile_specs() {
  std::vector<GemmSpec> out;
  add_tile_groups(out);
  add_stored_types(out);
  add_tile_super_blocks(out);
  add_tile_types(out);
  add_bf16(out);
  add_tile_epilogues(out);
  return out;
}

std::vector<Tiling> tile_tilings(const GemmSpec& spec) {
  std::vector<Tiling> all;
  const bool panel = amx_panel(spec);
  for (const int mr : {16, 32}) {
    for (const int nr : {1, 2}) {
      all.push_back({.mr = mr, .nr = nr, .k_unroll = mr == 32 ? 32 : 1, .panel = panel});
    }
  }
  all.push_back(default_tiling(spec, Isa::amx_int8, 512));
  return all;
}

class AmxGemm : public ::testing::Test {
 protected:
  void SetUp() override {
    if (!amx_obstacle().empty()) GTEST_SKIP() << "this machine lacks " << amx_obstacle();
  }
  AmxEmulator emulator_;
};

class AmxGemmSpec : public AmxGemm, public ::testing::WithParamInterface<SpecGroup> {};

constexpr int64_t kMostRows = 65;

TEST_P(AmxGemmSpec, EqualsReferenceForEveryTilingAndTail) {
  for (const GemmSpec& spec : GetParam().specs) {
    const GemmProblem problem(spec, kMostRows, Filling::random, 1);
    for (const Tiling& tiling : tile_tilings(spec)) {
      SCOPED_TRACE(repro(spec, Isa::amx_int8, tiling));
      ASSERT_TRUE(runs_on_tiles(spec, Isa::amx_int8, tiling));
      ASSERT_TRUE(tiling_fits(spec, Isa::amx_int8, tiling));
      Runner run(spec, Isa::amx_int8, tiling);
      for (const int64_t m : {1, 3, 16, 17, 33, 65}) check_rows(problem, run, m);
      check_split(problem, run, 19);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(AmxGemmSpec, EqualsReferenceAtExtremesAndZeros) {
  for (const GemmSpec& spec : GetParam().specs) {
    const Tiling tiling = default_tiling(spec, Isa::amx_int8, 512);
    SCOPED_TRACE(repro(spec, Isa::amx_int8, tiling));
    for (const Filling filling : {Filling::extremes, Filling::zeros}) {
      const GemmProblem problem(spec, 21, filling, 2);
      Runner run(spec, Isa::amx_int8, tiling);
      check_rows(problem, run, 21);
      if (HasFatalFailure()) return;
    }
  }
}

TEST_P(AmxGemmSpec, EqualsTheAvx2Kernel) {
  for (const GemmSpec& spec : GetParam().specs) {
    const GemmProblem problem(spec, 37, Filling::random, 3);
    const auto result = [&](Isa isa) {
      Runner run(spec, isa, default_tiling(spec, isa, 37));
      GuardedBuffer<float> c(static_cast<size_t>(problem.c_count(37)), kUntouched);
      run(problem.args(37, c.data()));
      return c;
    };
    ASSERT_TRUE(same_bits(result(Isa::amx_int8).span(), result(Isa::avx2).span()))
        << name(KernelSpec(spec));
  }
}

std::string group_name(const ::testing::TestParamInfo<SpecGroup>& info) { return info.param.name; }

INSTANTIATE_TEST_SUITE_P(All, AmxGemmSpec, ::testing::ValuesIn(grouped(tile_specs())), group_name);

// --- the whole list ---

// The large squares of the catalog with five column blocks and three groups.
KernelSpec reduced(const KernelSpec& spec) {
  const auto* gemm = std::get_if<GemmSpec>(&spec);
  if (gemm == nullptr || gemm->n != 4096) return spec;
  GemmSpec out = *gemm;
  out.n = 80;
  out.k = out.weight.group == 0               ? 1088
          : out.weight.scale == ScaleType::q8 ? 3 * kSuperBlock
                                              : std::max<int64_t>(192, 3 * out.weight.group);
  return out;
}

TEST_F(AmxGemm, EveryKernelOfTheCatalogEqualsItsReference) {
  CodeCache cache;
  if (!cache.fallback_reason().empty()) GTEST_SKIP() << cache.fallback_reason();
  int on_tiles = 0;
  for (KernelKey key : kernel_catalog(Isa::amx_int8)) {
    key.spec = reduced(key.spec);
    EXPECT_EQ(compare_with_reference(cache.get(key), 1), "") << name(key);
    const auto* gemm = std::get_if<GemmSpec>(&key.spec);
    on_tiles += gemm != nullptr && runs_on_tiles(*gemm, key.isa, key.tiling) ? 1 : 0;
  }
  EXPECT_GT(on_tiles, 50);
}

// --- tiles ---

TEST_F(AmxGemm, RowsBeyondOneChunkOfActivations) {
  const GemmSpec spec = llama_spec(40);
  const GemmProblem problem(spec, 300, Filling::random, 4);
  Runner run(spec, Isa::amx_int8, default_tiling(spec, Isa::amx_int8, 300));
  check_rows(problem, run, 300);
}

TEST_F(AmxGemm, NoRowsAndNoColumnsWriteNothing) {
  const GemmProblem problem(llama_spec(), 2, Filling::random, 5);
  Runner run(llama_spec(), Isa::amx_int8, default_tiling(llama_spec(), Isa::amx_int8, 512));
  GuardedBuffer<float> c(static_cast<size_t>(problem.c_count(2)), kUntouched);
  GemmArgs args = problem.args(0, c.data());
  run(args);
  args = problem.args(2, c.data());
  args.nb_begin = args.nb_end = 1;
  run(args);
  for (const float value : c) ASSERT_EQ(value, kUntouched);
}

TEST_F(AmxGemm, TilesAreReleasedAtTheEnd) {
  const GemmProblem problem(llama_spec(), 40, Filling::random, 6);
  Runner run(llama_spec(), Isa::amx_int8, default_tiling(llama_spec(), Isa::amx_int8, 512));
  for (const int64_t m : {0, 1, 32, 40}) {
    check_rows(problem, run, std::max<int64_t>(m, 1));
    EXPECT_EQ(current_config(), AmxTiles::Config{});
  }
}

// Tile instructions of one tile of 32 rows and columns, whose results are checked.
uint64_t executed_for_a_tile(const GemmSpec& spec) {
  const GemmProblem problem(spec, 32, Filling::random, 7);
  Runner run(spec, Isa::amx_int8, default_tiling(spec, Isa::amx_int8, 512));
  const uint64_t before = AmxEmulator::executed();
  check_rows(problem, run, 32);
  return AmxEmulator::executed() - before;
}

// The kernel does run on tiles, and a step is four loads for four products: 2 x 2 tiles over
// 4096 / 64 steps, 32 groups that are zeroed and stored.
TEST_F(AmxGemm, TwoByTwoTilesLoadOncePerProduct) {
  if (cpu().amx_tile) GTEST_SKIP() << "instructions are counted by the emulator";
  constexpr uint64_t kSteps = 64, kGroups = 32, kConfigureAndRelease = 2;
  EXPECT_EQ(executed_for_a_tile(llama_spec(32)), kSteps * 8 + kGroups * 8 + kConfigureAndRelease);
}

// bf16: twice the steps of half the k, and no more stores.
TEST_F(AmxGemm, Bf16TilesLoadOncePerProductToo) {
  if (cpu().amx_tile) GTEST_SKIP() << "instructions are counted by the emulator";
  GemmSpec spec = llama_spec(32);
  spec.act = ActType::bf16;
  constexpr uint64_t kSteps = 128, kGroups = 32, kConfigureAndRelease = 2;
  EXPECT_EQ(executed_for_a_tile(spec), kSteps * 8 + kGroups * 8 + kConfigureAndRelease);
}

TEST_F(AmxGemm, Bf16RowsBeyondOneChunkOfActivations) {
  GemmSpec spec = llama_spec(40);
  spec.act = ActType::bf16;
  const GemmProblem problem(spec, 150, Filling::random, 9);
  Runner run(spec, Isa::amx_int8, default_tiling(spec, Isa::amx_int8, 300));
  check_rows(problem, run, 150);
}

TEST_F(AmxGemm, ThreadsShareTheColumns) {
  const GemmSpec spec = llama_spec(96);
  const GemmProblem problem(spec, 33, Filling::random, 8);
  const Tiling tiling = default_tiling(spec, Isa::amx_int8, 33);
  Runner first(spec, Isa::amx_int8, tiling);
  Runner second(spec, Isa::amx_int8, tiling);
  GuardedBuffer<float> c(static_cast<size_t>(problem.c_count(33)), kUntouched);
  GemmArgs left = problem.args(33, c.data());
  GemmArgs right = left;
  left.nb_end = right.nb_begin = 3;
  std::thread other([&] { second(right); });
  first(left);
  other.join();
  expect_reference(problem, c, 33);
}

// --- which tiling means what ---

TEST(AmxTiling, FewRowsAndFloatsTakeVectorsManyRowsTiles) {
  const GemmSpec spec = llama_spec();
  const auto tiles = [](const GemmSpec& s, int64_t m) {
    return runs_on_tiles(s, Isa::amx_int8, default_tiling(s, Isa::amx_int8, m));
  };
  for (const int64_t m : {1, 2, 8}) EXPECT_FALSE(tiles(spec, m)) << m;
  for (const int64_t m : {9, 16, 512}) EXPECT_TRUE(tiles(spec, m)) << m;
  GemmSpec f32 = spec;
  f32.act = ActType::f32;
  EXPECT_FALSE(tiles(f32, 512));
  GemmSpec bf16 = spec;
  bf16.act = ActType::bf16;
  EXPECT_FALSE(tiles(bf16, 8));
  EXPECT_TRUE(tiles(bf16, 9));
  EXPECT_FALSE(runs_on_tiles(spec, Isa::avx512_vnni, {.mr = 16, .nr = 1}));
}

TEST(AmxTiling, VectorKernelsAreThoseOfAvx512Vnni) {
  const GemmSpec spec = llama_spec();
  GemmSpec f32 = spec;
  f32.act = ActType::f32;
  for (const Tiling& tiling : {Tiling{.mr = 1, .nr = 1}, Tiling{.mr = 8, .nr = 1},
                               Tiling{.mr = 14, .nr = 2}, Tiling{.mr = 20, .nr = 1}}) {
    EXPECT_EQ(generate_gemm(spec, Isa::amx_int8, tiling),
              generate_gemm(spec, Isa::avx512_vnni, tiling));
  }
  EXPECT_EQ(generate_gemm(f32, Isa::amx_int8, {.mr = 16, .nr = 1}),
            generate_gemm(f32, Isa::avx512_vnni, {.mr = 16, .nr = 1}));
}

TEST(AmxTiling, RefusesTilesThatDoNotFit) {
  const GemmSpec u4 = llama_spec();
  GemmSpec u8 = u4;
  u8.weight.type = WeightType::u8;
  GemmSpec shifted = u8;
  shifted.weight.group = 88;
  const auto fits = [](const GemmSpec& spec, const Tiling& tiling) {
    return tiling_fits(spec, Isa::amx_int8, tiling);
  };
  EXPECT_TRUE(fits(u4, {.mr = 32, .nr = 2, .panel = true}));
  EXPECT_FALSE(fits(u4, {.mr = 32, .nr = 3, .panel = true}));
  EXPECT_FALSE(fits(u4, {.mr = 16, .nr = 0, .panel = true}));
  EXPECT_FALSE(fits(u4, {.mr = 32, .nr = 2, .k_unroll = 0, .panel = true}));
  EXPECT_FALSE(fits(u4, {.mr = 48, .nr = 1, .panel = true}));
  EXPECT_FALSE(fits(u4, {.mr = 32, .nr = 2}));                 // nibbles are no bytes
  EXPECT_TRUE(fits(u8, {.mr = 32, .nr = 2}));                  // read where they are
  EXPECT_FALSE(fits(u8, {.mr = 32, .nr = 2, .panel = true}));  // one name a kernel
  GemmSpec bf16 = u8;
  bf16.act = ActType::bf16;
  EXPECT_TRUE(fits(bf16, {.mr = 32, .nr = 2, .panel = true}));
  EXPECT_FALSE(fits(bf16, {.mr = 32, .nr = 2}));  // bytes are no bf16
  GemmSpec nested = u4;
  nested.weight.scale = ScaleType::q8;
  nested.weight.group = 32;
  EXPECT_TRUE(fits(nested, {.mr = 32, .nr = 2, .panel = true}));
  nested.weight.group = 16;
  EXPECT_FALSE(runs_on_tiles(nested, Isa::amx_int8, {.mr = 32, .nr = 2, .panel = true}));
  EXPECT_TRUE(fits(shifted, {.mr = 32, .nr = 2, .panel = true}));
  EXPECT_FALSE(fits(shifted, {.mr = 32, .nr = 2}));
  EXPECT_THROW(generate_gemm(u4, Isa::amx_int8, {.mr = 16, .nr = 3, .panel = true}), Error);
}

// Steps, shifts and what the panel holds of a column block.
TEST(AmxTiling, PlansStepsAsDrawn) {
  const auto plan = [](int64_t group, int64_t k) {
    return plan_amx({.weight = {.group = group}, .n = 16, .k = k});
  };
  EXPECT_EQ(plan(128, 4096).step, 64);
  EXPECT_EQ(plan(128, 4096).block_bytes, 4096 * 16);
  EXPECT_FALSE(plan(128, 4096).has_shifts());
  EXPECT_EQ(plan(32, 4096).step, 32);
  EXPECT_FALSE(plan(32, 4096).has_shifts());
  const AmxPlan odd = plan(88, 2 * 88 + 30);  // kpad = 208: a last group of 32
  EXPECT_EQ(odd.step, 64);
  EXPECT_EQ(odd.steps(88), 2);
  EXPECT_EQ(odd.shift(88), 40);
  EXPECT_EQ(odd.last_group, 32);
  EXPECT_EQ(odd.shift(32), 32);
  EXPECT_EQ(odd.block_bytes, (2 + 2 + 1) * 64 * 16);
  const AmxPlan bf16 =
      plan_amx({.weight = {.group = 88}, .act = ActType::bf16, .n = 16, .k = 2 * 88 + 30});
  EXPECT_EQ(bf16.step, 32);
  EXPECT_EQ(bf16.steps(88), 3);
  EXPECT_EQ(bf16.shift(88), 8);
  EXPECT_EQ(bf16.shift(32), 0);
  EXPECT_EQ(bf16.block_bytes, (3 + 3 + 1) * 32 * 16 * 2);
  const AmxPlan tiny = plan(1024, 5);
  EXPECT_EQ(tiny.step, 8);
  EXPECT_EQ(tiny.groups, 1);
  EXPECT_FALSE(tiny.has_shifts());
}

}  // namespace
}  // namespace nibble::test
