#include "quant/blocks/activation_gradient.h"

#include <cmath>

#include "quant/products/row_kernel.h"

namespace nibble::quant {
namespace {

const jit::Kernel& activation_kernel(jit::Activation activation, int64_t n) {
  jit::RowSpec spec;
  spec.op = jit::RowOp::activation;
  spec.activation = activation;
  spec.n = n;
  return row_kernel(spec);
}

}  // namespace

ActivationGradient::ActivationGradient(jit::Activation activation, int64_t n)
    : activation_(activation), n_(n), kernel_(activation_kernel(activation, n)) {}

void ActivationGradient::run(const float* x, float* y, float* slope) const noexcept {
  jit::RowArgs args;
  args.x = x;
  args.y = y;
  args.rows = 1;
  kernel_.run(args);
  // x p with p = sigmoid or Phi of something has the slope p + x p'.
  const auto each = [&](const auto& x_times_slope_of_p) {
    for (int64_t i = 0; i < n_; ++i) {
      const float p = x[i] == 0 ? 0.5F : y[i] / x[i];
      slope[i] = p + x_times_slope_of_p(x[i], p);
    }
  };
  switch (activation_) {
    case jit::Activation::none:
      for (int64_t i = 0; i < n_; ++i) slope[i] = 1;
      return;
    case jit::Activation::relu:
      for (int64_t i = 0; i < n_; ++i) slope[i] = x[i] > 0 ? 1.0F : 0.0F;
      return;
    case jit::Activation::relu2:
      for (int64_t i = 0; i < n_; ++i) slope[i] = x[i] > 0 ? 2 * x[i] : 0.0F;
      return;
    case jit::Activation::silu:
      return each([](float v, float p) { return v * p * (1 - p); });
    case jit::Activation::quick_gelu:
      return each([](float v, float p) { return 1.702F * v * p * (1 - p); });
    case jit::Activation::gelu_tanh:  // sigmoid(a v + b v^3)
      return each([](float v, float p) {
        return (1.59576912160573F * v + 3 * 0.07135481282052F * v * v * v) * p * (1 - p);
      });
    case jit::Activation::gelu:
      return each([](float v, float) { return v * 0.3989422804F * std::exp(-0.5F * v * v); });
  }
}

}  // namespace nibble::quant
