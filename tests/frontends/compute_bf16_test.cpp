// Whole models that compute in bf16: near fp32, nearer than int8, and with the same bits on every
// instruction set (tiles by the AMX emulator where there are none), thread count and chunk length.
#include <gtest/gtest.h>

#include <cmath>
#include <span>
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

// On every instruction set, thread count and length of a pass.
void expect_same_bits(const graph::Graph& graph, FusedOptions options,
                      const std::vector<int32_t>& ids) {
  options.isa = jit::Isa::avx2;
  options.threads = 1;
  const auto expected = test::all_logits(*test::session_of(graph, options), ids);
  const auto expect_same = [&](jit::Isa isa, int threads, int64_t chunk) {
    options.isa = isa;
    options.threads = threads;
    options.prefill_chunk = chunk;
    EXPECT_TRUE(test::all_logits(*test::session_of(graph, options), ids) == expected)
        << jit::isa_name(isa) << ", " << jit::kv_type_name(options.kv) << " cache, " << threads
        << " threads, passes of " << chunk;
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
  expect_same(jit::Isa::amx_int8, 2, 11);
}

class ComputeBf16 : public testing::TestWithParam<std::string> {};

TEST_P(ComputeBf16, IsNearFp32) {
  NIBBLE_NEED_MODELS();
  const std::vector<int32_t> ids = test::zoo_reference(GetParam()).ids(0);
  for (const auto& [weights, asym] : {std::pair{"int4", false}, {"int4", true}, {"int8", false}}) {
    FusedOptions options = options_of(weights, asym, graph::Compute::f32);
    options.kv = jit::KvType::f32;
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
    // Attention in bf16 as well: another arithmetic again, and no worse than twice as far.
    options.kv = jit::KvType::bf16;
    const double all_bf16 = rms_difference(logits(graph::Compute::bf16), exact);
    EXPECT_NE(all_bf16, bf16) << weights;
    EXPECT_LE(all_bf16, 8e-3 * test::max_abs(exact)) << weights;
  }
}

TEST_P(ComputeBf16, SameBitsEverywhere) {
  NIBBLE_NEED_MODELS();
  const std::vector<int32_t> ids = test::zoo_reference(GetParam()).ids(0);
  ASSERT_GT(ids.size(), 9U);  // so many rows are multiplied by tiles
  FusedOptions options = options_of("int4", true, graph::Compute::bf16);
  const graph::Graph graph = test::fused_graph(test::zoo_folder(GetParam()), options, nullptr);
  for (const jit::KvType kv : {jit::KvType::int16, jit::KvType::bf16}) {
    options.kv = kv;
    expect_same_bits(graph, options, ids);
  }
}

// What only models with softcaps, windows and ALiBi have: their attention, where all is bf16.
class AttentionBf16 : public testing::TestWithParam<std::string> {};

TEST_P(AttentionBf16, SameBitsEverywhere) {
  NIBBLE_NEED_MODELS();
  FusedOptions options = options_of("int8", false, graph::Compute::bf16);
  options.kv = jit::KvType::bf16;
  const graph::Graph graph = test::fused_graph(test::zoo_folder(GetParam()), options, nullptr);
  expect_same_bits(graph, options, test::zoo_reference(GetParam()).ids(0));
}

INSTANTIATE_TEST_SUITE_P(Families, ComputeBf16, testing::Values("llama", "falcon-7b", "gpt2"),
                         test::zoo_test_name);
INSTANTIATE_TEST_SUITE_P(Families, AttentionBf16,
                         testing::Values("gemma2", "mistral-window", "mpt", "phi-2"),
                         test::zoo_test_name);

// The bundled model, GQA, over two pages of the cache.
class TaleBf16 : public testing::Test {
 protected:
  void SetUp() override {
    options_ = options_of("int4", false, graph::Compute::bf16);
    options_.kv = jit::KvType::bf16;
    graph_ = test::fused_graph(NIBBLE_SOURCE_DIR "/tools/demo/tale", options_, nullptr);
    for (int32_t i = 0; i < 270; ++i) ids_.push_back((i * i + 11 * i + 5) % 4096);
  }
  // The logits of the first ids, in passes of these lengths.
  std::vector<float> logits(const std::vector<size_t>& passes) {
    const auto session = test::session_of(graph_, options_);
    const auto width = static_cast<size_t>(session->vocab_size());
    std::vector<float> out;
    std::span<const int32_t> ids(ids_);
    for (const size_t rows : passes) {
      out.resize(out.size() + rows * width);
      session->forward_all(ids.first(rows), std::span(out).last(rows * width));
      ids = ids.subspan(rows);
    }
    return out;
  }
  FusedOptions options_;
  graph::Graph graph_;
  std::vector<int32_t> ids_;
};

TEST_F(TaleBf16, IsNearFp32) {
  const std::vector<float> found = logits({ids_.size()});
  options_.compute = graph::Compute::f32;
  options_.kv = jit::KvType::f32;
  const std::vector<float> exact = logits({ids_.size()});
  EXPECT_LE(rms_difference(found, exact), 4e-3 * test::max_abs(exact));
}

TEST_F(TaleBf16, ATokensLogitsAreThoseOfAnyPass) {
  options_.threads = 1;
  std::vector<float> expected = logits({ids_.size()});
  options_.threads = 3;
  EXPECT_TRUE(logits({13, 1, 1, 4, 32, 8, 9, 150, 31, 16, 5}) == expected);
  EXPECT_TRUE(logits(std::vector<size_t>(ids_.size(), 1)) == expected);
  if (!jit::supports(jit::Isa::avx512_vnni) || !jit::cpu().avx512_vbmi) {
    GTEST_SKIP() << "no AVX512-VNNI and VBMI around the tiles";
  }
  const test::AmxEmulator emulator;
  options_.isa = jit::Isa::amx_int8;
  const std::vector<float> found = logits({20, 1, 8, 11});
  expected.resize(found.size());
  EXPECT_TRUE(found == expected);
}

}  // namespace
}  // namespace nibble
