// Derivatives of the activation functions, from the values that the forward kernels give: sigmoid
// and Phi are act(x) / x, so that both directions mean the same function.
#pragma once

#include <cstdint>

#include "jit/code_cache.h"

namespace nibble::quant {

class ActivationGradient {
 public:
  // For rows of n values.
  ActivationGradient(jit::Activation activation, int64_t n);
  // y = act(x) and slope = act'(x) (relu: 0 at 0), n values each. Many threads may call it.
  void run(const float* x, float* y, float* slope) const noexcept;

 private:
  jit::Activation activation_;
  int64_t n_;
  const jit::Kernel& kernel_;
};

}  // namespace nibble::quant
