// Every row kernel against its plain C++ reference, bit for bit, with guard pages around every
// buffer; and the reference against definitions in double precision.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <limits>
#include <numeric>
#include <random>

#include "jit/isa.h"
#include "jit/row_generator.h"
#include "jit/row_kernels.h"
#include "tests/support/generated_code.h"
#include "tests/support/guarded_buffer.h"
#include "tests/support/not_finite.h"

namespace nibble::jit {
namespace {

using test::GeneratedCode;
using test::GuardedBuffer;
using test::same_bits;

constexpr int64_t kRows = 3;
using test::kInfinity;
using test::kNaN;

size_t count(int64_t n) { return static_cast<size_t>(n); }

enum class Fill { normal, zeros, huge, tiny, special };

void fill(std::span<float> out, Fill how, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.1F, 2.0F);
  const float specials[] = {0.0F,   -0.0F, 1e30F, -1e30F, 1e-40F,    -1e-42F,    88.5F,
                            -200.F, 200.F, 0.5F,  -0.5F,  kInfinity, -kInfinity, kNaN};
  for (float& x : out) {
    x = normal(random);
    if (how == Fill::zeros) x = 0;
    if (how == Fill::huge) x *= 1e18F;
    if (how == Fill::tiny) x *= 1e-38F;
    if (how == Fill::special && random() % 4 == 0) x = specials[random() % std::size(specials)];
  }
}

// All the operands that any row kernel has, each ending at a guard page.
struct Operands {
  Operands(const RowSpec& spec, int64_t n, Fill how, uint32_t seed)
      : width(spec.op == RowOp::rope ? spec.n * 2 : n),
        groups(spec.group == 0 ? 1 : (n + spec.group - 1) / spec.group),
        x(count(kRows * width)),
        x2(count(kRows * width)),
        x3(count(kRows * width)),
        weight(count(width)),
        bias(count(width)),
        y(count(kRows * width), 77.0F),
        sum(count(kRows * width), 77.0F),
        q(count(kRows * ((width + 7) / 8 * 8) * (spec.bf16 ? 2 : 1)), 99),
        q_scale(count(kRows * groups), 77.0F),
        q_sum(count(kRows * groups), 77) {
    fill(x.span(), how, seed);
    fill(x2.span(), how == Fill::special ? Fill::normal : how, seed + 1);
    fill(x3.span(), Fill::normal, seed + 2);
    fill(weight.span(), Fill::normal, seed + 3);
    fill(bias.span(), Fill::normal, seed + 4);
    if (spec.op == RowOp::rope) {
      cos_stride = spec.rotary / 2;
      fill(y.span(), how, seed + 5);
    }
    args.x = x.data();
    args.x_stride = args.y_stride = args.sum_stride = width;
    args.x2_stride = spec.op == RowOp::rope ? cos_stride : width;
    // rope's cos and sin are shorter than the buffers; let them end at the guard page.
    const int64_t used = kRows * args.x2_stride;
    args.x2 = x2.end() - used;
    args.x3 = x3.end() - used;
    args.weight = weight.data();
    args.bias = bias.data();
    args.eps = 1e-5F;
    args.n = n;
    args.y = y.data();
    args.sum = sum.data();
    args.q = q.data();
    args.q_stride = (width + 7) / 8 * 8 * (spec.bf16 ? 2 : 1);
    args.q_scale = q_scale.data();
    args.q_sum = q_sum.data();
    args.q_groups = args.q_sum_words = groups;
    args.rows = kRows;
    args.heads = 2;
    args.scale = 0.37F;
    args.cap = 1.5F;
  }
  int64_t width, groups, cos_stride = 0;
  GuardedBuffer<float> x, x2, x3, weight, bias, y, sum;
  GuardedBuffer<int8_t> q;
  GuardedBuffer<float> q_scale;
  GuardedBuffer<int32_t> q_sum;
  RowArgs args;
};

void expect_same(const Operands& found, const Operands& expected, const std::string& what) {
  EXPECT_TRUE(same_bits(found.y.span(), expected.y.span())) << "y of " << what;
  EXPECT_TRUE(same_bits(found.sum.span(), expected.sum.span())) << "sum of " << what;
  EXPECT_TRUE(same_bits(found.q_scale.span(), expected.q_scale.span())) << "q_scale of " << what;
  EXPECT_TRUE(std::ranges::equal(found.q, expected.q)) << "q of " << what;
  EXPECT_TRUE(std::ranges::equal(found.q_sum, expected.q_sum)) << "q_sum of " << what;
}

// One spec over all fills; `n` is the length for softmax too.
void check(const RowSpec& spec, int64_t n, Isa isa) {
  const GeneratedCode<RowFn> kernel(generate_row(spec, isa));
  for (Fill how : {Fill::normal, Fill::zeros, Fill::huge, Fill::tiny, Fill::special}) {
    Operands found(spec, n, how, static_cast<uint32_t>(n));
    Operands expected(spec, n, how, static_cast<uint32_t>(n));
    kernel(found.args);
    row_reference(spec, expected.args);
    expect_same(found, expected,
                fmt::format("{}_{} with n = {}, fill {}; repeat with `nibble kernels check {}_{}`",
                            name(KernelSpec(spec)), isa_name(isa), n, static_cast<int>(how),
                            name(KernelSpec(spec)), isa_name(isa)));
  }
}

std::vector<int64_t> lengths() {
  std::vector<int64_t> n;
  for (int64_t i = 1; i <= 40; ++i) n.push_back(i);
  for (int64_t i : {64, 77, 288, 4096}) n.push_back(i);
  return n;
}

class RowKernels : public ::testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (!supports(GetParam())) {
      GTEST_SKIP() << "this machine has no " << isa_name(GetParam());
    }
  }
};

TEST_P(RowKernels, NormsEqualTheReference) {
  for (int64_t n : lengths()) {
    for (RowOp op : {RowOp::rms_norm, RowOp::layer_norm}) {
      for (bool residual : {false, true}) {
        RowSpec spec{.op = op, .n = n, .residual = residual};
        check(spec, n, GetParam());
        spec.bias = op == RowOp::layer_norm;
        spec.quantize = true;
        spec.group = n % 3 == 0 ? 0 : 32;
        spec.f32_out = n % 2 == 0;
        check(spec, n, GetParam());
        spec.group = 0;
        spec.bf16 = true;
        check(spec, n, GetParam());
      }
    }
  }
}

TEST_P(RowKernels, QuantizeEqualsTheReference) {
  for (int64_t n : lengths()) {
    check({.op = RowOp::quantize, .n = n, .bf16 = true}, n, GetParam());
    for (int64_t group : {0, 8, 16, 24, 32, 128}) {
      check({.op = RowOp::quantize, .n = n, .group = group, .zero = n % 2 == 0 ? 8 : 1}, n,
            GetParam());
    }
  }
}

TEST_P(RowKernels, RopeEqualsTheReference) {
  for (int64_t n : {2, 4, 10, 20, 32, 64, 80, 96, 128}) {
    for (int64_t rotary = 2; rotary <= n; rotary += rotary < 36 ? 2 : 22) {
      for (bool interleaved : {false, true}) {
        check({.op = RowOp::rope, .n = n, .rotary = rotary, .interleaved = interleaved}, n,
              GetParam());
      }
    }
  }
}

TEST_P(RowKernels, SoftmaxEqualsTheReference) {
  for (int64_t n : lengths()) check({.op = RowOp::softmax}, n, GetParam());
}

TEST_P(RowKernels, ScaleSoftcapAndClipEqualTheReference) {
  for (int64_t n : lengths()) {
    check({.op = RowOp::scale}, n, GetParam());
    check({.op = RowOp::softcap}, n, GetParam());
    check({.op = RowOp::clip}, n, GetParam());
  }
}

TEST_P(RowKernels, ElementwiseEqualsTheReference) {
  for (int64_t n : lengths()) {
    check({.op = RowOp::add, .n = n}, n, GetParam());
    const auto activation = static_cast<Activation>(n % 6);
    check({.op = RowOp::gate, .n = n, .activation = activation}, n, GetParam());
  }
  for (Activation activation :
       {Activation::none, Activation::silu, Activation::gelu, Activation::gelu_tanh,
        Activation::quick_gelu, Activation::relu, Activation::relu2}) {
    check({.op = RowOp::activation, .n = 4096 + 5, .activation = activation}, 4096 + 5, GetParam());
  }
}

TEST_P(RowKernels, WorkInPlace) {
  constexpr int64_t kN = 100;
  const RowSpec specs[] = {
      {.op = RowOp::rms_norm, .n = kN},
      {.op = RowOp::layer_norm, .n = kN, .quantize = true, .group = 32},
      {.op = RowOp::softmax},
      {.op = RowOp::softcap},
      {.op = RowOp::gate, .n = kN, .activation = Activation::silu},
  };
  for (const RowSpec& spec : specs) {
    const GeneratedCode<RowFn> kernel(generate_row(spec, GetParam()));
    Operands apart(spec, kN, Fill::normal, 5);
    Operands found(spec, kN, Fill::normal, 5);
    Operands expected(spec, kN, Fill::normal, 5);
    found.args.y = found.x.data();
    expected.args.y = expected.x.data();
    kernel(found.args);
    kernel(apart.args);
    row_reference(spec, expected.args);
    expect_same(found, expected, name(KernelSpec(spec)));
    EXPECT_TRUE(same_bits(found.x.span(), apart.y.span())) << name(KernelSpec(spec));
    EXPECT_TRUE(same_bits(expected.x.span(), apart.y.span())) << name(KernelSpec(spec));
  }
}

TEST_P(RowKernels, NormWritesItsSumOverTheResidual) {
  const RowSpec spec{.op = RowOp::rms_norm, .n = 50, .residual = true, .quantize = true};
  const GeneratedCode<RowFn> kernel(generate_row(spec, GetParam()));
  Operands apart(spec, spec.n, Fill::normal, 6);
  Operands found(spec, spec.n, Fill::normal, 6);
  found.args.sum = found.x2.data();
  kernel(found.args);
  kernel(apart.args);
  EXPECT_TRUE(same_bits(found.x2.span(), apart.sum.span()));
  EXPECT_TRUE(same_bits(found.y.span(), apart.y.span()));
}

TEST_P(RowKernels, NoRowsTouchNothing) {
  const GeneratedCode<RowFn> kernel(generate_row({.op = RowOp::add, .n = 16}, GetParam()));
  kernel(RowArgs{});
  const GeneratedCode<RowFn> softmax(generate_row({.op = RowOp::softmax}, GetParam()));
  RowArgs args;
  args.rows = 2;
  softmax(args);
}

INSTANTIATE_TEST_SUITE_P(Isas, RowKernels, ::testing::Values(Isa::avx2, Isa::avx512),
                         [](const auto& info) { return std::string(isa_name(info.param)); });

TEST(RowReference, NormsAgreeWithTheirDefinition) {
  constexpr int64_t kN = 300;
  for (RowOp op : {RowOp::rms_norm, RowOp::layer_norm}) {
    const RowSpec spec{.op = op, .n = kN, .bias = op == RowOp::layer_norm};
    Operands o(spec, kN, Fill::normal, 1);
    row_reference(spec, o.args);
    for (int64_t r = 0; r < kRows; ++r) {
      const float* x = o.args.x + r * kN;
      double mean = 0;
      double squares = 0;
      if (op == RowOp::layer_norm) mean = std::accumulate(x, x + kN, 0.0) / kN;
      for (int64_t i = 0; i < kN; ++i) squares += (x[i] - mean) * (x[i] - mean);
      for (int64_t i = 0; i < kN; ++i) {
        double y = (x[i] - mean) / std::sqrt(squares / kN + 1e-5) * o.weight[count(i)];
        if (spec.bias) y += o.bias[count(i)];
        EXPECT_NEAR(o.y[count(r * kN + i)], y, 2e-6 * (1 + std::fabs(y)));
      }
    }
  }
}

TEST(RowReference, SoftmaxAgreesWithItsDefinition) {
  Operands o({.op = RowOp::softmax}, 100, Fill::normal, 1);
  row_reference({.op = RowOp::softmax}, o.args);
  double sum = 0;
  for (size_t i = 0; i < 100; ++i) sum += std::exp(static_cast<double>(o.x[i]));
  for (size_t i = 0; i < 100; ++i) {
    EXPECT_NEAR(o.y[i], std::exp(static_cast<double>(o.x[i])) / sum, 1e-6);
  }
}

TEST(RowReference, ScaleSoftcapAndClipAgreeWithTheirDefinition) {
  Operands scaled({.op = RowOp::scale}, 100, Fill::normal, 1);
  row_reference({.op = RowOp::scale}, scaled.args);
  Operands capped({.op = RowOp::softcap}, 100, Fill::normal, 1);
  row_reference({.op = RowOp::softcap}, capped.args);
  Operands clipped({.op = RowOp::clip}, 100, Fill::normal, 1);
  clipped.args.cap = 0.5F;
  clipped.x.span()[7] = std::numeric_limits<float>::quiet_NaN();
  row_reference({.op = RowOp::clip}, clipped.args);
  EXPECT_TRUE(std::isnan(clipped.y[7]));
  for (size_t i = 0; i < 100; ++i) {
    if (i != 7) {
      EXPECT_EQ(clipped.y[i], std::clamp(clipped.x[i], -0.5F, 0.5F));
    }
    const double x = scaled.x[i];
    EXPECT_FLOAT_EQ(scaled.y[i], scaled.x[i] * 0.37F);
    EXPECT_NEAR(capped.y[i], 1.5 * std::tanh(x * static_cast<double>(0.37F)), 1e-6);
  }
}

TEST(RowReference, RopeTurnsPairs) {
  for (bool interleaved : {false, true}) {
    const RowSpec spec{.op = RowOp::rope, .n = 6, .rotary = 4, .interleaved = interleaved};
    float row[] = {1, 2, 3, 4, 5, 6};
    const float cos[] = {0, 1};
    const float sin[] = {1, 0};
    RowArgs args;
    args.y = row;
    args.x2 = cos;
    args.x3 = sin;
    args.rows = 1;
    row_reference(spec, args);
    const std::vector<float> expected =
        interleaved ? std::vector<float>{-2, 1, 3, 4, 5, 6} : std::vector<float>{-3, 2, 1, 4, 5, 6};
    EXPECT_TRUE(same_bits(row, expected));
  }
}

TEST(RowReference, QuantizesByHand) {
  const float x[] = {1.27F, -1.27F, 0.635F, 0.0F, 0.0149F, 0.0F, 0.0F, 0.0F, 0.0F, -0.0F};
  int8_t q[16];
  std::fill_n(q, 16, int8_t{55});
  float scale[2];
  int32_t sum[2];
  RowArgs args;
  args.x = x;
  args.q = q;
  args.q_scale = scale;
  args.q_sum = sum;
  args.q_groups = args.q_sum_words = 2;
  args.rows = 1;
  row_reference({.op = RowOp::quantize, .n = 10, .group = 8}, args);
  const int8_t expected[] = {127, -127, 64, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0};
  EXPECT_TRUE(std::equal(q, q + 16, expected));
  EXPECT_FLOAT_EQ(scale[0], 0.01F);
  EXPECT_EQ(scale[1], 0.0F);
  EXPECT_EQ(sum[0], -8 * 65);
  EXPECT_EQ(sum[1], 0);
}

TEST(RowReference, AnInfinityOrNaNPoisonsItsGroupVisibly) {
  for (float bad : {kInfinity, -kInfinity, kNaN}) {
    std::vector<float> x(32, 1.0F);
    x[20] = bad;
    int8_t q[32];
    float scale[2];
    int32_t sum[2];
    RowArgs args;
    args.x = x.data();
    args.q = q;
    args.q_scale = scale;
    args.q_sum = sum;
    args.q_groups = args.q_sum_words = 2;
    args.rows = 1;
    row_reference({.op = RowOp::quantize, .n = 32, .group = 16}, args);
    EXPECT_FALSE(std::isnan(scale[0]));
    EXPECT_TRUE(std::isnan(scale[1]));
    EXPECT_EQ(q[0], 127);
    EXPECT_EQ(sum[1], 0);
  }
}

TEST(RowSpecs, InvalidOnesAreRefused) {
  const RowSpec bad[] = {
      {.op = RowOp::rms_norm, .n = 0},
      {.op = RowOp::rms_norm, .n = -4},
      {.op = RowOp::rms_norm, .n = int64_t{1} << 40},
      {.op = RowOp::rms_norm, .n = 8, .bias = true},
      {.op = RowOp::rms_norm, .n = 8, .f32_out = false},
      {.op = RowOp::quantize, .n = 64, .group = 12},
      {.op = RowOp::quantize, .n = 64, .group = -8},
      {.op = RowOp::quantize, .n = 64, .bf16 = true, .group = 32},
      {.op = RowOp::quantize, .n = 64, .bf16 = true, .zero = 1},
      {.op = RowOp::quantize, .n = 512, .group = 256, .sum_group = 24},
      {.op = RowOp::quantize, .n = 512, .group = 0, .sum_group = 16},
      {.op = RowOp::quantize, .n = 300, .group = 256, .sum_group = 16},
      {.op = RowOp::quantize, .n = 512, .group = 256, .word_sums = true, .zero = 1},
      {.op = RowOp::quantize, .n = 512, .group = 256, .sum_group = 32, .word_sums = true},
      {.op = RowOp::rms_norm, .n = 64, .bf16 = true},
      {.op = RowOp::add, .n = 64, .bf16 = true},
      {.op = RowOp::quantize, .n = int64_t{1} << 22},
      {.op = RowOp::softmax, .n = 64},
      {.op = RowOp::add, .n = 8, .residual = true},
      {.op = RowOp::gate, .n = 8, .quantize = true},
      {.op = RowOp::rope, .n = 8, .rotary = 3},
      {.op = RowOp::rope, .n = 8, .rotary = 10},
      {.op = RowOp::rope, .n = 8},
  };
  for (const RowSpec& spec : bad) EXPECT_THROW(generate_row(spec, Isa::avx2), Error);
}

}  // namespace
}  // namespace nibble::jit
