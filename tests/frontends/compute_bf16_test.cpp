// Whole models that compute in bf16: near fp32, nearer than int8, and with the same bits on every
// instruction set (tiles by the AMX emulator where there are none), thread count and chunk length.
#include <gtest/gtest.h>

#include <cmath>
#include <string>
#include <utility>
#include <vector>

#include "jit/isa.h"
#include "tests/support/amx_emulator.h"
#include "tests/support/fused_model.h"
#include "tests/support/zoo.h"

namespace nibble {
namespace {

using test::FusedOptions;

FusedOptions options_of(const std::string& weights, bool asym, graph::Compute compute) {
  FusedOptions options;
  options.weights = weights;
  options.asym = asym;
  options.compute = compute;
  options.isa = jit::selected_isa();
  return options;
}

// The largest difference of many hangs on which sums happen to be rounded up; this does not.
double rms_difference(const std::vector<float>& a, const std::vector<float>& b) {
  double sum = 0;
  for (size_t i = 0; i < a.size(); ++i) sum += std::pow(double{a[i]} - double{b[i]}, 2);
  return std::sqrt(sum / static_cast<double>(a.size()));
}

class ComputeBf16 : public testing::TestWithParam<std::string> {};

TEST_P(ComputeBf16, IsNearFp32) {
  NIBBLE_NEED_MODELS();
  const std::vector<int32_t> ids = test::zoo_reference(GetParam()).ids(0);
  for (const auto& [weights, asym] : {std::pair{"int4", false}, {"int4", true}, {"int8", false}}) {
    FusedOptions options = options_of(weights, asym, graph::Compute::f32);
    const graph::Graph graph = test::fused_graph(test::zoo_folder(GetParam()), options, nullptr);
    const auto logits = [&](graph::Compute compute) {
      options.compute = compute;
      return test::all_logits(*test::session_of(graph, options), ids);
    };
    const auto exact = logits(graph::Compute::f32);
    const double bf16 = rms_difference(logits(graph::Compute::bf16), exact);
    const double int8 = rms_difference(logits(graph::Compute::int8), exact);
    EXPECT_GT(bf16, 0) << weights;  // it is another arithmetic
    EXPECT_LE(bf16, 4e-3 * test::max_abs(exact)) << weights;
    EXPECT_LT(bf16, 0.5 * int8) << weights;
  }
}

TEST_P(ComputeBf16, SameBitsEverywhere) {
  NIBBLE_NEED_MODELS();
  const std::vector<int32_t> ids = test::zoo_reference(GetParam()).ids(0);
  ASSERT_GT(ids.size(), 9U);  // so many rows are multiplied by tiles
  FusedOptions options = options_of("int4", true, graph::Compute::bf16);
  options.kv = jit::KvType::int16;
  const graph::Graph graph = test::fused_graph(test::zoo_folder(GetParam()), options, nullptr);
  options.isa = jit::Isa::avx2;
  options.threads = 1;
  const auto expected = test::all_logits(*test::session_of(graph, options), ids);
  const auto expect_same = [&](jit::Isa isa, int threads, int64_t chunk) {
    options.isa = isa;
    options.threads = threads;
    options.prefill_chunk = chunk;
    EXPECT_TRUE(test::all_logits(*test::session_of(graph, options), ids) == expected)
        << jit::isa_name(isa) << ", " << threads << " threads, chunks of " << chunk;
  };
  for (const jit::Isa isa : jit::supported_isas()) {
    for (const auto& [threads, chunk] : {std::pair<int, int64_t>{1, 7}, {2, 512}, {2, 1}}) {
      expect_same(isa, threads, chunk);
    }
  }
  if (!jit::supports(jit::Isa::avx512_vnni) || !jit::cpu().avx512_vbmi) {
    GTEST_SKIP() << "no AVX512-VNNI and VBMI around the tiles";
  }
  const test::AmxEmulator emulator;
  const uint64_t before = test::AmxEmulator::executed();
  expect_same(jit::Isa::amx_int8, 1, 512);
  EXPECT_TRUE(jit::cpu().amx_tile || test::AmxEmulator::executed() > before);
}

INSTANTIATE_TEST_SUITE_P(Families, ComputeBf16, testing::Values("llama", "falcon-7b", "gpt2"),
                         [](const auto& info) {
                           std::string name = info.param;
                           for (char& c : name) c = c == '-' ? '_' : c;
                           return name;
                         });

}  // namespace
}  // namespace nibble
