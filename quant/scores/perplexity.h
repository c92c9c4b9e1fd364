// How well a decoder predicts a text, alone and beside a base: negative log-likelihoods of every
// scored id, KL divergence from the base, agreement of the likeliest ids. On ids, not on text.
//
// Memory: a chunk's logits (rows_at_a_time() rows for each model) and 25 bytes for every scored id.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <vector>

#include "quant/scores/base_scores.h"
#include "quant/scores/statistics.h"
#include "quant/scores/windows.h"
#include "runtime/decoder.h"
#include "runtime/thread_pool.h"

namespace nibble::quant {

// How to go about it; nothing here changes a result.
struct Scoring {
  runtime::ThreadPool* pool = nullptr;  // looks at rows; null: the calling thread
  // Called with the ids scored so far and in the end. What it throws ends the scoring.
  std::function<void(int64_t done, int64_t total)> progress;
};

struct Scores {
  std::vector<double> nll;     // -log p(id | what is before it), of every scored id, in nats
  double seconds = 0;          // in all
  double decoder_seconds = 0;  // of them within Decoder

  Mean mean_nll() const { return mean_of(nll); }
  double perplexity() const { return perplexity_of(mean_nll()); }
};

// Throws Error when the ids do not fit the protocol or the decoder, or when logits are not finite.
Scores score(runtime::Decoder& decoder, std::span<const int32_t> ids, const Protocol& protocol,
             const Scoring& scoring = {});

struct Comparison {
  Scores model;
  std::vector<double> base_nll;  // of the same ids
  std::vector<double> kl;        // KL(base || model) after what is before each scored id, in nats
  int64_t same_best = 0;         // ids before which both have the same likeliest id

  double perplexity() const { return model.perplexity(); }
  double base_perplexity() const { return perplexity_of(mean_of(base_nll)); }
  Mean mean_kl() const { return mean_of(kl); }
  double top1() const { return static_cast<double>(same_best) / static_cast<double>(kl.size()); }
  // Of -log p(model) + log p(base): the logarithm of perplexity() / base_perplexity().
  Mean delta_nll() const { return paired_difference(model.nll, base_nll); }
  Interval perplexity_ratio() const { return perplexity_interval(delta_nll()); }
};

// Both decoders read the text side by side.
Comparison compare(runtime::Decoder& model, runtime::Decoder& base, std::span<const int32_t> ids,
                   const Protocol& protocol, const Scoring& scoring = {});

// The base may be gone by then: any number of models can be compared with what it said.
BaseScores score_base(runtime::Decoder& base, std::span<const int32_t> ids,
                      const Protocol& protocol, const Scoring& scoring = {});
// Throws Error also when rows of the base are still missing.
Comparison compare(runtime::Decoder& model, const BaseScores& base, const Scoring& scoring = {});

}  // namespace nibble::quant
