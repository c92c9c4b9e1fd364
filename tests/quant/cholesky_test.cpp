#include "quant/solvers/cholesky.h"

#include <gtest/gtest.h>

#include <cmath>
#include <limits>

#include "jit/error.h"
#include "tests/quant/solver_inputs.h"

namespace nibble::quant {
namespace {

// Positive definite, with outlier channels and a damped diagonal, as GPTQ meets them.
std::vector<float> damped_gram(int64_t k, uint32_t seed) {
  const int64_t outliers = k / 50 + (k > 4 ? 1 : 0);
  InputStats stats = make_stats(
      make_inputs({.k = k, .rows = k + 50, .factors = 8, .outliers = outliers}, seed), k);
  double mean = 0;
  for (int64_t i = 0; i < k; ++i) {
    mean += stats.gram[static_cast<size_t>(i * (k + 1))] / static_cast<double>(k);
  }
  for (int64_t i = 0; i < k; ++i) {
    stats.gram[static_cast<size_t>(i * (k + 1))] += static_cast<float>(0.01 * mean);
  }
  return stats.gram;
}

Matrix square(std::vector<float>& data, int64_t k) { return {data.data(), k, k, k}; }

constexpr int64_t kSizes[] = {1, 2, 17, 128, 129, 300, 700};

TEST(CholeskyTest, TheFactorGivesTheMatrixBack) {
  runtime::ThreadPool alone(1), team(3);
  for (const int64_t k : kSizes) {
    const std::vector<float> a = damped_gram(k, 1);
    std::vector<float> l = a, same = a;
    ASSERT_FALSE(cholesky(team, square(l, k)));
    ASSERT_FALSE(cholesky(alone, square(same, k)));
    ASSERT_EQ(l, same) << "the bits depend on the number of threads";
    for (int64_t r = 0; r < k; ++r) {
      for (int64_t c = 0; c < k; ++c) {
        double sum = 0;
        const int64_t end = std::min(r, c) + 1;
        for (int64_t i = 0; i < end; ++i) {
          sum += static_cast<double>(l[static_cast<size_t>(r * k + i)]) *
                 l[static_cast<size_t>(c * k + i)];
        }
        const double size = std::sqrt(static_cast<double>(a[static_cast<size_t>(r * (k + 1))]) *
                                      a[static_cast<size_t>(c * (k + 1))]);
        ASSERT_NEAR(sum, a[static_cast<size_t>(r * k + c)], 2e-6 * size)
            << "k " << k << ", row " << r << ", column " << c;
        if (c > r) {
          ASSERT_EQ(l[static_cast<size_t>(r * k + c)], 0.0F);
        }
      }
    }
  }
}

TEST(CholeskyTest, ReadsOnlyTheLowerTriangleAndKeepsBetweenTheRows) {
  runtime::ThreadPool pool(2);
  const int64_t k = 200, stride = 203;
  std::vector<float> a = damped_gram(k, 2), padded(static_cast<size_t>(k * stride), -5.0F);
  for (int64_t r = 0; r < k; ++r) {
    for (int64_t c = 0; c <= r; ++c) {
      padded[static_cast<size_t>(r * stride + c)] = a[static_cast<size_t>(r * k + c)];
    }
  }
  ASSERT_FALSE(cholesky(pool, square(a, k)));
  ASSERT_FALSE(cholesky(pool, {padded.data(), k, k, stride}));
  for (int64_t r = 0; r < k; ++r) {
    for (int64_t c = 0; c < stride; ++c) {
      ASSERT_EQ(padded[static_cast<size_t>(r * stride + c)],
                c < k ? a[static_cast<size_t>(r * k + c)] : -5.0F);
    }
  }
}

TEST(CholeskyTest, TheInverseOfATriangleTimesItIsOne) {
  runtime::ThreadPool alone(1), team(2);
  for (const int64_t k : kSizes) {
    std::vector<float> l = damped_gram(k, 3);
    ASSERT_FALSE(cholesky(team, square(l, k)));
    std::vector<float> x = l, same = l;
    invert_lower(team, square(x, k));
    invert_lower(alone, square(same, k));
    ASSERT_EQ(x, same);
    for (int64_t r = 0; r < k; ++r) {
      for (int64_t c = 0; c < k; ++c) {
        double sum = 0, size = 0;
        for (int64_t i = c; i <= r; ++i) {
          const double term = static_cast<double>(x[static_cast<size_t>(r * k + i)]) *
                              l[static_cast<size_t>(i * k + c)];
          sum += term;
          size += std::fabs(term);
        }
        ASSERT_NEAR(sum, r == c ? 1.0 : 0.0, 1e-5 * (1 + size)) << "row " << r << ", column " << c;
        if (c > r) {
          ASSERT_EQ(x[static_cast<size_t>(r * k + c)], 0.0F);
        }
      }
    }
  }
}

TEST(CholeskyTest, TheUpperFactorIsThatOfTheInverse) {
  runtime::ThreadPool pool(2);
  for (const int64_t k : kSizes) {
    const std::vector<float> h = damped_gram(k, 4);
    std::vector<float> u = h;
    ASSERT_FALSE(upper_factor_of_inverse(pool, square(u, k)));
    // U h U^T = 1, row by row of U h in double.
    std::vector<double> row(static_cast<size_t>(k));
    for (int64_t r = 0; r < k; ++r) {
      for (int64_t c = 0; c < r; ++c) ASSERT_EQ(u[static_cast<size_t>(r * k + c)], 0.0F);
      std::fill(row.begin(), row.end(), 0.0);
      for (int64_t i = r; i < k; ++i) {
        const double factor = u[static_cast<size_t>(r * k + i)];
        for (int64_t c = 0; c < k; ++c) {
          row[static_cast<size_t>(c)] += factor * h[static_cast<size_t>(i * k + c)];
        }
      }
      for (int64_t s = 0; s < k; ++s) {
        double sum = 0;
        for (int64_t c = s; c < k; ++c) {
          sum += row[static_cast<size_t>(c)] * u[static_cast<size_t>(s * k + c)];
        }
        ASSERT_NEAR(sum, r == s ? 1.0 : 0.0, 2e-4) << "k " << k << ", " << r << ", " << s;
      }
    }
  }
}

TEST(CholeskyTest, ReportsThePivotThatFails) {
  runtime::ThreadPool pool(2);
  const int64_t k = 300;
  const std::vector<float> good = damped_gram(k, 5);
  // A channel that is the copy of an earlier one, and a little less, leaves less than nothing.
  const int64_t first = 20, copy = 250;
  std::vector<float> a = good;
  for (int64_t i = 0; i < k; ++i) {
    a[static_cast<size_t>(copy * k + i)] = good[static_cast<size_t>(first * k + i)];
  }
  for (int64_t i = 0; i < k; ++i) {
    a[static_cast<size_t>(i * k + copy)] = a[static_cast<size_t>(i * k + first)];
  }
  a[static_cast<size_t>(copy * (k + 1))] *= 0.999F;
  std::vector<float> work = a;
  const auto bad = cholesky(pool, square(work, k));
  ASSERT_TRUE(bad);
  EXPECT_EQ(bad->index, copy);
  const double whole = a[static_cast<size_t>(first * (k + 1))];
  EXPECT_NEAR(bad->value, -0.001 * whole, 1e-5 * whole);
  work = a;
  const auto reversed = upper_factor_of_inverse(pool, square(work, k));
  ASSERT_TRUE(reversed);
  EXPECT_EQ(reversed->index, first);  // the later of the two from the other end

  a = good;
  a[static_cast<size_t>(140 * k + 3)] = std::numeric_limits<float>::quiet_NaN();
  const auto not_a_number = cholesky(pool, square(a, k));
  ASSERT_TRUE(not_a_number);
  EXPECT_LE(not_a_number->index, 140);
  a = {-1.0F};
  ASSERT_TRUE(cholesky(pool, square(a, 1)));
  a = {0.0F};
  ASSERT_TRUE(cholesky(pool, square(a, 1)));
  EXPECT_THROW(cholesky(pool, {a.data(), 1, 2, 2}), Error);
}

}  // namespace
}  // namespace nibble::quant
