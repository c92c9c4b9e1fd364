#include "quant/scores/base_scores.h"

#include <cmath>

#include "jit/error.h"

namespace nibble::quant {

BaseScores::BaseScores(std::span<const int32_t> ids, const Protocol& protocol, int64_t vocabulary)
    : ids_(ids.begin(), ids.end()), protocol_(protocol), vocabulary_(vocabulary) {
  for_each_chunk(ids_, protocol_, protocol_.window, [&](const Chunk& chunk) {
    targets_.insert(targets_.end(), chunk.targets.begin(), chunk.targets.end());
  });
  for (const int32_t id : targets_) {
    if (id >= 0 && id < vocabulary_) continue;
    fail("The text has the id {}, but the base knows {} ids.", id, vocabulary_);
  }
  logits_.reserve(targets_.size() * static_cast<size_t>(vocabulary_));
  summaries_.reserve(targets_.size());
}

void BaseScores::add_row(std::span<const float> logits) {
  if (complete()) fail("The base has all its {} rows of logits; one more was given.", rows());
  if (static_cast<int64_t>(logits.size()) != vocabulary_) {
    fail("Row {} of the base's logits has {} of them, expected one for each of {} ids.",
         rows_added(), logits.size(), vocabulary_);
  }
  const RowSummary summary = summarize(logits);
  if (std::isnan(summary.log_sum)) {
    fail("Row {} of the base's logits holds NaN or an infinity.", rows_added());
  }
  logits_.insert(logits_.end(), logits.begin(), logits.end());
  summaries_.push_back(summary);
}

int64_t BaseScores::bytes() const {
  const auto row = vocabulary_ * static_cast<int64_t>(sizeof(float)) +
                   static_cast<int64_t>(sizeof(RowSummary) + sizeof(int32_t));
  return rows() * row + static_cast<int64_t>(ids_.size() * sizeof(int32_t));
}

std::span<const float> BaseScores::logits(int64_t row) const {
  return std::span(logits_).subspan(static_cast<size_t>(row * vocabulary_),
                                    static_cast<size_t>(vocabulary_));
}

double BaseScores::nll(int64_t row) const {
  const auto target = static_cast<size_t>(targets_[static_cast<size_t>(row)]);
  return -summary(row).log_prob(logits(row)[target]);
}

}  // namespace nibble::quant
