#include "quant/products/dense_matmul.h"

#include <gtest/gtest.h>

#include <cmath>
#include <cstring>
#include <random>
#include <vector>

#include "jit/error.h"

namespace nibble::quant {
namespace {

constexpr float kGap = -77.25F;  // between the rows of what is written

struct Dense {
  int64_t rows, columns, stride;
  std::vector<float> data;
  float at(int64_t r, int64_t c) const { return data[static_cast<size_t>(r * stride + c)]; }
  ConstMatrix view() const { return {data.data(), rows, columns, stride}; }
  Matrix view() { return {data.data(), rows, columns, stride}; }
};

Dense random_dense(int64_t rows, int64_t columns, int64_t gap, uint32_t seed) {
  Dense matrix{rows, columns, columns + gap, {}};
  std::mt19937 random(seed);
  std::normal_distribution<float> normal;
  matrix.data.assign(static_cast<size_t>(rows * matrix.stride), kGap);
  for (int64_t r = 0; r < rows; ++r) {
    for (int64_t c = 0; c < columns; ++c) {
      matrix.data[static_cast<size_t>(r * matrix.stride + c)] = normal(random);
    }
  }
  return matrix;
}

struct Shape {
  int64_t m, n, k;
};

void check_product(const Shape& s, bool transpose_a, bool transpose_b, bool accumulate) {
  SCOPED_TRACE(testing::Message() << "m " << s.m << " n " << s.n << " k " << s.k << " a^T "
                                  << transpose_a << " b^T " << transpose_b << " add "
                                  << accumulate);
  const Dense a = transpose_a ? random_dense(s.k, s.m, 3, 1) : random_dense(s.m, s.k, 3, 1);
  const Dense b = transpose_b ? random_dense(s.n, s.k, 5, 2) : random_dense(s.k, s.n, 5, 2);
  const Dense before = random_dense(s.m, s.n, 7, 3);
  Dense one = before, three = before;
  runtime::ThreadPool alone(1), team(3);
  matmul(alone, a.view(), transpose_a, b.view(), transpose_b, one.view(), accumulate);
  matmul(team, a.view(), transpose_a, b.view(), transpose_b, three.view(), accumulate);
  ASSERT_EQ(std::memcmp(one.data.data(), three.data.data(), one.data.size() * sizeof(float)), 0)
      << "the bits depend on the number of threads";
  for (int64_t r = 0; r < s.m; ++r) {
    for (int64_t c = 0; c < s.n; ++c) {
      double sum = accumulate ? before.at(r, c) : 0.0, size = std::fabs(sum);
      for (int64_t i = 0; i < s.k; ++i) {
        const double product = static_cast<double>(transpose_a ? a.at(i, r) : a.at(r, i)) *
                               (transpose_b ? b.at(c, i) : b.at(i, c));
        sum += product;
        size += std::fabs(product);
      }
      ASSERT_NEAR(one.at(r, c), sum, 2e-6 * size) << "row " << r << ", column " << c;
    }
    for (int64_t c = s.n; c < one.stride; ++c) {
      ASSERT_EQ(one.data[static_cast<size_t>(r * one.stride + c)], kGap) << "between the rows";
    }
  }
}

TEST(DenseMatmulTest, IsTheProductInEveryShapeAndOrientation) {
  const Shape shapes[] = {{1, 1, 1}, {3, 17, 5}, {8, 48, 512}, {70, 33, 513}, {259, 400, 40}};
  for (const Shape& shape : shapes) {
    for (const int flags : {0, 1, 2, 3, 4, 5, 6, 7}) {
      check_product(shape, (flags & 1) != 0, (flags & 2) != 0, (flags & 4) != 0);
    }
  }
}

TEST(DenseMatmulTest, WithoutTermsIsZeroOrWhatWasThere) {
  runtime::ThreadPool pool(1);
  Dense c = random_dense(2, 3, 0, 4);
  const Dense before = c;
  matmul(pool, {nullptr, 2, 0, 0}, false, {nullptr, 0, 3, 3}, false, c.view(), true);
  EXPECT_EQ(c.data, before.data);
  matmul(pool, {nullptr, 2, 0, 0}, false, {nullptr, 0, 3, 3}, false, c.view(), false);
  EXPECT_EQ(c.data, std::vector<float>(6, 0.0F));
}

TEST(DenseMatmulTest, RefusesShapesThatDoNotFit) {
  runtime::ThreadPool pool(1);
  const Dense a = random_dense(2, 3, 0, 1), b = random_dense(4, 5, 0, 2);
  Dense c = random_dense(2, 5, 0, 3);
  EXPECT_THROW(matmul(pool, a.view(), false, b.view(), false, c.view(), false), Error);
  EXPECT_THROW(gram(pool, a.view(), c.view(), false), Error);
}

TEST(GramTest, IsTheProductOfTheTransposeBitForBit) {
  for (const int64_t k : {int64_t{5}, int64_t{64}, int64_t{900}}) {
    const Dense x = random_dense(530, k, 2, 9);
    Dense product = random_dense(k, k, 0, 10);
    for (int64_t r = 0; r < k; ++r) {
      for (int64_t c = 0; c < r; ++c) {
        product.data[static_cast<size_t>(r * k + c)] = product.at(c, r);
      }
    }
    Dense both = product;
    runtime::ThreadPool pool(2);
    for (const bool accumulate : {true, false}) {
      gram(pool, x.view(), product.view(), accumulate);
      matmul(pool, x.view(), true, x.view(), false, both.view(), accumulate);
      ASSERT_EQ(product.data, both.data) << k << " columns";
    }
  }
}

}  // namespace
}  // namespace nibble::quant
