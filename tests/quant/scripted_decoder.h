// A decoder whose logits are a function of all the ids that it holds, so that a wrong context shows
// in every figure; it notes how it was called.
#pragma once

#include <algorithm>
#include <cmath>
#include <cstdint>
#include <span>
#include <vector>

#include "runtime/decoder.h"

namespace nibble::quant {

inline constexpr int64_t kVocabulary = 50;  // of tests that do not ask for another

// The logits after `context`: `vocabulary` numbers in [-4, 4), by a hash of all of it. `noise`
// scales another hash that is added: two decoders of different noise are near each other.
inline std::vector<float> scripted_logits(std::span<const int32_t> context, int64_t vocabulary,
                                          float noise = 0) {
  uint64_t hash = 1469598103934665603ULL;
  const auto mix = [&](uint64_t word) {
    hash = (hash ^ word) * 0x9E3779B97F4A7C15ULL;
    hash ^= hash >> 29;
  };
  for (const int32_t id : context) mix(static_cast<uint64_t>(id) + 1);
  const auto number = [&] { return static_cast<float>(hash >> 40) / 2097152.0F - 4.0F; };
  std::vector<float> logits;
  for (int64_t id = 0; id < vocabulary; ++id) {
    mix(static_cast<uint64_t>(id) + 77);
    const float logit = number();
    mix(99);
    logits.push_back(logit + noise * number());
  }
  return logits;
}

class ScriptedDecoder : public runtime::Decoder {
 public:
  explicit ScriptedDecoder(int64_t vocabulary, int64_t context = 64, float noise = 0)
      : vocabulary_(vocabulary), context_(context), noise_(noise) {}

  int64_t vocab_size() const override { return vocabulary_; }
  int64_t context_length() const override { return context_; }
  int64_t position() const override { return static_cast<int64_t>(held_.size()); }
  void reset() override {
    ++resets;
    held_.clear();
  }
  bool rewind(int64_t position) override {
    if (!can_rewind || position > this->position()) return Decoder::rewind(position);
    held_.resize(static_cast<size_t>(position));
    return true;
  }
  std::span<const float> forward(std::span<const int32_t> ids) override {
    check_ids(ids);
    fed += static_cast<int64_t>(ids.size());
    held_.insert(held_.end(), ids.begin(), ids.end());
    last_ = logits();
    return last_;
  }
  void forward_all(std::span<const int32_t> ids, std::span<float> out) override {
    check_ids(ids);
    most_rows = std::max(most_rows, ids.size());
    fed += static_cast<int64_t>(ids.size());
    for (const int32_t id : ids) {
      held_.push_back(id);
      const std::vector<float> row = logits();
      std::copy(row.begin(), row.end(), out.begin());
      out = out.subspan(row.size());
    }
    rows += static_cast<int64_t>(ids.size());
  }

  bool can_rewind = true;
  int resets = 0;
  int64_t fed = 0, rows = 0;      // ids fed, and rows of logits of forward_all
  size_t most_rows = 0;           // of one forward_all
  std::vector<int32_t> spoil_at;  // after just these ids a logit is `spoilt`
  float spoilt = 0;

 private:
  std::vector<float> logits() const {
    std::vector<float> row = scripted_logits(held_, vocabulary_, noise_);
    if (!spoil_at.empty() && held_ == spoil_at) row.back() = spoilt;
    return row;
  }
  int64_t vocabulary_, context_;
  float noise_;
  std::vector<int32_t> held_;
  std::vector<float> last_;
};

// -log p(id | context) in double, plainly.
inline double scripted_nll(std::span<const int32_t> context, int32_t id, int64_t vocabulary,
                           float noise = 0) {
  const std::vector<float> logits = scripted_logits(context, vocabulary, noise);
  double sum = 0;
  for (const float logit : logits) sum += std::exp(static_cast<double>(logit));
  return std::log(sum) - static_cast<double>(logits[static_cast<size_t>(id)]);
}

}  // namespace nibble::quant
