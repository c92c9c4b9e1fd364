#include "runtime/sampler.h"

#include <algorithm>
#include <bit>
#include <cmath>
#include <limits>

#include "jit/error.h"

namespace nibble::runtime {
namespace {

using Candidate = std::pair<float, int32_t>;  // logit, id

constexpr size_t kFirstSorted = 256;  // candidates sorted at first; then twice as many, and so on

// Larger logits first, the lower id where they are equal: a total order, so that every sorting
// algorithm gives the same.
bool before(const Candidate& a, const Candidate& b) {
  return a.first != b.first ? a.first > b.first : a.second < b.second;
}

void check_options(const SamplerOptions& o) {
  // Written so that NaN fails too.
  if (!(o.temperature >= 0 && std::isfinite(o.temperature))) {
    fail("The temperature must be a number of at least 0, found {}.", o.temperature);
  }
  if (o.top_k < 0) fail("top-k must be at least 0, found {}.", o.top_k);
  if (!(o.top_p > 0 && o.top_p <= 1)) {
    fail("top-p must be above 0 and at most 1, found {}.", o.top_p);
  }
  if (!(o.min_p >= 0 && o.min_p < 1)) {
    fail("min-p must be at least 0 and below 1, found {}.", o.min_p);
  }
  if (!(o.repeat_penalty > 0 && std::isfinite(o.repeat_penalty))) {
    fail("The repetition penalty must be a number above 0, found {}.", o.repeat_penalty);
  }
  if (o.repeat_last < -1) {
    fail("The repetition penalty can look at the last 0 or more ids, or at all (-1), found {}.",
         o.repeat_last);
  }
}

// Divides the logits of ids among the last `last` of the history. From `logits`, so an id that
// occurs twice is penalised once.
void penalise(std::span<const float> logits, std::span<const int32_t> history, float penalty,
              int last, std::vector<Candidate>& candidates) {
  if (last >= 0 && history.size() > static_cast<size_t>(last)) {
    history = history.last(static_cast<size_t>(last));
  }
  for (const int32_t id : history) {
    if (id < 0 || static_cast<size_t>(id) >= logits.size()) {
      fail("The history holds the id {}, which is outside the vocabulary of {} ids.", id,
           logits.size());
    }
    const float logit = logits[static_cast<size_t>(id)];
    candidates[static_cast<size_t>(id)].first = logit > 0 ? logit / penalty : logit * penalty;
  }
}

// Candidates in order, sorted no further than they are looked at.
class Ranking {
 public:
  explicit Ranking(std::vector<Candidate>& candidates) : all_(candidates) {}

  const Candidate& operator[](size_t i) {
    while (i >= sorted_) sort_more();
    return all_[i];
  }

 private:
  void sort_more() {
    const size_t want = std::min(all_.size(), std::max(kFirstSorted, 2 * sorted_));
    const auto from = all_.begin() + static_cast<ptrdiff_t>(sorted_);
    const auto to = all_.begin() + static_cast<ptrdiff_t>(want);
    if (to != all_.end()) std::nth_element(from, to, all_.end(), before);
    std::sort(from, to, before);
    sorted_ = want;
  }

  std::vector<Candidate>& all_;
  size_t sorted_ = 0;
};

// exp((logit - largest) / temperature): the largest has weight 1, also where it is infinite.
double weight_of(float logit, float largest, double temperature) {
  if (logit == largest) return 1.0;
  return std::exp((static_cast<double>(logit) - static_cast<double>(largest)) / temperature);
}

// How many of the first `limit` ranked candidates remain after top-p and min-p.
size_t keep(Ranking& ranking, size_t limit, double total, const SamplerOptions& options,
            std::vector<double>& weights) {
  const double temperature = options.temperature;
  const float largest = ranking[0].first;
  const double wanted = static_cast<double>(options.top_p) * total;
  double mass = 0;
  weights.clear();
  for (size_t i = 0; i < limit; ++i) {
    const double weight = weight_of(ranking[i].first, largest, temperature);
    if (i > 0 && weight < static_cast<double>(options.min_p)) break;  // as are all that follow
    weights.push_back(weight);
    mass += weight;
    if (options.top_p < 1 && mass >= wanted) break;
  }
  return weights.size();
}

uint64_t split_mix(uint64_t& state) {
  uint64_t x = state += 0x9e3779b97f4a7c15;
  x = (x ^ (x >> 30)) * 0xbf58476d1ce4e5b9;
  x = (x ^ (x >> 27)) * 0x94d049bb133111eb;
  return x ^ (x >> 31);
}

}  // namespace

Sampler::Sampler(const SamplerOptions& options) : options_(options) {
  check_options(options);
  uint64_t seed = options.seed;
  for (uint64_t& word : state_) word = split_mix(seed);
}

uint64_t Sampler::next_random() {
  const uint64_t result = std::rotl(state_[1] * 5, 7) * 9;
  const uint64_t shifted = state_[1] << 17;
  state_[2] ^= state_[0];
  state_[3] ^= state_[1];
  state_[1] ^= state_[2];
  state_[0] ^= state_[3];
  state_[2] ^= shifted;
  state_[3] = std::rotl(state_[3], 45);
  return result;
}

int32_t Sampler::sample(std::span<const float> logits, std::span<const int32_t> history) {
  if (logits.empty()) fail("There are no logits to pick an id from.");
  candidates_.resize(logits.size());
  for (size_t i = 0; i < logits.size(); ++i) {
    if (std::isnan(logits[i])) {
      fail("The logit of id {} is not a number, so no id can be picked.", i);
    }
    candidates_[i] = {logits[i], static_cast<int32_t>(i)};
  }
  if (options_.repeat_penalty != 1.0F) {
    penalise(logits, history, options_.repeat_penalty, options_.repeat_last, candidates_);
  }
  const Candidate best = *std::min_element(candidates_.begin(), candidates_.end(), before);
  if (best.first == -std::numeric_limits<float>::infinity()) {
    fail("All {} logits are minus infinity, so no id can be picked.", logits.size());
  }
  if (options_.greedy || options_.temperature == 0) return best.second;

  const auto limit = options_.top_k == 0
                         ? candidates_.size()
                         : std::min(candidates_.size(), static_cast<size_t>(options_.top_k));
  Ranking ranking(candidates_);
  double total = 0;  // of the softmax that top-p is a share of
  if (options_.top_p < 1) {
    if (limit < candidates_.size()) ranking[limit - 1];  // only the first `limit` count
    for (size_t i = 0; i < limit; ++i) {
      total += weight_of(candidates_[i].first, best.first, options_.temperature);
    }
  }
  const size_t kept = keep(ranking, limit, total, options_, weights_);

  double mass = 0;
  for (size_t i = 0; i < kept; ++i) mass += weights_[i];
  // 53 random bits make a double in [0, 1) on every machine.
  const double drawn = static_cast<double>(next_random() >> 11) * 0x1p-53 * mass;
  double passed = 0;
  for (size_t i = 0; i + 1 < kept; ++i) {
    passed += weights_[i];
    if (drawn < passed) return ranking[i].second;
  }
  return ranking[kept - 1].second;
}

}  // namespace nibble::runtime
