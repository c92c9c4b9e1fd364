// How sure a measured mean is. Errors are standard errors of independent items; intervals hold the
// true value in 95 of 100 cases, by the normal approximation where nothing else is said.
#pragma once

#include <cstdint>
#include <span>

namespace nibble::quant {

struct Mean {
  double value = 0;
  double standard_error = 0;  // sqrt(sum (x - mean)^2 / (n - 1) / n); 0 for fewer than two
  int64_t count = 0;
};

struct Interval {
  double low = 0, high = 0;
};

// Of nothing: 0.
Mean mean_of(std::span<const double> values);
// Of after[i] - before[i], spans of the same length. What both share (hard tokens, say) cancels, so
// its error is far smaller than that of either mean.
Mean paired_difference(std::span<const double> after, std::span<const double> before);

Interval interval_of(const Mean& mean);  // value -+ 1.96 standard errors

// e^mean of negative log-likelihoods in nats; the interval is taken before the exponential, so it
// lies around the value unevenly, and never below 0.
double perplexity_of(const Mean& nll);
Interval perplexity_interval(const Mean& nll);

// Of a share of successes: Wilson's score interval, which stays within 0..1 and is right for few
// items and for shares near either end.
Interval share_interval(int64_t successes, int64_t count);

// McNemar's exact test of two answers to the same questions: of those that only one got right, as
// many should be one's as the other's.
struct PairedTest {
  int64_t only_first = 0, only_second = 0;  // right there and wrong in the other
  double p_value = 1;                       // two-sided; that chance makes so uneven a split
};
// 0 and not 0: wrong and right; spans of the same length.
PairedTest mcnemar(std::span<const uint8_t> first, std::span<const uint8_t> second);

}  // namespace nibble::quant
