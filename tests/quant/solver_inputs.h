// Weights and inputs for the tests of the solvers: correlated like the activations of a language
// model, with outlier channels on demand, from a seed.
#pragma once

#include <gtest/gtest.h>

#include <cmath>
#include <cstdint>
#include <random>
#include <vector>

#include "quant/products/dense_matmul.h"
#include "quant/solvers/input_stats.h"
#include "quant/solvers/solved_matrix.h"

namespace nibble::quant {

inline std::vector<float> normal_numbers(int64_t count, uint32_t seed, float deviation = 1.0F) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, deviation);
  std::vector<float> numbers(static_cast<size_t>(count));
  for (float& x : numbers) x = normal(random);
  return numbers;
}

struct InputShape {
  int64_t k = 64, rows = 256;
  int64_t factors = 16;   // hidden causes that all channels share; 0: independent channels
  float noise = 0.5F;     // of each channel for itself
  int64_t outliers = 0;   // channels, evenly spread, that are
  float outlier = 20.0F;  // times as large
};

inline std::vector<float> make_inputs(const InputShape& s, uint32_t seed) {
  std::vector<float> x = normal_numbers(s.rows * s.k, seed, s.factors == 0 ? 1.0F : s.noise);
  if (s.factors > 0) {
    runtime::ThreadPool pool(1);
    const std::vector<float> cause = normal_numbers(s.rows * s.factors, seed + 1);
    const std::vector<float> mix =
        normal_numbers(s.factors * s.k, seed + 2, 1.0F / std::sqrt(static_cast<float>(s.factors)));
    matmul(pool, {cause.data(), s.rows, s.factors, s.factors}, false,
           {mix.data(), s.factors, s.k, s.k}, false, {x.data(), s.rows, s.k, s.k}, true);
  }
  for (int64_t o = 0; o < s.outliers; ++o) {
    const int64_t channel = (2 * o + 1) * s.k / (2 * s.outliers);
    for (int64_t r = 0; r < s.rows; ++r) x[static_cast<size_t>(r * s.k + channel)] *= s.outlier;
  }
  return x;
}

inline InputStats make_stats(const std::vector<float>& x, int64_t k) {
  runtime::ThreadPool pool(1);
  InputStats stats;
  stats.k = k;
  stats.rows = static_cast<int64_t>(x.size()) / k;
  stats.gram.resize(static_cast<size_t>(k * k));
  gram(pool, {x.data(), stats.rows, k, k}, {stats.gram.data(), k, k, k}, false);
  stats.mean_abs.resize(static_cast<size_t>(k));
  for (int64_t i = 0; i < k; ++i) {
    double sum = 0;
    for (int64_t r = 0; r < stats.rows; ++r) sum += std::fabs(x[static_cast<size_t>(r * k + i)]);
    stats.mean_abs[static_cast<size_t>(i)] =
        static_cast<float>(sum / static_cast<double>(stats.rows));
  }
  return stats;
}

inline double relative_error(const std::vector<float>& w, const SolvedMatrix& solved,
                             const InputStats& stats) {
  runtime::ThreadPool pool(2);
  return output_error(w, dequantize(solved, pool), solved.n, solved.k, stats.gram, pool).relative;
}

inline bool same_solution(const SolvedMatrix& a, const SolvedMatrix& b) {
  return a.format == b.format && a.n == b.n && a.k == b.k && a.q == b.q && a.scales == b.scales &&
         a.zeros == b.zeros;
}

// That dequantize() gives the very numbers that the packed matrix holds.
inline void expect_dequantized_as_packed(const SolvedMatrix& solved, runtime::ThreadPool& pool) {
  const std::vector<float> own = dequantize(solved, pool);
  const runtime::PackedMatrix packed = pack(solved, pool);
  std::vector<float> column(static_cast<size_t>(solved.k));
  for (int64_t c = 0; c < solved.n; ++c) {
    jit::unpack_column(packed.view, c, column);
    for (int64_t i = 0; i < solved.k; ++i) {
      ASSERT_EQ(column[static_cast<size_t>(i)], own[static_cast<size_t>(c * solved.k + i)])
          << "column " << c << ", k = " << i;
    }
  }
}

}  // namespace nibble::quant
