// How likely a decoder finds given ids after a context: what cloze and multiple-choice tasks are
// scored by. Neighbouring questions usually share their beginnings, which are run once.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "runtime/decoder.h"

namespace nibble::quant {

struct ContinuationScore {
  double log_prob = 0;     // sum of log p(id | what is before it), in nats
  bool greedy = true;      // each id is the likeliest, the lowest one among equals
  bool truncated = false;  // the front of the context was left out, as it did not fit
};

class ContinuationScorer {
 public:
  // Leaves the decoder in no particular state.
  explicit ContinuationScorer(runtime::Decoder& decoder) : decoder_(decoder) {}

  // At least one id each. A context too long for the decoder loses ids from its front; throws Error
  // when the continuation alone does not fit, an id is unknown, or logits are not finite.
  ContinuationScore score(std::span<const int32_t> context, std::span<const int32_t> continuation);

  int64_t ids_run() const { return ids_run_; }  // through the decoder so far

 private:
  void hold(std::span<const int32_t> ids, int64_t rows);

  runtime::Decoder& decoder_;
  std::vector<int32_t> held_;  // by the decoder
  std::vector<float> logits_;
  int64_t ids_run_ = 0;
};

}  // namespace nibble::quant
