// Mixed precision: which of its candidate formats each weight gets, so that the sum of the losses
// is least under a budget of bits a weight. The losses are those of whoever measured them
// (anything additive: output error, loss change to first order); nothing is quantized here.
//
// This is the multiple-choice knapsack problem. Its linear relaxation is solved exactly, by taking
// steps along each weight's lower convex hull of (bytes, loss) in the order of loss saved a byte,
// which visits the optimum of every Lagrange multiplier; single and pairwise exchanges then use
// what is left of the budget. The relaxation's value bounds how far from the best the result is.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "jit/packed_layout.h"

namespace nibble::quant {

struct FormatCandidate {
  jit::WeightFormat format;
  double loss = 0;
  int64_t bytes = 0;  // as stored, with scales, zero points and padding: stored_bytes
};

// What a matrix of n columns of k takes in a format.
int64_t stored_bytes(const jit::WeightFormat& format, int64_t n, int64_t k);

struct WeightCandidates {
  std::string name;
  int64_t weights = 0;  // n * k
  std::vector<FormatCandidate> candidates;
};

struct FormatChoice {
  std::vector<size_t> picks;  // the candidate of each weight
  double loss = 0;            // their sum
  double loss_bound = 0;      // no choice within the budget has less
  int64_t bytes = 0;
  double bits = 0;  // 8 * bytes / all weights
};

// The same input gives the same picks; where they are worth the same, the first are taken. Throws
// Error when a weight has no candidate, a loss is not finite, or the smallest candidates together
// are beyond the budget.
FormatChoice choose_mixed(std::span<const WeightCandidates> weights, double average_bits);

}  // namespace nibble::quant
