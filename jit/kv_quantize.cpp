#include "jit/kv_quantize.h"

#include <immintrin.h>

#include <array>
#include <bit>
#include <cmath>

#include "jit/isa.h"
#include "jit/reference_lanes.h"
#include "jit/scalar_math.h"

namespace nibble::jit {
namespace {

float scale_of(float largest, float squares, const QuantizeRule& rule) {
  ScalarMath v;
  float s = largest * rule.by_largest;
  if (rule.by_norm != 0) s = v.max(s, std::sqrt(squares) * rule.by_norm);
  return v.max(kSmallestScale, s);
}

#define NIBBLE_AVX2 __attribute__((target("avx2,fma")))

NIBBLE_AVX2 inline __m256i head_mask(int64_t count) {
  return _mm256_cmpgt_epi32(_mm256_set1_epi32(static_cast<int>(count)),
                            _mm256_setr_epi32(0, 1, 2, 3, 4, 5, 6, 7));
}

// Eight elements from x[i] on; zeros past count.
NIBBLE_AVX2 inline __m256 load_eight(const float* x, int64_t i, int64_t count) {
  if (i + 8 <= count) return _mm256_loadu_ps(x + i);
  if (i >= count) return _mm256_setzero_ps();
  return _mm256_maskload_ps(x + i, head_mask(count - i));
}

NIBBLE_AVX2 inline float sum_of(__m256 low, __m256 high) {
  const __m256 eight = _mm256_add_ps(low, high);
  __m128 four = _mm_add_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_add_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_add_ss(four, _mm_shuffle_ps(four, four, 1)));
}

// Of magnitudes, none of which is a NaN.
NIBBLE_AVX2 inline float largest_of(__m256 eight) {
  __m128 four = _mm_max_ps(_mm256_castps256_ps128(eight), _mm256_extractf128_ps(eight, 1));
  four = _mm_max_ps(four, _mm_movehl_ps(four, four));
  return _mm_cvtss_f32(_mm_max_ss(four, _mm_shuffle_ps(four, four, 1)));
}

// Comparisons overlook a NaN in x; its sum of squares does not.
NIBBLE_AVX2 float quantize_avx2(const float* x, int64_t count, const QuantizeRule& rule,
                                int16_t* q) {
  const __m256 sign = _mm256_set1_ps(-0.0F);
  __m256 largest = _mm256_setzero_ps(), low = largest, high = largest;
  for (int64_t i = 0; i < count; i += kLanes) {
    const __m256 a = load_eight(x, i, count), b = load_eight(x, i + 8, count);
    largest = _mm256_max_ps(_mm256_andnot_ps(sign, a), largest);
    largest = _mm256_max_ps(_mm256_andnot_ps(sign, b), largest);
    low = _mm256_fmadd_ps(a, a, low);
    high = _mm256_fmadd_ps(b, b, high);
  }
  const float squares = sum_of(low, high);
  float most = largest_of(largest);
  if (std::isnan(squares)) most = squares;
  const float s = scale_of(most, squares, rule);
  const float inverse = 1 / s;
  for (int64_t i = 0; i < count; i += kLanes) {
    const __m256i a =
        _mm256_cvtps_epi32(_mm256_mul_ps(load_eight(x, i, count), _mm256_set1_ps(inverse)));
    const __m256i b =
        _mm256_cvtps_epi32(_mm256_mul_ps(load_eight(x, i + 8, count), _mm256_set1_ps(inverse)));
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packs_epi32(a, b), 0xD8);
    if (i + kLanes <= count) {
      _mm256_storeu_si256(reinterpret_cast<__m256i*>(q + i), words);
    } else {
      alignas(32) std::array<int16_t, kLanes> tail;
      _mm256_store_si256(reinterpret_cast<__m256i*>(tail.data()), words);
      for (int64_t l = 0; i + l < count; ++l) q[i + l] = tail[static_cast<size_t>(l)];
    }
  }
  return s;
}

}  // namespace

float quantize_plain(const float* x, int64_t count, const QuantizeRule& rule, int16_t* q) {
  float largest = 0;
  Lanes lanes{};
  for (int64_t i = 0; i < count; ++i) {
    largest = std::fabs(x[i]) > largest ? std::fabs(x[i]) : largest;
    float& lane = lanes[static_cast<size_t>(i % kLanes)];
    lane = std::fma(x[i], x[i], lane);
  }
  const float squares = reduce_add(lanes);
  if (std::isnan(squares)) largest = squares;
  const float s = scale_of(largest, squares, rule);
  const float inverse = 1 / s;
  for (int64_t i = 0; i < count; ++i) q[i] = ScalarMath().to_int16(x[i] * inverse);
  return s;
}

// m * 2^e with m in [sqrt(1/2), sqrt(2)]: log2(m) = 2 / ln(2) * atanh((m - 1) / (m + 1)), of which
// five terms leave 1e-9.
float log2_of_scale(float scale) {
  constexpr uint32_t kRootOfHalf = 0x3F3504F3U;
  const uint32_t bits = std::bit_cast<uint32_t>(scale);
  const auto exponent = static_cast<int32_t>(bits - kRootOfHalf) >> 23;
  const double m = std::bit_cast<float>(bits - (static_cast<uint32_t>(exponent) << 23));
  const double z = (m - 1) / (m + 1), zz = z * z;
  const double series = 1 + zz * (1.0 / 3 + zz * (1.0 / 5 + zz * (1.0 / 7 + zz * (1.0 / 9))));
  constexpr double kTwoOverLn2 = 2.88539008177792681472;
  return static_cast<float>(exponent + kTwoOverLn2 * z * series);
}

float quantize_vector(const float* x, int64_t count, const QuantizeRule& rule, int16_t* q) {
  static const bool fast = cpu().avx2 && cpu().fma;
  return fast ? quantize_avx2(x, count, rule, q) : quantize_plain(x, count, rule, q);
}

}  // namespace nibble::jit
