// What one row of logits says of the next id: normalisation, the likeliest id, and how far another
// row is from it. The innermost loops of every evaluation; they know no model and no text.
//
// Exponentials are fp32 (relative error < 3e-7), summed in fp32 over at most 256 logits at a time
// and from there on in double, always in the same order. So log_sum and with it every
// log-probability is within 1e-6 of exact arithmetic on the given fp32 logits.
//
// A logit of -inf is a probability of 0. NaN and +inf make log_sum NaN, which callers must look at.
#pragma once

#include <cstdint>
#include <span>

namespace nibble::quant {

// Rows of logits to make at a time: enough to read a model's weights at prefill's pace, 512, or
// fewer where a large vocabulary would make them more than kLogitsBytes (but never under 16).
inline constexpr int64_t kLogitsBytes = int64_t{64} << 20;
int64_t rows_at_a_time(int64_t vocabulary);

struct RowSummary {
  double log_sum = 0;  // log(sum of e^logit); NaN when a logit is NaN or +inf, or all are -inf
  int32_t best = 0;    // id of the largest logit, the lowest such id

  double log_prob(float logit) const { return static_cast<double>(logit) - log_sum; }
};

// At least one logit.
RowSummary summarize(std::span<const float> logits);

// KL(base || model) = sum_i p_i (log p_i - log q_i) in nats, with p of `base` and q of `model`:
// rows of the same length and their summaries. An id that the base gives less than e^-87 adds
// nothing; one that only the model gives 0 makes it infinite. Equal rows have exactly 0; where the
// rows are all but equal, rounding may leave some -1e-8.
double kl_divergence(std::span<const float> base, const RowSummary& base_summary,
                     std::span<const float> model, const RowSummary& model_summary);

}  // namespace nibble::quant
