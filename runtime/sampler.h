// Picks the next id from logits. Deterministic for a seed on every machine.
//
// Order: repetition penalty on ids already present (logit > 0 divided, otherwise multiplied), then
// either the first largest logit (greedy, or temperature 0), or: divide by temperature, keep the
// top_k largest, softmax, keep the smallest set with mass >= top_p, drop those below min_p times
// the largest probability, draw. A NaN among the logits is an Error, never a silent pick.
#pragma once

#include <cstdint>
#include <span>
#include <utility>
#include <vector>

namespace nibble::runtime {

struct SamplerOptions {
  bool greedy = false;
  float temperature = 0.8F;     // >= 0
  int top_k = 40;               // 0 = off
  float top_p = 0.95F;          // (0, 1], 1 = off
  float min_p = 0.05F;          // [0, 1), 0 = off
  float repeat_penalty = 1.0F;  // > 0, 1 = off
  int repeat_last = 64;         // how many of the last ids the penalty looks at; -1 = all
  uint64_t seed = 0;
};

class Sampler {
 public:
  // Throws Error when an option is out of its range, naming it.
  explicit Sampler(const SamplerOptions& options);

  // `history`: prompt and generated ids so far, oldest first.
  int32_t sample(std::span<const float> logits, std::span<const int32_t> history);

 private:
  uint64_t next_random();

  SamplerOptions options_;
  uint64_t state_[4];  // xoshiro256**
  std::vector<std::pair<float, int32_t>> candidates_;
  std::vector<double> weights_;  // of those that remain
};

}  // namespace nibble::runtime
