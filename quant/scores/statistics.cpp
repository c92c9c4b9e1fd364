#include "quant/scores/statistics.h"

#include <algorithm>
#include <cmath>

#include "jit/error.h"

namespace nibble::quant {
namespace {

constexpr double kNormal95 = 1.959963984540054;  // 97.5% of a normal distribution lie below

// The mean of value(0), ..., value(count - 1) in two passes: no cancellation.
template <typename Value>
Mean mean_by(size_t count, Value&& value) {
  if (count == 0) return {};
  const auto n = static_cast<double>(count);
  double sum = 0;
  for (size_t i = 0; i < count; ++i) sum += value(i);
  const double mean = sum / n;
  double squares = 0;
  for (size_t i = 0; i < count; ++i) squares += (value(i) - mean) * (value(i) - mean);
  const double error = count > 1 ? std::sqrt(squares / (n - 1) / n) : 0;
  return {mean, error, static_cast<int64_t>(count)};
}

void expect_pairs(size_t a, size_t b) {
  if (a != b)
    fail("A paired comparison needs as many values on both sides, found {} and {}.", a, b);
}

// P(at most `k` of `n` fair coins show heads), in logarithms as 2^-n leaves the range of double.
double coin_tail(int64_t k, int64_t n) {
  const auto log_factorial = [](int64_t m) { return std::lgamma(static_cast<double>(m) + 1); };
  const double all = log_factorial(n) - static_cast<double>(n) * std::log(2.0);
  double sum = 0;
  for (int64_t i = 0; i <= k; ++i) sum += std::exp(all - log_factorial(i) - log_factorial(n - i));
  return sum;
}

}  // namespace

Mean mean_of(std::span<const double> values) {
  return mean_by(values.size(), [&](size_t i) { return values[i]; });
}

Mean paired_difference(std::span<const double> after, std::span<const double> before) {
  expect_pairs(after.size(), before.size());
  return mean_by(after.size(), [&](size_t i) { return after[i] - before[i]; });
}

Interval interval_of(const Mean& mean) {
  return {mean.value - kNormal95 * mean.standard_error,
          mean.value + kNormal95 * mean.standard_error};
}

double perplexity_of(const Mean& nll) { return std::exp(nll.value); }

Interval perplexity_interval(const Mean& nll) {
  const Interval inside = interval_of(nll);
  return {std::exp(inside.low), std::exp(inside.high)};
}

Interval share_interval(int64_t successes, int64_t count) {
  if (count == 0) return {0, 1};
  const auto n = static_cast<double>(count);
  const double share = static_cast<double>(successes) / n, z2 = kNormal95 * kNormal95;
  const double middle = (share + z2 / (2 * n)) / (1 + z2 / n);
  const double half =
      kNormal95 / (1 + z2 / n) * std::sqrt(share * (1 - share) / n + z2 / (4 * n * n));
  // At either end the bound is the end itself, but for rounding.
  return {successes == 0 ? 0 : middle - half, successes == count ? 1 : middle + half};
}

PairedTest mcnemar(std::span<const uint8_t> first, std::span<const uint8_t> second) {
  expect_pairs(first.size(), second.size());
  PairedTest test;
  for (size_t i = 0; i < first.size(); ++i) {
    const bool a = first[i] != 0, b = second[i] != 0;
    test.only_first += a && !b ? 1 : 0;
    test.only_second += b && !a ? 1 : 0;
  }
  const int64_t fewer = std::min(test.only_first, test.only_second);
  test.p_value = std::min(1.0, 2 * coin_tail(fewer, test.only_first + test.only_second));
  return test;
}

}  // namespace nibble::quant
