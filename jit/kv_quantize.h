// Symmetric quantization of one head's vector, as the KV cache and the attention kernels' queries
// need it:
//
//   s = max(1e-30, max(largest(x) * by_largest, norm(x) * by_norm));   q[d] = rne(x[d] * (1 / s))
//
// saturated to 16 bits. norm(x) is the square root of 16 FMA chains (lane d mod 16) added by the
// tree l + (l+8), l + (l+4), l + (l+2), l + (l+1); a NaN makes s NaN and every q -32768.
#pragma once

#include <cstdint>

namespace nibble::jit {

struct QuantizeRule {
  float by_largest = 0;
  float by_norm = 0;  // 0: the norm does not count (and is not computed)
};

inline constexpr float kSmallestScale = 1e-30F;
// 46000^2 < 2^31, with room for rounding: |q . k| <= |q| |k| by Cauchy and Schwarz, and so is every
// partial sum.
inline constexpr QuantizeRule kNormRule{1.0F / 32767.0F, 1.0F / 46000.0F};
inline constexpr QuantizeRule kInt16ValueRule{1.0F / 16383.0F, 0};
inline constexpr QuantizeRule kInt8Rule{1.0F / 127.0F, 0};

// Returns s. quantize_plain is the reference, with the same bits on any machine.
float quantize_vector(const float* x, int64_t count, const QuantizeRule& rule, int16_t* q);
float quantize_plain(const float* x, int64_t count, const QuantizeRule& rule, int16_t* q);

// log2 of a positive finite scale to within 2^-23 of it or of 1, with the same bits on any machine.
float log2_of_scale(float scale);

}  // namespace nibble::jit
