// What the references and the generators of integer attention (attention.h) share: the constants of
// its contract, and its powers of 2 over the abstract lane of vector_math.h.
#pragma once

namespace nibble::jit {

inline constexpr float kLowScore = -3e38F;  // below every score; finite, so that differences are
inline constexpr float kLog2E = 1.44269504088896341F;
inline constexpr float kByLargestWeight = 1.0F / 32767.0F;
inline constexpr float kByWeightSum = 1.0F / 131000.0F;

// Constants of vector_exp2(), for backends that keep them in registers.
inline constexpr float kExp2[] = {1.3264727143e-3F,
                                  9.671512642e-3F,
                                  5.55073374343e-2F,
                                  2.402224208532e-1F,
                                  6.931469775990e-1F,
                                  1.0F,
                                  -64.0F};

// 2^x for x <= 0; below -64 it is 2^-64, NaN stays NaN, and 2^0 is 1 exactly. What is so small is
// nothing beside a weight of 1, and no product of it with the scale of a value is subnormal, which
// costs a core a hundred cycles. Relative error < 2e-7: a polynomial of 2^r on [-0.5, 0.5]
// (minimax, Lawson's iteration), its exponent raised by an integer addition. Beside vector_math.h's
// operations V has scale_pow2(p, n): p * 2^n for p in [0.5, 2) and integral n, by bits of the
// exponent.
template <typename V>
typename V::Reg vector_exp2(V& v, const typename V::Reg& input) {
  auto x = v.max(v.imm(kExp2[6]), input);
  auto n = v.round(x);
  auto r = v.sub(x, n);
  auto p = v.fma(r, v.imm(kExp2[0]), v.imm(kExp2[1]));
  p = v.fma(p, r, v.imm(kExp2[2]));
  p = v.fma(p, r, v.imm(kExp2[3]));
  p = v.fma(p, r, v.imm(kExp2[4]));
  p = v.fma(p, r, v.imm(kExp2[5]));
  return v.scale_pow2(p, n);
}

// 255 * 2^x for x <= 0, to be rounded to a byte: 255 * 2^r on [-0.5, 0.5], relative error 1.1e-4
// (minimax, Lawson's iteration, for the first coefficient), which is a twentieth of what rounding
// the largest weight of a split takes.
inline constexpr float kByteWeight[] = {255.0F, 176.787147F, 61.7638008F, 14.0272774F};
// Added to a float below 2^22, it rounds that to a whole number, which is in the sum's low bits.
inline constexpr float kByteRound = 0x1.8p23F;
inline constexpr float kLeastByteExponent = -125.0F;

// Below kLeastByteExponent it is what it is there; NaN stays NaN; 255 exactly for 0. Beside
// vector_math.h's operations V has add_exponent(p, t): p * 2^n, where n is in the low bits of t.
template <typename V>
typename V::Reg byte_weight(V& v, const typename V::Reg& input) {
  auto x = v.max(v.imm(kLeastByteExponent), input);
  auto t = v.add(x, v.imm(kByteRound));
  auto r = v.sub(x, v.sub(t, v.imm(kByteRound)));
  auto p = v.fma(r, v.imm(kByteWeight[3]), v.imm(kByteWeight[2]));
  p = v.fma(p, r, v.imm(kByteWeight[1]));
  p = v.fma(p, r, v.imm(kByteWeight[0]));
  return v.add_exponent(p, t);
}

}  // namespace nibble::jit
