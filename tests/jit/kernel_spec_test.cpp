#include "jit/kernel_spec.h"

#include <gtest/gtest.h>

#include <random>
#include <string>
#include <unordered_set>

#include "jit/error.h"
#include "tests/jit/spec_parts.h"

namespace nibble::jit {
namespace {

using test::kActivations;

TEST(KernelName, Examples) {
  KernelKey key{.spec = GemmSpec{.weight = {.group = 128}, .n = 4096, .k = 4096},
                .isa = Isa::avx512_vnni,
                .tiling = {.mr = 1, .nr = 4, .k_unroll = 8}};
  EXPECT_EQ(name(key), "gemm_u4s8f32_g128_n4096_k4096_avx512_vnni_1x64x8");
  key = {.spec = GemmSpec{.weight = {.group = 32, .asym = true, .scale = ScaleType::f32},
                          .n = 64,
                          .k = 128,
                          .bias = true,
                          .residual = true,
                          .activation = Activation::silu,
                          .gate = true},
         .isa = Isa::avx2,
         .tiling = {.mr = 1, .nr = 1, .k_unroll = 8, .panel = true, .prefetch_l1 = 1024}};
  EXPECT_EQ(name(key), "gemm_u4s8f32_g32_asym_sf32_n64_k128_bias_res_silu_gate_avx2_1x16x8pf1024");
  key = {.spec = GemmSpec{.weight = {.type = WeightType::f32}, .act = ActType::f32, .n = 8, .k = 9},
         .isa = Isa::avx512};
  EXPECT_EQ(name(key), "gemm_f32f32f32_n8_k9_avx512_1x16x8");
  key = {.spec = GemmSpec{.act = ActType::bf16, .n = 8, .k = 9}, .isa = Isa::amx_int8};
  EXPECT_EQ(name(key), "gemm_u4bf16f32_g32_n8_k9_amx_int8_1x16x8");
  key = {.spec = RowSpec{.op = RowOp::quantize, .n = 96, .bf16 = true}, .isa = Isa::avx2};
  EXPECT_EQ(name(key), "row_quantize_n96_bf16_avx2");
  key = {.spec = RowSpec{.op = RowOp::rms_norm, .n = 4096, .quantize = true, .group = 32},
         .isa = Isa::avx_vnni};
  EXPECT_EQ(name(key), "row_rms_norm_n4096_q_g32_avx_vnni");
  key = {.spec = AttentionSpec{.head_dim = 128, .kv = KvType::f16, .rows = 4, .softcap = true},
         .isa = Isa::avx512};
  EXPECT_EQ(name(key), "attention_d128_f16_r4_softcap_avx512");
}

KernelKey random_key(std::mt19937& random) {
  const auto flip = [&] { return random() % 2 == 1; };
  KernelKey key;
  key.isa = static_cast<Isa>(random() % 5);
  const Activation activation = kActivations[random() % 6];
  switch (random() % 3) {
    case 0:
      key.spec = GemmSpec{.weight = {.type = static_cast<WeightType>(random() % 4),
                                     .group = static_cast<int64_t>(random() % 5 * 16),
                                     .asym = flip(),
                                     .scale = static_cast<ScaleType>(random() % 3)},
                          .act = static_cast<ActType>(random() % 3),
                          .n = static_cast<int64_t>(random() % 50),
                          .k = static_cast<int64_t>(random()),
                          .bias = flip(),
                          .residual = flip(),
                          .activation = activation,
                          .gate = flip()};
      if (auto& weight = std::get<GemmSpec>(key.spec).weight; flip()) {
        weight.asym = weight.minimum = true;
      }
      key.tiling = {.mr = static_cast<int>(random() % 16),
                    .nr = static_cast<int>(random() % 16),
                    .k_unroll = static_cast<int>(random() % 16),
                    .panel = flip(),
                    .apart = flip(),
                    .prefetch_l1 = static_cast<int>(random() % 3 * 512),
                    .prefetch_l2 = static_cast<int>(random() % 3 * 2048)};
      break;
    case 1:
      key.spec = RowSpec{.op = static_cast<RowOp>(random() % 8),
                         .n = static_cast<int64_t>(random() % 100),
                         .residual = flip(),
                         .bias = flip(),
                         .quantize = flip(),
                         .bf16 = flip(),
                         .f32_out = flip(),
                         .group = static_cast<int64_t>(random() % 3 * 8),
                         .zero = static_cast<int32_t>(random() % 12) - 1,
                         .rotary = static_cast<int64_t>(random() % 4),
                         .interleaved = flip(),
                         .activation = activation};
      break;
    default:
      key.spec = AttentionSpec{.head_dim = static_cast<int64_t>(random() % 300),
                               .kv = static_cast<KvType>(random() % kKvTypes),
                               .rows = static_cast<int>(random() % 9),
                               .alibi = flip(),
                               .softcap = flip()};
  }
  return key;
}

TEST(KernelName, ParseInvertsNameForAnyKey) {
  std::mt19937 random(1);
  std::unordered_set<KernelKey, KernelKeyHash> keys;
  std::unordered_set<std::string> names;
  for (int i = 0; i < 20000; ++i) {
    const KernelKey key = random_key(random);
    const std::string text = name(key);
    const auto parsed = parse_kernel_name(text);
    ASSERT_TRUE(parsed) << text;
    ASSERT_EQ(*parsed, key) << text;
    keys.insert(key);
    names.insert(text);
  }
  EXPECT_EQ(keys.size(), names.size());  // different keys, different names
}

TEST(KernelName, OtherTextIsNoName) {
  const std::string good = "gemm_u4s8f32_g128_n4096_k4096_avx512_vnni_1x64x8";
  ASSERT_TRUE(parse_kernel_name(good));
  for (size_t cut = 0; cut < good.size(); ++cut) {
    EXPECT_FALSE(parse_kernel_name(good.substr(0, cut))) << good.substr(0, cut);
  }
  for (const char* bad :
       {"gemm_u4s8f32_g128_n4096_k4096_avx512_vnni_1x64x8x",
        "gemm_u4s8f32_g128_n4096_k4096_avx3_1x64x8", "gemm_u4s8f32_g0128_n4096_k4096_avx2_1x64x8",
        "gemm_u4s8f32_g128_n4096_k4096_avx2_1x65x8", "gemm_u4s8f32_n4096_k4096_avx2_1x64x8",
        "gemm_u4s8f32_g1_n99999999999999999999_k1_avx2_1x16x8",
        "gemm_u4s8f32_g128_n4096_k4096_avx2_1x64x8f0", "row_rms_norm_avx2", "row_n4_avx2",
        "row_rms_norm_n4096_avx2_1x16x8", "attention_d64_r4_avx2", "attention_d64_f32_r4",
        "hello"}) {
    EXPECT_FALSE(parse_kernel_name(bad)) << bad;
  }
}

TEST(KernelName, ActivationsRoundTrip) {
  for (const Activation activation : kActivations) {
    EXPECT_EQ(parse_activation(activation_name(activation)), activation);
  }
  EXPECT_FALSE(parse_activation("swish"));
}

TEST(GemmSpec, ImpossibleSpecsAreRefused) {
  const GemmSpec good{.n = 64, .k = 64};
  check_gemm_spec(good);
  GemmSpec spec = good;
  spec.weight.type = WeightType::f32;
  EXPECT_THROW(check_gemm_spec(spec), Error);  // s8 activations
  spec.act = ActType::bf16;
  EXPECT_THROW(check_gemm_spec(spec), Error);
  spec.act = ActType::f32;
  check_gemm_spec(spec);
  spec = good;
  spec.gate = true;
  check_gemm_spec(spec);
  spec.n = 48;
  EXPECT_THROW(check_gemm_spec(spec), Error);
  spec = good;
  spec.n = 0;
  EXPECT_THROW(check_gemm_spec(spec), Error);
  spec = good;
  spec.weight.group = 20;
  EXPECT_THROW(check_gemm_spec(spec), Error);
}

TEST(GemmSpec, SumsThatOverflowInt32AreRefused) {
  GemmSpec spec{.weight = {.type = WeightType::u8, .group = 0, .asym = true}, .n = 16, .k = 65792};
  check_gemm_spec(spec);  // 65792 * 255 * 128 < 2^31
  spec.k = 65800;
  EXPECT_THROW(check_gemm_spec(spec), Error);
  spec.weight.group = 128;
  check_gemm_spec(spec);
}

TEST(TilingName, IsTheEndOfAKernelsName) {
  const Tiling tiling{.mr = 6, .nr = 4, .k_unroll = 16, .panel = true, .prefetch_l1 = 2048};
  EXPECT_EQ(name(tiling), "6x64x16pf2048");
  EXPECT_EQ(parse_tiling_name("6x64x16pf2048"), tiling);
  const Tiling two{
      .mr = 1, .nr = 2, .k_unroll = 16, .apart = true, .prefetch_l1 = 3072, .prefetch_l2 = 6144};
  EXPECT_EQ(name(two), "1x32x16af3072s6144");
  EXPECT_EQ(parse_tiling_name("1x32x16af3072s6144"), two);
  EXPECT_EQ(parse_tiling_name("8x16x8s8192")->prefetch_l2, 8192);
  EXPECT_EQ(parse_tiling_name("1x16x8"), Tiling{});
  for (const char* text : {"", "1x16", "1x16x", "01x16x8", "1x17x8", "1x16x8f0", "1x16x8q", "x16x8",
                           "1x16x8 ", "_1x16x8", "1x16x8pf", "1x16x8s", "1x16x8s1024f1024"}) {
    EXPECT_EQ(parse_tiling_name(text), std::nullopt) << text;
  }
}

}  // namespace
}  // namespace nibble::jit
