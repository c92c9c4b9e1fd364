// What the reference and the generator of attention over bf16 pairs (attention.h) share: its
// weights, over the abstract lane of vector_math.h. The power of 2 that merges pages is
// attention_integer.h's.
#pragma once

namespace nibble::jit {

// Added to a float below 2^22 (2^15), these round it to a whole number (to 2^-7) by the adder's own
// rounding, which leaves that number in the sum's low bits.
inline constexpr float kRoundToInteger = 0x1.8p23F;
inline constexpr float kRoundToBf16 = 0x1.8p16F;
// 2^(r + 1/2) on [-1/2, 1/2]: relative error 1.1e-4 (minimax, Lawson's iteration, for the given
// first coefficient, which is a multiple of 2^-7 so that kRoundToBf16 can be added to it).
inline constexpr float kBf16Power[] = {181.0F / 128.0F, 0.980153441F, 0.343801528F, 0.0801947042F};
// A row's weights count from this much above its largest score on,
inline constexpr float kBf16Top = 0.5F;
// and those below 2^-56 are 0: bf16_factor (float16.h).
inline constexpr float kLeastBf16Exponent = -56.5F;

// 2^(x + 1/2) as a bf16, for x from kLeastBf16Exponent to 1/2; NaN stays NaN. 2^0 is 1 exactly. The
// polynomial is in [1, 2], where bf16 are the multiples of 2^-7: its last operation rounds to them,
// and is the only one whose rounding shows. Beside vector_math.h's operations V has
// add_exponent(p, t): p * 2^n, where n is in the low bits of t.
template <typename V>
typename V::Reg bf16_weight(V& v, const typename V::Reg& x) {
  auto t = v.add(x, v.imm(kRoundToInteger));
  auto r = v.sub(x, v.sub(t, v.imm(kRoundToInteger)));
  auto p = v.fma(r, v.imm(kBf16Power[3]), v.imm(kBf16Power[2]));
  p = v.fma(p, r, v.imm(kBf16Power[1]));
  p = v.fma(p, r, v.imm(kBf16Power[0] + kRoundToBf16));
  return v.add_exponent(v.sub(p, v.imm(kRoundToBf16)), t);
}

}  // namespace nibble::jit
