// The shared polynomials: how close they are to the functions they stand for (in double precision,
// on dense grids), and that asmjit's backend gives the bits of the scalar one for every kind of
// float.
#include "jit/vector_math.h"

#include <gtest/gtest.h>

#include <cmath>
#include <functional>
#include <limits>
#include <vector>

#include "jit/compiler_math.h"
#include "jit/scalar_math.h"
#include "tests/jit/spec_parts.h"
#include "tests/support/generated_code.h"
#include "tests/support/guarded_buffer.h"
#include "tests/support/not_finite.h"

namespace nibble::jit {
namespace {

using test::GeneratedCode;
using test::GuardedBuffer;
using test::same_bits;

using test::kActivations;
using test::kInfinity;
using test::kNaN;

double exact_activation(Activation activation, double x) {
  switch (activation) {
    case Activation::silu:
      return x / (1 + std::exp(-x));
    case Activation::gelu:
      return 0.5 * x * std::erfc(-x / std::sqrt(2.0));
    case Activation::gelu_tanh:
      return 0.5 * x * (1 + std::tanh(0.7978845608028654 * (x + 0.044715 * x * x * x)));
    case Activation::quick_gelu:
      return x / (1 + std::exp(-1.702 * x));
    case Activation::relu:
      return x > 0 ? x : 0;
    case Activation::relu2:
      return x > 0 ? x * x : 0;
    case Activation::none:
      break;
  }
  return x;
}

// Calls `visit` on a grid of [from, to] with `steps` steps.
void grid(float from, float to, int steps, const std::function<void(float)>& visit) {
  for (int i = 0; i <= steps; ++i) {
    visit(from + (to - from) * static_cast<float>(i) / static_cast<float>(steps));
  }
}

TEST(VectorMath, ExpIsWithinItsRelativeBound) {
  ScalarMath v;
  double worst = 0;
  const auto visit = [&](float x) {
    const double exact = std::exp(static_cast<double>(x));
    worst = std::max(worst, std::fabs(vector_exp(v, x) - exact) / exact);
  };
  grid(-87.0F, 88.0F, 400000, visit);
  grid(-1.0F, 1.0F, 200000, visit);
  EXPECT_LT(worst, 2e-7);
  EXPECT_EQ(vector_exp(v, 0.0F), 1.0F);
  EXPECT_EQ(vector_exp(v, -0.0F), 1.0F);
}

TEST(VectorMath, ExpStaysAtItsLimits) {
  ScalarMath v;
  EXPECT_EQ(vector_exp(v, -1000.0F), vector_exp(v, -87.0F));
  EXPECT_EQ(vector_exp(v, -kInfinity), vector_exp(v, -87.0F));
  EXPECT_EQ(vector_exp(v, 1000.0F), vector_exp(v, 88.0F));
  EXPECT_EQ(vector_exp(v, kInfinity), vector_exp(v, 88.0F));
  EXPECT_TRUE(std::isfinite(vector_exp(v, kInfinity)));
  EXPECT_TRUE(std::isnan(vector_exp(v, kNaN)));
}

TEST(VectorMath, TanhAndSigmoidAreWithinTheirAbsoluteBounds) {
  ScalarMath v;
  double worst_tanh = 0;
  double worst_sigmoid = 0;
  grid(-20.0F, 20.0F, 400000, [&](float x) {
    const double d = x;
    worst_tanh = std::max(worst_tanh, std::fabs(vector_tanh(v, x) - std::tanh(d)));
    worst_sigmoid =
        std::max(worst_sigmoid, std::fabs(vector_sigmoid(v, x) - 1 / (1 + std::exp(-d))));
  });
  EXPECT_LT(worst_tanh, 3e-7);
  EXPECT_LT(worst_sigmoid, 2e-7);
  EXPECT_EQ(vector_tanh(v, 1000.0F), 1.0F);
  EXPECT_EQ(vector_tanh(v, -1000.0F), -1.0F);
}

TEST(VectorMath, ActivationsAreCloseToTheirDefinitions) {
  ScalarMath v;
  for (Activation activation : kActivations) {
    double worst = 0;
    grid(-30.0F, 30.0F, 300000, [&](float x) {
      const double exact = exact_activation(activation, x);
      const double error = std::fabs(vector_activation(v, activation, x) - exact);
      worst = std::max(worst, error / (1 + std::max(std::fabs(static_cast<double>(x)), exact)));
    });
    EXPECT_LT(worst, 3e-7) << activation_name(activation);
    EXPECT_TRUE(std::isnan(vector_activation(v, activation, kNaN))) << activation_name(activation);
  }
}

using Function = std::function<CompilerMath::Reg(CompilerMath&, const CompilerMath::Reg&)>;

struct MapArgs {
  const float* x;
  float* y;
  int64_t n;
};

// y[i] = f(x[i])
std::vector<uint8_t> generate_map(Isa isa, const Function& f) {
  CompilerMath v(isa);
  const auto x = v.load_gp(v.field(offsetof(MapArgs, x)), "x");
  const auto y = v.load_gp(v.field(offsetof(MapArgs, y)), "y");
  const auto n = v.load_gp(v.field(offsetof(MapArgs, n)), "n");
  const auto i = v.gp("i");
  v.blocks(i, n, [&](const CompilerMath::Mask* mask, int) {
    const auto value = f(v, v.load(asmjit::x86::ptr(x, i, 2), mask));
    v.store(asmjit::x86::ptr(y, i, 2), value, mask);
  });
  return v.finish();
}

class VectorMathOnIsa : public ::testing::TestWithParam<Isa> {
 protected:
  void SetUp() override {
    if (!supports(GetParam())) {
      GTEST_SKIP() << "this machine has no " << isa_name(GetParam());
    }
  }

  // Every 40,009th float, of all signs and exponents, infinities and NaNs among them.
  void expect_same(const Function& f, const std::function<float(float)>& scalar,
                   std::string_view what) {
    constexpr uint64_t kStep = 40009;
    GuardedBuffer<float> x((uint64_t{1} << 32) / kStep + 1);
    uint64_t bits = 0;
    for (float& value : x) {
      value = std::bit_cast<float>(static_cast<uint32_t>(bits));
      bits += kStep;
    }
    GuardedBuffer<float> y(x.size());
    const GeneratedCode<void (*)(const MapArgs*)> kernel(generate_map(GetParam(), f));
    kernel(MapArgs{x.data(), y.data(), static_cast<int64_t>(x.size())});
    int differences = 0;
    for (size_t i = 0; i < x.size() && differences < 5; ++i) {
      if (same_bits(y[i], scalar(x[i]))) continue;
      ++differences;
      ADD_FAILURE() << fmt::format("{} of {:a} is {:a}, expected {:a}", what, x[i], y[i],
                                   scalar(x[i]));
    }
  }
};

TEST_P(VectorMathOnIsa, FunctionsGiveTheScalarBits) {
  ScalarMath s;
  expect_same([](auto& v, const auto& x) { return vector_exp(v, x); },
              [&](float x) { return vector_exp(s, x); }, "exp");
  expect_same([](auto& v, const auto& x) { return vector_tanh(v, x); },
              [&](float x) { return vector_tanh(s, x); }, "tanh");
  expect_same([](auto& v, const auto& x) { return vector_sigmoid(v, x); },
              [&](float x) { return vector_sigmoid(s, x); }, "sigmoid");
  for (Activation activation : kActivations) {
    expect_same([=](auto& v, const auto& x) { return vector_activation(v, activation, x); },
                [&](float x) { return vector_activation(s, activation, x); },
                activation_name(activation));
  }
}

// A constant may stand in every place, and max and min return the second operand when unordered.
TEST_P(VectorMathOnIsa, OperationsGiveTheScalarBits) {
  ScalarMath s;
  const auto both = [&](auto f, std::string_view what) {
    expect_same([=](auto& v, const auto& x) { return f(v, x, v.imm(1.5F), v.imm(-0.75F)); },
                [&](float x) { return f(s, x, 1.5F, -0.75F); }, what);
  };
  both([](auto& v, auto x, auto a, auto) { return v.max(x, a); }, "max(x, a)");
  both([](auto& v, auto x, auto a, auto) { return v.max(a, x); }, "max(a, x)");
  both([](auto& v, auto x, auto a, auto) { return v.min(x, a); }, "min(x, a)");
  both([](auto& v, auto x, auto a, auto) { return v.min(a, x); }, "min(a, x)");
  both([](auto& v, auto x, auto a, auto) { return v.sub(a, x); }, "a - x");
  both([](auto& v, auto x, auto a, auto) { return v.div(a, x); }, "a / x");
  both([](auto& v, auto x, auto a, auto b) { return v.fma(x, a, b); }, "fma(x, a, b)");
  both([](auto& v, auto x, auto a, auto b) { return v.fma(a, x, b); }, "fma(a, x, b)");
  both([](auto& v, auto x, auto a, auto b) { return v.fma(a, b, x); }, "fma(a, b, x)");
  both([](auto& v, auto x, auto a, auto) { return v.fma(x, x, a); }, "fma(x, x, a)");
  both([](auto& v, auto x, auto, auto) { return v.fma(x, x, x); }, "fma(x, x, x)");
  both([](auto& v, auto x, auto, auto) { return v.round(x); }, "round(x)");
  both([](auto& v, auto x, auto a, auto) { return v.add(v.abs(x), v.neg(a)); }, "|x| - a");
}

INSTANTIATE_TEST_SUITE_P(Isas, VectorMathOnIsa, ::testing::Values(Isa::avx2, Isa::avx512),
                         [](const auto& info) { return std::string(isa_name(info.param)); });

}  // namespace
}  // namespace nibble::jit
