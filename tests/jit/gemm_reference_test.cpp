// The reference against the definition, computed another way: dequantized weights in double.
#include <gtest/gtest.h>

#include <cmath>
#include <random>
#include <string>
#include <vector>

#include "jit/float16.h"
#include "jit/gemm.h"
#include "jit/packed_layout.h"
#include "tests/support/super_numbers.h"

namespace nibble::jit {
namespace {

constexpr int64_t kReferenceRows = 3;

// One random problem, its dequantized operands and room for the result.
struct Problem {
  explicit Problem(const GemmSpec& s) : spec(s), shape(packed_shape(s.weight, s.n, s.k)) {
    make_weights();
    make_activations();
    columns = s.gate ? s.n / 2 : s.n;
    bias = floats(s.n);
    residual = floats(kReferenceRows * columns);
    c.assign(kReferenceRows * columns, NAN);
  }

  std::vector<float> floats(int64_t count) {
    std::uniform_real_distribution<float> uniform(-1, 1);
    std::vector<float> out(count);
    for (float& value : out) value = uniform(random);
    return out;
  }

  void make_weights() {
    data.resize(shape.data_bytes);
    scales.resize(shape.scale_bytes);
    zeros.resize(shape.zero_bytes);
    for (int64_t nb = 0; nb < shape.nblocks; ++nb) {
      if (spec.weight.type == WeightType::f32) {
        pack_block_f32(spec.n, spec.k, nb, floats(16 * spec.k).data(), data.data());
        continue;
      }
      const uint32_t levels = top_value(spec.weight.type) + 1U;
      std::vector<uint8_t> q(16 * shape.kpad);
      std::vector<uint8_t> zero(16 * shape.groups);
      for (uint8_t& v : q) v = static_cast<uint8_t>(random() % levels);
      for (uint8_t& v : zero) v = static_cast<uint8_t>(random() % levels);
      std::vector<float> scale = floats(16 * shape.groups);
      std::vector<float> minimum = floats(16 * shape.groups);
      for (float& v : scale) v = round_to(spec.weight.scale, v * 0.1F);
      for (float& v : minimum) v = round_to(spec.weight.scale, v);
      test::SuperNumbers super_scales, super_minimums;
      if (spec.weight.scale == ScaleType::q8) {
        super_scales = test::random_super_numbers(random, shape, 10);
        super_minimums = test::random_super_numbers(random, shape, 7);
        scale = super_scales.products;
        minimum = super_minimums.products;
      }
      pack_block(spec.weight, spec.n, spec.k, nb, q.data(), scale.data(), zero.data(), data.data(),
                 scales.data(), zeros.data(), minimum.data(),
                 {super_scales.above.data(), super_minimums.above.data()});
    }
  }

  void make_activations() {
    a_f32 = floats(kReferenceRows * spec.k);
    if (spec.act == ActType::f32) return;
    if (spec.act == ActType::bf16) return make_bf16();
    a_s8.assign(kReferenceRows * shape.kpad, 0);
    const int zero = spec.weight.asym ? 1 : middle_value(spec.weight.type);
    for (int64_t row = 0; row < kReferenceRows; ++row) {
      std::vector<int32_t> sums(shape.groups);
      for (int64_t g = 0; g < shape.act_groups; ++g) {
        a_scale.push_back(0.01F + static_cast<float>(random() % 100) * 0.001F);
      }
      for (int64_t kk = 0; kk < spec.k; ++kk) {
        const auto q = static_cast<int8_t>(static_cast<int>(random() % 255) - 127);
        a_s8[row * shape.kpad + kk] = q;
        sums[kk / shape.group] += q;
        a_f32[row * spec.k + kk] =
            static_cast<float>(q) * a_scale[row * shape.act_groups + kk / shape.act_group];
      }
      a_sum.resize((row + 1) * shape.act_sum_bytes / 4);
      for (int64_t g = 0; g < shape.groups; ++g) {
        store_activation_sum(shape, a_sum.data() + row * shape.act_sum_bytes / 4, g,
                             -zero * sums[g]);
      }
    }
  }

  void make_bf16() {
    a_bf16.assign(kReferenceRows * shape.kpad, 0);
    for (int64_t row = 0; row < kReferenceRows; ++row) {
      for (int64_t kk = 0; kk < spec.k; ++kk) {
        float& x = a_f32[row * spec.k + kk];
        a_bf16[row * shape.kpad + kk] = bf16_activation(x);
        x = bf16_to_f32(a_bf16[row * shape.kpad + kk]);
      }
    }
  }

  void run(int64_t nb_begin, int64_t nb_end) {
    GemmArgs args{.a_stride = spec.act == ActType::f32 ? spec.k : shape.kpad,
                  .a_scale = a_scale.data(),
                  .a_sum = a_sum.data(),
                  .w = data.data(),
                  .w_scale = scales.data(),
                  .w_zero = zeros.data(),
                  .bias = bias.data(),
                  .residual = residual.data(),
                  .residual_stride = columns,
                  .c = c.data(),
                  .c_stride = columns,
                  .c_columns = columns,
                  .m = kReferenceRows,
                  .nb_begin = nb_begin,
                  .nb_end = nb_end};
    args.a = spec.act == ActType::s8 ? static_cast<const void*>(a_s8.data()) : a_f32.data();
    if (spec.act == ActType::bf16) args.a = a_bf16.data();
    gemm_reference(spec, args);
  }

  double dot(int64_t row, int64_t column) const {
    std::vector<float> w(spec.k);
    unpack_column({spec.weight, spec.n, spec.k, data.data(), scales.data(), zeros.data()}, column,
                  w);
    double sum = spec.bias ? bias[column] : 0.0;
    for (int64_t kk = 0; kk < spec.k; ++kk) sum += double{w[kk]} * a_f32[row * spec.k + kk];
    return sum;
  }

  double expected(int64_t row, int64_t column) const {
    const int64_t gate = spec.gate ? column / 16 * 32 + column % 16 : column;
    double out = dot(row, gate);
    switch (spec.activation) {
      case Activation::none:
        break;
      case Activation::silu:
        out = out / (1 + std::exp(-out));
        break;
      case Activation::gelu:
        out = 0.5 * out * (1 + std::erf(out / std::sqrt(2.0)));
        break;
      case Activation::gelu_tanh:
        out = 0.5 * out * (1 + std::tanh(std::sqrt(2 / M_PI) * (out + 0.044715 * out * out * out)));
        break;
      case Activation::quick_gelu:
        out = out / (1 + std::exp(-1.702 * out));
        break;
      case Activation::relu:
        out = std::max(out, 0.0);
        break;
      case Activation::relu2:
        out = std::max(out, 0.0) * std::max(out, 0.0);
        break;
    }
    if (spec.gate) out *= dot(row, gate + 16);
    return out + (spec.residual ? residual[row * columns + column] : 0.0F);
  }

  GemmSpec spec;
  PackedShape shape;
  std::mt19937 random{5};
  int64_t columns = 0;
  std::vector<uint8_t> data, scales, zeros;
  std::vector<float> a_f32, a_scale, bias, residual, c;
  std::vector<int8_t> a_s8;
  std::vector<uint16_t> a_bf16;
  std::vector<int32_t> a_sum;
};

void expect_close(const GemmSpec& spec) {
  SCOPED_TRACE(name(spec));
  Problem problem(spec);
  problem.run(0, problem.shape.nblocks);
  for (int64_t row = 0; row < kReferenceRows; ++row) {
    for (int64_t column = 0; column < problem.columns; ++column) {
      const double expected = problem.expected(row, column);
      // Products with q up to 255 and minimums cancel, where zero points are taken off first.
      const double tolerance = spec.weight.minimum ? 1e-4 : 2e-5;
      ASSERT_NEAR(problem.c[row * problem.columns + column], expected,
                  tolerance * (1 + std::fabs(expected)))
          << row << " " << column;
    }
  }
}

TEST(GemmReference, EveryFormat) {
  for (const WeightType type : {WeightType::u4, WeightType::u6, WeightType::u8}) {
    for (const ActType act : {ActType::s8, ActType::f32, ActType::bf16}) {
      if (type == WeightType::u6 && act == ActType::bf16) continue;
      for (const int64_t group : {16, 32, 128, 0}) {
        for (const bool asym : {false, true}) {
          for (const ScaleType scale : {ScaleType::f16, ScaleType::f32, ScaleType::bf16}) {
            WeightFormat weight{type, group, asym, scale};
            expect_close({.weight = weight, .act = act, .n = 37, .k = 77});
            if (!asym || act == ActType::bf16) continue;
            weight.minimum = true;
            expect_close({.weight = weight, .act = act, .n = 37, .k = 77});
          }
        }
      }
    }
  }
  expect_close({.weight = {.type = WeightType::f32}, .act = ActType::f32, .n = 37, .k = 77});
}

TEST(GemmReference, SuperBlocks) {
  for (const WeightType type : {WeightType::u4, WeightType::u6, WeightType::u8}) {
    for (const int64_t group : {16, 32, 128}) {
      for (const bool minimum : {false, true}) {
        for (const ActType act : {ActType::s8, ActType::f32}) {
          const WeightFormat weight{type, group, minimum, ScaleType::q8, minimum};
          expect_close({.weight = weight, .act = act, .n = 37, .k = 512});
        }
      }
    }
  }
}

TEST(GemmReference, EveryEpilogue) {
  for (const Activation activation :
       {Activation::none, Activation::silu, Activation::gelu, Activation::gelu_tanh,
        Activation::quick_gelu, Activation::relu, Activation::relu2}) {
    for (const bool gate : {false, true}) {
      for (const bool extras : {false, true}) {
        GemmSpec spec{.weight = {.group = 32}, .act = ActType::f32, .n = 64, .k = 40};
        spec.bias = spec.residual = extras;
        spec.activation = activation;
        spec.gate = gate;
        expect_close(spec);
      }
    }
  }
}

// The order of operations of kernel_spec.h, on numbers where another order gives another result.
TEST(GemmReference, GroupsAreAddedInOrder) {
  constexpr int64_t kGroups = 3;
  std::vector<uint8_t> q(384, 9);  // value 1 everywhere
  std::vector<float> scale(16 * kGroups, 1.0F);
  scale[0] = 0x1p24F;
  scale[2] = -0x1p24F;
  const WeightFormat format{.group = 8, .scale = ScaleType::f32};
  std::vector<uint8_t> data(packed_shape(format, 16, 24).data_bytes);
  std::vector<float> scales(16 * kGroups);
  pack_block(format, 16, 24, 0, q.data(), scale.data(), nullptr, data.data(), scales.data(),
             nullptr);
  std::vector<int8_t> a(24, 0);
  a[0] = a[8] = a[16] = 1;
  const std::vector<float> a_scale(kGroups, 1.0F);
  const std::vector<int32_t> a_sum(kGroups, -8);
  float c = NAN;
  const GemmArgs args{.a = a.data(),
                      .a_stride = 24,
                      .a_scale = a_scale.data(),
                      .a_sum = a_sum.data(),
                      .w = data.data(),
                      .w_scale = scales.data(),
                      .c = &c,
                      .c_stride = 1,
                      .c_columns = 1,
                      .m = 1,
                      .nb_begin = 0,
                      .nb_end = 1};
  gemm_reference({.weight = format, .n = 16, .k = 24}, args);
  EXPECT_EQ(c, 0.0F);  // (2^24 + 1) - 2^24: the one is lost
}

TEST(GemmReference, BlockRangesMakeUpTheWhole) {
  GemmSpec spec{.weight = {.group = 32}, .n = 96, .k = 64, .activation = Activation::silu};
  for (const bool gate : {false, true}) {
    spec.gate = gate;
    Problem whole(spec);
    whole.run(0, 6);
    Problem parts(spec);
    parts.run(0, 2);
    EXPECT_TRUE(std::isnan(parts.c[gate ? 16 : 32]));  // nothing past its range
    parts.run(4, 6);
    parts.run(2, 4);
    EXPECT_EQ(whole.c, parts.c);
  }
}

}  // namespace
}  // namespace nibble::jit
