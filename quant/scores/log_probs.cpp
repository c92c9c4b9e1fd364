#include "quant/scores/log_probs.h"

#include <emmintrin.h>

#include <algorithm>
#include <array>
#include <cmath>
#include <cstddef>
#include <limits>

namespace nibble::quant {
namespace {

constexpr size_t kStep = 8;        // logits a turn of a loop: two registers
constexpr size_t kFloatSum = 256;  // logits summed in fp32
constexpr float kLeast = -87.0F;
constexpr float kInfinity = std::numeric_limits<float>::infinity();

// e^x for x in [kLeast, 88); 0 below, -inf included; NaN stays NaN. Cody and Waite's reduction by
// ln 2 in two parts, then a polynomial on [-ln 2 / 2, ln 2 / 2], unfused as SSE2 has it.
__m128 exp4(__m128 x) {
  const __m128 least = _mm_set1_ps(kLeast);
  const __m128 not_below = _mm_cmpnlt_ps(x, least);  // true for NaN
  x = _mm_max_ps(least, x);                          // NaN: the second operand
  const __m128i whole = _mm_cvtps_epi32(_mm_mul_ps(x, _mm_set1_ps(1.44269504088896341F)));
  const __m128 n = _mm_cvtepi32_ps(whole);
  __m128 r = _mm_sub_ps(x, _mm_mul_ps(n, _mm_set1_ps(0.693359375F)));
  r = _mm_add_ps(r, _mm_mul_ps(n, _mm_set1_ps(2.12194440e-4F)));
  const auto horner = [&](__m128 p, float c) {
    return _mm_add_ps(_mm_mul_ps(p, r), _mm_set1_ps(c));
  };
  __m128 p = _mm_set1_ps(1.9875691500e-4F);
  p = horner(p, 1.3981999507e-3F);
  p = horner(p, 8.3334519073e-3F);
  p = horner(p, 4.1665795894e-2F);
  p = horner(p, 1.6666665459e-1F);
  p = horner(p, 5.0000001201e-1F);
  p = _mm_add_ps(_mm_mul_ps(p, _mm_mul_ps(r, r)), r);
  p = _mm_add_ps(p, _mm_set1_ps(1.0F));
  const __m128i exponent = _mm_slli_epi32(_mm_add_epi32(whole, _mm_set1_epi32(127)), 23);
  return _mm_and_ps(_mm_mul_ps(p, _mm_castsi128_ps(exponent)), not_below);
}

double sum_of(__m128d v) { return _mm_cvtsd_f64(_mm_add_sd(v, _mm_unpackhi_pd(v, v))); }

// A sum of many fp32 numbers.
struct Sum {
  __m128 low = _mm_setzero_ps(), high = _mm_setzero_ps();  // of a block
  double total = 0;

  void add(__m128 a, __m128 b) {
    low = _mm_add_ps(low, a);
    high = _mm_add_ps(high, b);
  }
  void end_block() {
    const auto halves = [](__m128 v) {
      return _mm_add_pd(_mm_cvtps_pd(v), _mm_cvtps_pd(_mm_movehl_ps(v, v)));
    };
    total += sum_of(_mm_add_pd(halves(low), halves(high)));
    low = high = _mm_setzero_ps();
  }
};

// The last `rest` < kStep values, followed by `filler`.
std::array<float, kStep> last_step(std::span<const float> values, size_t rest, float filler) {
  std::array<float, kStep> out;
  out.fill(filler);
  std::copy(values.end() - static_cast<std::ptrdiff_t>(rest), values.end(), out.begin());
  return out;
}

// NaN is passed over here; the exponentials find it.
float largest(std::span<const float> x) {
  __m128 a = _mm_set1_ps(-kInfinity), b = a;
  const auto take = [&](const float* p) {
    a = _mm_max_ps(_mm_loadu_ps(p), a);
    b = _mm_max_ps(_mm_loadu_ps(p + 4), b);
  };
  size_t i = 0;
  for (; i + kStep <= x.size(); i += kStep) take(x.data() + i);
  if (i < x.size()) take(last_step(x, x.size() - i, -kInfinity).data());
  alignas(16) std::array<float, 4> lanes;
  _mm_store_ps(lanes.data(), _mm_max_ps(a, b));
  return *std::max_element(lanes.begin(), lanes.end());
}

int32_t first_equal(std::span<const float> x, float value) {
  const __m128 wanted = _mm_set1_ps(value);
  size_t i = 0;
  for (; i + 4 <= x.size(); i += 4) {
    if (_mm_movemask_ps(_mm_cmpeq_ps(_mm_loadu_ps(x.data() + i), wanted)) != 0) break;
  }
  while (i < x.size() && x[i] != value) ++i;
  return i < x.size() ? static_cast<int32_t>(i) : 0;
}

double sum_of_exponentials(std::span<const float> x, float shift) {
  const __m128 s = _mm_set1_ps(shift);
  Sum sum;
  const auto take = [&](const float* p) {
    sum.add(exp4(_mm_sub_ps(_mm_loadu_ps(p), s)), exp4(_mm_sub_ps(_mm_loadu_ps(p + 4), s)));
  };
  size_t i = 0;
  while (i + kStep <= x.size()) {
    const size_t end = std::min(i + kFloatSum, x.size() / kStep * kStep);
    for (; i < end; i += kStep) take(x.data() + i);
    sum.end_block();
  }
  if (i < x.size()) take(last_step(x, x.size() - i, -kInfinity).data());
  sum.end_block();
  return sum.total;
}

}  // namespace

int64_t rows_at_a_time(int64_t vocabulary) {
  const int64_t row = vocabulary * static_cast<int64_t>(sizeof(float));
  return std::clamp(kLogitsBytes / row, int64_t{16}, int64_t{512});
}

RowSummary summarize(std::span<const float> logits) {
  const float most = largest(logits);
  const double sum = sum_of_exponentials(logits, most);
  return {static_cast<double>(most) + std::log(sum), first_equal(logits, most)};
}

// With weights w_i near p_i and their own sum W, sum p_i (b_i - m_i) is sum w_i (b_i - m_i) / W:
// neither the rounding of log_sum to fp32 nor an offset between the two rows does harm. The
// differences and all that follows are in double, as where one id has nearly all the probability
// two large numbers nearly cancel in the end.
double kl_divergence(std::span<const float> base, const RowSummary& base_summary,
                     std::span<const float> model, const RowSummary& model_summary) {
  const __m128 s = _mm_set1_ps(static_cast<float>(base_summary.log_sum));
  __m128d weights = _mm_setzero_pd(), products = weights;
  const auto take_two = [&](__m128 b, __m128 m, __m128 w) {  // the lower lanes
    const __m128d wide = _mm_cvtps_pd(w);
    const __m128d product = _mm_mul_pd(wide, _mm_sub_pd(_mm_cvtps_pd(b), _mm_cvtps_pd(m)));
    // Where the base gives nothing, the difference may be infinite or NaN: no part of the sum.
    const __m128d counts = _mm_cmpneq_pd(wide, _mm_setzero_pd());
    weights = _mm_add_pd(weights, wide);
    products = _mm_add_pd(products, _mm_and_pd(product, counts));
  };
  const auto take = [&](const float* base_at, const float* model_at) {
    for (size_t i = 0; i < kStep; i += 4) {
      const __m128 b = _mm_loadu_ps(base_at + i), m = _mm_loadu_ps(model_at + i);
      const __m128 w = exp4(_mm_sub_ps(b, s));
      take_two(b, m, w);
      take_two(_mm_movehl_ps(b, b), _mm_movehl_ps(m, m), _mm_movehl_ps(w, w));
    }
  };
  size_t i = 0;
  for (; i + kStep <= base.size(); i += kStep) take(base.data() + i, model.data() + i);
  if (i < base.size()) {
    const auto b = last_step(base, base.size() - i, -kInfinity);
    const auto m = last_step(model, base.size() - i, 0.0F);
    take(b.data(), m.data());
  }
  const double mean_difference = sum_of(products) / sum_of(weights);
  return mean_difference - (base_summary.log_sum - model_summary.log_sum);
}

}  // namespace nibble::quant
