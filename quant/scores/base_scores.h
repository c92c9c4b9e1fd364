// What a base model says of every scored id of a text, kept so that candidates can be compared with
// it without the base being loaded, or there at all: rows may come from another program.
//
// Logits are kept in fp32 as they come, so that KL divergences are those of models side by side,
// to the bit. Memory: scored ids x (4 x vocabulary + 24) bytes: 491 MB for 30,000 ids of 4,096, or
// 262 MB for 2,048 ids of 32,000. Protocol::max_tokens bounds it.
#pragma once

#include <cstdint>
#include <span>
#include <vector>

#include "quant/scores/log_probs.h"
#include "quant/scores/windows.h"

namespace nibble::quant {

class BaseScores {
 public:
  // Throws Error when the ids do not fit the protocol or one is not in [0, vocabulary).
  BaseScores(std::span<const int32_t> ids, const Protocol& protocol, int64_t vocabulary);

  // The logits before the next scored id, in the order of for_each_chunk: `vocabulary` of them.
  // Throws Error when there are more or fewer, when they are not finite, or when all rows are
  // there.
  void add_row(std::span<const float> logits);

  std::span<const int32_t> ids() const { return ids_; }
  const Protocol& protocol() const { return protocol_; }
  int64_t vocabulary() const { return vocabulary_; }
  int64_t rows() const { return static_cast<int64_t>(targets_.size()); }  // when complete
  int64_t rows_added() const { return static_cast<int64_t>(summaries_.size()); }
  bool complete() const { return rows_added() == rows(); }
  int64_t bytes() const;  // when complete

  // Of row 0 to rows_added() - 1.
  std::span<const float> logits(int64_t row) const;
  const RowSummary& summary(int64_t row) const { return summaries_[static_cast<size_t>(row)]; }
  double nll(int64_t row) const;

 private:
  std::vector<int32_t> ids_;
  Protocol protocol_;
  int64_t vocabulary_;
  std::vector<int32_t> targets_;
  std::vector<float> logits_;  // [rows][vocabulary]
  std::vector<RowSummary> summaries_;
};

}  // namespace nibble::quant
