// exp, tanh, sigmoid and the activation functions, written once over an abstract 16-lane machine,
// so that the Xbyak kernels, the asmjit kernels and the plain C++ references give the same bits.
//
// `V` is a backend with a value type V::Reg and these operations, each one IEEE fp32 operation a
// lane:
//   imm(float)                a constant in every lane
//   add sub mul div (a, b)    round to nearest even
//   fma(a, b, c)              a * b + c, rounded once
//   max(a, b) min(a, b)       x86 semantics: a > b ? a : b, a < b ? a : b (the second when
//   unordered) round(a)                  to integral, half to even pow2(a)                   2^a
//   for integral a in [-126, 127], by bits of the exponent abs(a) neg(a)             sign bit
//   cleared, flipped
// Operations take Reg by const reference and return a new Reg; a backend frees a register when its
// Reg dies.
#pragma once

#include <cstdint>

#include "jit/kernel_spec.h"

namespace nibble::jit {

inline constexpr uint32_t kSignBit = 0x80000000U;  // what abs clears and neg flips in a lane

// e^x. Below -87 it is e^-87 (about 1.6e-38), above 88 e^88; NaN stays NaN. Relative error < 2e-7.
template <typename V>
typename V::Reg vector_exp(V& v, const typename V::Reg& input) {
  auto x = v.min(v.imm(88.0F), v.max(v.imm(-87.0F), input));
  auto n = v.round(v.mul(x, v.imm(1.44269504088896341F)));
  auto r = v.fma(n, v.imm(-0.693359375F), x);
  r = v.fma(n, v.imm(2.12194440e-4F), r);
  auto p = v.fma(r, v.imm(1.9875691500e-4F), v.imm(1.3981999507e-3F));
  p = v.fma(p, r, v.imm(8.3334519073e-3F));
  p = v.fma(p, r, v.imm(4.1665795894e-2F));
  p = v.fma(p, r, v.imm(1.6666665459e-1F));
  p = v.fma(p, r, v.imm(5.0000001201e-1F));
  p = v.fma(p, v.mul(r, r), r);
  p = v.add(p, v.imm(1.0F));
  return v.mul(p, v.pow2(n));
}

// 1 / (1 + e^-x)
template <typename V>
typename V::Reg vector_sigmoid(V& v, const typename V::Reg& x) {
  return v.div(v.imm(1.0F), v.add(v.imm(1.0F), vector_exp(v, v.neg(x))));
}

// Absolute error < 3e-7.
template <typename V>
typename V::Reg vector_tanh(V& v, const typename V::Reg& x) {
  auto e = vector_exp(v, v.add(x, x));
  return v.sub(v.imm(1.0F), v.div(v.imm(2.0F), v.add(e, v.imm(1.0F))));
}

// x * Phi(x), the erf form, as max(x, 0) - |x| * Phi(-|x|); Phi's tail after Abramowitz and
// Stegun 7.1.26.
template <typename V>
typename V::Reg vector_gelu(V& v, const typename V::Reg& x) {
  auto a = v.abs(x);
  auto z = v.mul(a, v.imm(0.70710678118654752F));
  auto t = v.div(v.imm(1.0F), v.fma(z, v.imm(0.3275911F), v.imm(1.0F)));
  auto p = v.fma(t, v.imm(1.061405429F), v.imm(-1.453152027F));
  p = v.fma(p, t, v.imm(1.421413741F));
  p = v.fma(p, t, v.imm(-0.284496736F));
  p = v.fma(p, t, v.imm(0.254829592F));
  p = v.mul(v.mul(p, t), v.imm(0.5F));
  auto tail = v.mul(p, vector_exp(v, v.neg(v.mul(z, z))));
  return v.sub(v.max(v.imm(0.0F), x), v.mul(a, tail));
}

// 0.5 x (1 + tanh(sqrt(2/pi) (x + 0.044715 x^3))) = x sigmoid(2 sqrt(2/pi) (x + 0.044715 x^3))
template <typename V>
typename V::Reg vector_gelu_tanh(V& v, const typename V::Reg& x) {
  auto x2 = v.mul(x, x);
  auto u = v.mul(x, v.fma(x2, v.imm(0.07135481282052F), v.imm(1.59576912160573F)));
  return v.mul(x, vector_sigmoid(v, u));
}

template <typename V>
typename V::Reg vector_activation(V& v, Activation activation, const typename V::Reg& x) {
  switch (activation) {
    case Activation::silu:
      return v.mul(x, vector_sigmoid(v, x));
    case Activation::gelu:
      return vector_gelu(v, x);
    case Activation::gelu_tanh:
      return vector_gelu_tanh(v, x);
    case Activation::quick_gelu:
      return v.mul(x, vector_sigmoid(v, v.mul(x, v.imm(1.702F))));
    case Activation::relu:
      return v.max(v.imm(0.0F), x);
    case Activation::relu2: {
      auto y = v.max(v.imm(0.0F), x);
      return v.mul(y, y);
    }
    case Activation::none:
      break;
  }
  return v.add(x, v.imm(0.0F));
}

}  // namespace nibble::jit
