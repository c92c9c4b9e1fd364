#include "quant/solvers/sign_round.h"

#include <algorithm>
#include <cmath>

#include "jit/error.h"
#include "quant/formats/group_grid.h"
#include "quant/products/parallel_rows.h"

namespace nibble::quant {
namespace {

using jit::WeightFormat;
using jit::WeightType;

// A group's grid and what it owes to alpha and beta.
struct Grid {
  float scale = 1;
  uint8_t zero = 0;
  bool empty = false;  // all of its weights are 0
  float scale_by_alpha = 0, scale_by_beta = 0;
  float zero_by_alpha = 0, zero_by_beta = 0;  // by way of the scale included
};

Grid symmetric_grid(const SignRoundParams& p, size_t at) {
  const auto half = static_cast<float>(jit::middle_value(p.format.type));
  const float below = -p.low[at] * p.alpha[at], above = p.high[at] * p.beta[at];
  Grid grid;
  grid.zero = symmetric_zero(p.format);
  if (below >= above) {
    grid.scale = stored_scale(below / half, p.format.scale);
    grid.scale_by_alpha = -p.low[at] / half;
  } else {
    grid.scale = stored_scale(-above / half, p.format.scale);
    grid.scale_by_beta = -p.high[at] / half;
  }
  return grid;
}

Grid asymmetric_grid(const SignRoundParams& p, size_t at) {
  const auto top = static_cast<float>(jit::top_value(p.format.type));
  const float below = -p.low[at] * p.alpha[at], above = p.high[at] * p.beta[at];
  Grid grid;
  grid.scale = stored_scale((above + below) / top, p.format.scale);
  const float zero = below / grid.scale;
  grid.zero = static_cast<uint8_t>(round_to_int(std::clamp(zero, 0.0F, top)));
  grid.scale_by_alpha = -p.low[at] / top;
  grid.scale_by_beta = p.high[at] / top;
  const float by_scale = -zero / grid.scale;
  grid.zero_by_alpha = -p.low[at] / grid.scale + by_scale * grid.scale_by_alpha;
  grid.zero_by_beta = by_scale * grid.scale_by_beta;
  return grid;
}

Grid grid_of(const SignRoundParams& p, const GroupShape& shape, int64_t row, int64_t g) {
  const auto at = static_cast<size_t>(row * shape.groups + g);
  if (p.low[at] == 0 && p.high[at] == 0) {
    Grid grid;
    grid.zero = p.format.asym ? uint8_t{0} : symmetric_zero(p.format);
    grid.empty = true;
    return grid;
  }
  try {
    return p.format.asym ? asymmetric_grid(p, at) : symmetric_grid(p, at);
  } catch (const Error& error) {
    fail("Column {} cannot be quantized, k from {} to {}. {}", row, shape.begin(g),
         shape.end(g) - 1, error.what());
  }
}

// Four weights at a time.
struct Lanes {
  __m128 scale, low, high, under, over;

  Lanes(const WeightFormat& format, const Grid& grid) : scale(_mm_set1_ps(grid.scale)) {
    const GridLimits limits = grid_limits(format, grid.zero);
    low = _mm_set1_ps(static_cast<float>(limits.low));
    high = _mm_set1_ps(static_cast<float>(limits.high));
    under = _mm_set1_ps(static_cast<float>(limits.low - 1));
    over = _mm_set1_ps(static_cast<float>(limits.high + 1));
  }
  // rn(x), but no further out than one step past the limits.
  __m128 round(__m128 x) const {
    return _mm_cvtepi32_ps(_mm_cvtps_epi32(_mm_max_ps(under, _mm_min_ps(over, x))));
  }
  __m128 clamp(__m128 x) const { return _mm_max_ps(low, _mm_min_ps(high, x)); }
};

// Up to four numbers from memory, zeros for the others; and the way back.
__m128 load(const float* p, int64_t count) {
  if (count >= 4) return _mm_loadu_ps(p);
  alignas(16) float four[4] = {0, 0, 0, 0};
  std::copy_n(p, count, four);
  return _mm_load_ps(four);
}
void store(float* p, int64_t count, __m128 x) {
  if (count >= 4) return _mm_storeu_ps(p, x);
  alignas(16) float four[4];
  _mm_store_ps(four, x);
  std::copy_n(four, count, p);
}
float sum(__m128 x) {
  alignas(16) float four[4];
  _mm_store_ps(four, x);
  return (four[0] + four[1]) + (four[2] + four[3]);
}

// q - z of a group to `out`, times `factor`.
void round_part(const float* w, const float* v, int64_t length, const Lanes& lanes, __m128 factor,
                float* out) {
  for (int64_t i = 0; i < length; i += 4) {
    const __m128 quotient = _mm_div_ps(load(w + i, length - i), lanes.scale);
    const __m128 q = lanes.clamp(lanes.round(_mm_add_ps(quotient, load(v + i, length - i))));
    store(out + i, length - i, _mm_mul_ps(q, factor));
  }
}

struct RangeGradients {
  float scale, zero;
};

// dL/dV of a group; returns dL/ds with z fixed, and dL/dz.
RangeGradients differentiate(const float* w, const float* v, int64_t length, const Lanes& lanes,
                             const float* d_rounded, float* d_v) {
  __m128 by_scale = _mm_setzero_ps(), clamped = _mm_setzero_ps();
  for (int64_t i = 0; i < length; i += 4) {
    const __m128 d = load(d_rounded + i, length - i);
    const __m128 quotient = _mm_div_ps(load(w + i, length - i), lanes.scale);
    const __m128 rounded = lanes.round(_mm_add_ps(quotient, load(v + i, length - i)));
    const __m128 q = lanes.clamp(rounded);
    const __m128 inside = _mm_cmpeq_ps(q, rounded);
    const __m128 slope = _mm_sub_ps(q, _mm_and_ps(inside, quotient));
    by_scale = _mm_add_ps(by_scale, _mm_mul_ps(d, slope));
    clamped = _mm_add_ps(clamped, _mm_andnot_ps(inside, d));
    store(d_v + i, length - i, _mm_and_ps(inside, _mm_mul_ps(d, lanes.scale)));
  }
  return {sum(by_scale), -sum(clamped) * _mm_cvtss_f32(lanes.scale)};
}

void check_size(size_t found, const SignRoundParams& params, const char* what) {
  if (found == params.v.size() && found == static_cast<size_t>(params.n * params.k)) return;
  fail("{} of {} elements do not fit parameters of {} x {}.", what, found, params.n, params.k);
}

// -1, 0 or 1.
float sign(float x) { return static_cast<float>((x > 0 ? 1 : 0) - (x < 0 ? 1 : 0)); }

}  // namespace

SignRoundParams make_sign_round(std::span<const float> w, int64_t n, int64_t k,
                                const WeightFormat& format, runtime::ThreadPool& pool) {
  const GroupShape shape = group_shape(format, n, k);
  check_weights(w, n, k, pool);
  const auto groups = static_cast<size_t>(n * shape.groups);
  SignRoundParams params{.format = format,
                         .n = n,
                         .k = k,
                         .v = std::vector<float>(w.size()),
                         .alpha = std::vector<float>(groups, 1.0F),
                         .beta = std::vector<float>(groups, 1.0F),
                         .low = std::vector<float>(groups),
                         .high = std::vector<float>(groups)};
  for_each_row(pool, n, [&](int64_t row, int) {
    for (int64_t g = 0; g < shape.groups; ++g) {
      const Extremes extremes = find_extremes({w.data() + row * k + shape.begin(g),
                                               static_cast<size_t>(shape.end(g) - shape.begin(g))});
      const auto at = static_cast<size_t>(row * shape.groups + g);
      params.low[at] = extremes.low;
      params.high[at] = extremes.high;
    }
  });
  return params;
}

SignRoundGradients make_gradients(const SignRoundParams& params) {
  return {.v = std::vector<float>(params.v.size()),
          .alpha = std::vector<float>(params.alpha.size()),
          .beta = std::vector<float>(params.beta.size())};
}

void sign_round_forward(std::span<const float> w, const SignRoundParams& params,
                        std::span<float> rounded, runtime::ThreadPool& pool) {
  const GroupShape shape = group_shape(params.format, params.n, params.k);
  check_size(w.size(), params, "Weights");
  check_size(rounded.size(), params, "Rounded weights");
  for_each_row(pool, params.n, [&](int64_t row, int) {
    for (int64_t g = 0; g < shape.groups; ++g) {
      const Lanes lanes(params.format, grid_of(params, shape, row, g));
      const int64_t at = row * params.k + shape.begin(g);
      round_part(w.data() + at, params.v.data() + at, shape.end(g) - shape.begin(g), lanes,
                 lanes.scale, rounded.data() + at);
    }
  });
}

void sign_round_backward(std::span<const float> w, const SignRoundParams& params,
                         std::span<const float> d_rounded, SignRoundGradients& gradients,
                         runtime::ThreadPool& pool) {
  const GroupShape shape = group_shape(params.format, params.n, params.k);
  check_size(w.size(), params, "Weights");
  check_size(d_rounded.size(), params, "Gradients of rounded weights");
  check_size(gradients.v.size(), params, "Gradients");
  for_each_row(pool, params.n, [&](int64_t row, int) {
    for (int64_t g = 0; g < shape.groups; ++g) {
      const Grid grid = grid_of(params, shape, row, g);
      const auto entry = static_cast<size_t>(row * shape.groups + g);
      const int64_t at = row * params.k + shape.begin(g), length = shape.end(g) - shape.begin(g);
      if (grid.empty) {
        std::fill_n(gradients.v.data() + at, length, 0.0F);
        gradients.alpha[entry] = gradients.beta[entry] = 0;
        continue;
      }
      RangeGradients range =
          differentiate(w.data() + at, params.v.data() + at, length, Lanes(params.format, grid),
                        d_rounded.data() + at, gradients.v.data() + at);
      if (!params.format.asym) range.zero = 0;
      gradients.alpha[entry] = range.scale * grid.scale_by_alpha + range.zero * grid.zero_by_alpha;
      gradients.beta[entry] = range.scale * grid.scale_by_beta + range.zero * grid.zero_by_beta;
    }
  });
}

void sign_round_step(SignRoundParams& params, const SignRoundGradients& gradients, float rate,
                     bool range, runtime::ThreadPool& pool) {
  check_size(gradients.v.size(), params, "Gradients");
  const GroupShape shape = group_shape(params.format, params.n, params.k);
  for_each_row(pool, params.n, [&](int64_t row, int) {
    float* v = params.v.data() + row * params.k;
    const float* d = gradients.v.data() + row * params.k;
    for (int64_t i = 0; i < params.k; ++i) v[i] -= rate * sign(d[i]);
    if (!range) return;
    for (int64_t g = 0; g < shape.groups; ++g) {
      const auto at = static_cast<size_t>(row * shape.groups + g);
      const auto move = [&](float& share, float gradient) {
        share = std::clamp(share - rate * sign(gradient), kSmallestShare, 1.0F);
      };
      move(params.alpha[at], gradients.alpha[at]);
      move(params.beta[at], gradients.beta[at]);
    }
  });
}

void sign_round_store(std::span<const float> w, const SignRoundParams& params, int64_t row,
                      SolvedMatrix& solved, int64_t to_row) {
  const GroupShape shape = group_shape(params.format, params.n, params.k);
  check_size(w.size(), params, "Weights");
  if (!(solved.format == params.format) || solved.k != params.k || row < 0 || row >= params.n ||
      to_row < 0 || to_row >= solved.n) {
    fail("Row {} of {} x {} does not go into row {} of a quantized matrix of {} x {}.", row,
         params.n, params.k, to_row, solved.n, solved.k);
  }
  std::vector<float> values(static_cast<size_t>(shape.end(0)));
  for (int64_t g = 0; g < shape.groups; ++g) {
    const Grid grid = grid_of(params, shape, row, g);
    const int64_t at = row * params.k + shape.begin(g), length = shape.end(g) - shape.begin(g);
    round_part(w.data() + at, params.v.data() + at, length, Lanes(params.format, grid),
               _mm_set1_ps(1.0F), values.data());
    uint8_t* q = solved.q.data() + to_row * params.k + shape.begin(g);
    for (int64_t i = 0; i < length; ++i) {
      q[i] = static_cast<uint8_t>(static_cast<int>(values[static_cast<size_t>(i)]) + grid.zero);
    }
    const auto entry = static_cast<size_t>(to_row * shape.groups + g);
    solved.scales[entry] = grid.scale;
    solved.zeros[entry] = grid.zero;
  }
}

SolvedMatrix sign_round_matrix(std::span<const float> w, const SignRoundParams& params,
                               runtime::ThreadPool& pool) {
  SolvedMatrix solved = make_solved(params.format, params.n, params.k);
  for_each_row(pool, params.n,
               [&](int64_t row, int) { sign_round_store(w, params, row, solved, row); });
  return solved;
}

}  // namespace nibble::quant
