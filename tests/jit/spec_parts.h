// Parts that the specs of several tests are put together from.
#pragma once

#include <cstdint>

#include "jit/kernel_spec.h"

namespace nibble::test {

inline constexpr jit::Activation kActivations[] = {
    jit::Activation::none,      jit::Activation::silu,       jit::Activation::gelu,
    jit::Activation::gelu_tanh, jit::Activation::quick_gelu, jit::Activation::relu,
    jit::Activation::relu2};

inline jit::WeightFormat weights(jit::WeightType type, int64_t group, bool asym,
                                 jit::ScaleType scale) {
  return {.type = type, .group = group, .asym = asym, .scale = scale};
}

inline jit::WeightFormat minimums(jit::WeightType type, int64_t group, jit::ScaleType scale) {
  return {.type = type, .group = group, .asym = true, .scale = scale, .minimum = true};
}

// n of the columns of a matmul of llama2-7b.
inline jit::GemmSpec llama_spec(int64_t n = 64) {
  return {
      .weight = weights(jit::WeightType::u4, 128, false, jit::ScaleType::f16), .n = n, .k = 4096};
}

}  // namespace nibble::test
