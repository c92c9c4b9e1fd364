#include "tools/tune/search.h"

#include <algorithm>
#include <cmath>
#include <cstdlib>
#include <limits>
#include <numeric>
#include <optional>
#include <random>
#include <set>
#include <utility>

namespace nibble::tune {
namespace {

constexpr double kExploreShare = 0.6;   // of the budget
constexpr double kHalvingShare = 0.85;  // ... when halving ends
constexpr int kReferenceSamples = 5;    // of the default, at the start
constexpr int kReferenceEvery = 8;      // candidates between two samples of the default
constexpr double kFarBehind = 1.15;     // times the best: dropped after one sample
constexpr size_t kMostFinalists = 24;
constexpr int kRoundSamples = 4;
constexpr int kLeastPairs = 7, kMostPairs = 41;
constexpr double kLeastGain = 0.005;  // smaller ones are not worth another kernel

double median(std::vector<double> values) {
  const auto middle = values.begin() + static_cast<std::ptrdiff_t>(values.size() / 2);
  std::nth_element(values.begin(), middle, values.end());
  return *middle;
}

double quantile(const std::vector<double>& sorted, double at) {
  return sorted[static_cast<size_t>(std::lround(at * static_cast<double>(sorted.size() - 1)))];
}

// Fisher-Yates by hand: std::shuffle differs between libraries.
std::vector<size_t> shuffled(size_t count, uint64_t seed) {
  std::vector<size_t> order(count);
  std::iota(order.begin(), order.end(), size_t{0});
  std::mt19937_64 random(seed);
  for (size_t i = count; i > 1; --i) std::swap(order[i - 1], order[random() % i]);
  return order;
}

// Where a tiling lies among the values that its candidates take, parameter by parameter.
struct Place {
  int mr = 0, nr = 0, unroll = 0, panel = 0, apart = 0, prefetch = 0, area = 0, width = 0;
};

std::vector<Place> places_of(std::span<const jit::Tiling> tilings) {
  const auto rank = [&](auto value_of) {
    std::set<decltype(value_of(tilings[0]))> values;
    for (const jit::Tiling& t : tilings) values.insert(value_of(t));
    return [values, value_of](const jit::Tiling& t) {
      return static_cast<int>(std::distance(values.begin(), values.find(value_of(t))));
    };
  };
  const auto mr = rank([](const jit::Tiling& t) { return t.mr; });
  const auto nr = rank([](const jit::Tiling& t) { return t.nr; });
  const auto unroll = rank([](const jit::Tiling& t) { return t.k_unroll; });
  // In one step or two: one parameter, in the order of how far ahead.
  const auto prefetch = rank([](const jit::Tiling& t) {
    return std::pair(std::max(t.prefetch_l1, t.prefetch_l2), t.prefetch_l1);
  });
  std::vector<Place> out;
  for (const jit::Tiling& t : tilings) {
    out.push_back({mr(t), nr(t), unroll(t), t.panel ? 1 : 0, t.apart ? 1 : 0, prefetch(t),
                   t.mr * t.nr, t.nr});
  }
  return out;
}

// One step in one parameter, or a tile of like area whose width is one step off.
bool beside(const Place& a, const Place& b) {
  const int inner = std::abs(a.unroll - b.unroll) + std::abs(a.panel - b.panel) +
                    std::abs(a.apart - b.apart) + std::abs(a.prefetch - b.prefetch);
  const int rows = std::abs(a.mr - b.mr), columns = std::abs(a.nr - b.nr);
  if (inner + rows + columns == 1) return true;
  return inner == 0 && columns == 1 && std::abs(a.area - b.area) <= std::max(a.width, b.width);
}

class Search {
 public:
  Search(std::span<const jit::Tiling> candidates, const SearchOptions& options,
         const SearchHooks& hooks)
      : tilings_(candidates),
        options_(options),
        hooks_(hooks),
        places_(places_of(candidates)),
        entries_(candidates.size()),
        start_(hooks.clock()) {}

  SearchResult run() {
    result_.candidates = static_cast<int64_t>(tilings_.size());
    result_.winner = tilings_[0];
    for (int i = 0; i < kReferenceSamples; ++i) sample_reference();
    settle(0, 1);
    for (const auto& [tiling, ratio] : options_.known) {
      const auto found = std::find(tilings_.begin(), tilings_.end(), tiling);
      const auto at = static_cast<size_t>(found - tilings_.begin());
      if (found != tilings_.end() && !entries_[at].done) settle(at, ratio);
    }
    explore();
    halve();
    finish();
    return std::move(result_);
  }

 private:
  struct Entry {
    bool done = false;  // tried or pruned
    bool pruned = false;
    double score = std::numeric_limits<double>::infinity();  // time over the default's
    std::vector<double> seconds, ratios;
  };

  bool stopped() {
    if (!result_.interrupted && hooks_.stop && hooks_.stop()) result_.interrupted = true;
    return result_.interrupted;
  }
  double spent() const { return (hooks_.clock() - start_) / options_.budget_s; }

  void sample_reference() {
    measure(0);
    const auto& all = entries_[0].seconds;
    reference_ = median({all.end() - std::min<std::ptrdiff_t>(3, std::ssize(all)), all.end()});
  }

  double measure(size_t at) {
    const double seconds = hooks_.sample(tilings_[at], false);
    entries_[at].seconds.push_back(seconds);
    fastest_ = std::min(fastest_, seconds);
    // What was measured faster than its bound shows by how much the roof was measured too low.
    if (hooks_.bound) scale_ = std::min(scale_, seconds / hooks_.bound(tilings_[at]));
    return seconds;
  }

  bool hopeless(size_t at) const {
    // A hair above, since the scale may be this very fastest one over its bound, rounded.
    return hooks_.bound && scale_ * hooks_.bound(tilings_[at]) > fastest_ * (1 + 1e-9);
  }

  double sample(size_t at) {
    Entry& entry = entries_[at];
    const double seconds = measure(at);
    entry.ratios.push_back(seconds / reference_);
    return entry.ratios.back();
  }

  void settle(size_t at, double score) {
    Entry& entry = entries_[at];
    entry.done = true;
    entry.score = score;
    ++result_.tried;
    if (score < entries_[best_].score) best_ = at;
  }

  void report() {
    if (!hooks_.progress) return;
    hooks_.progress({result_.tried + result_.pruned, result_.candidates, tilings_[best_],
                     entries_[best_].score, std::min(1.0, spent())});
  }

  // The first that is not done beside the best; none: nullopt.
  std::optional<size_t> next_beside_best() const {
    for (const size_t at : order_) {
      if (!entries_[at].done && beside(places_[at], places_[best_])) return at;
    }
    return std::nullopt;
  }

  std::optional<size_t> next_in_order() {
    while (cursor_ < order_.size() && entries_[order_[cursor_]].done) ++cursor_;
    if (cursor_ == order_.size()) return std::nullopt;
    return order_[cursor_];
  }

  void explore() {
    order_ = shuffled(tilings_.size(), options_.seed);
    for (int64_t turn = 0; spent() < kExploreShare && !stopped(); ++turn) {
      std::optional<size_t> next;
      if (turn % 2 == 1) next = next_beside_best();
      if (!next) next = next_in_order();
      if (!next) break;
      if (hopeless(*next)) {
        entries_[*next].done = entries_[*next].pruned = true;
        ++result_.pruned;
        continue;
      }
      if (result_.tried % kReferenceEvery == 0) sample_reference();
      // What disturbs a sample makes it longer: the shorter of two counts.
      double score = sample(*next);
      if (score < kFarBehind * entries_[best_].score) score = std::min(score, sample(*next));
      settle(*next, score);
      report();
    }
    next_in_order();
    result_.complete = cursor_ == order_.size();
  }

  void halve() {
    std::vector<size_t> alive;
    for (size_t i = 1; i < entries_.size(); ++i) {
      if (entries_[i].done && !entries_[i].pruned) alive.push_back(i);
    }
    sort_and_keep(alive, kMostFinalists);
    int samples = kRoundSamples;
    while (alive.size() > 1 && spent() < kHalvingShare && !stopped()) {
      for (const size_t at : alive) entries_[at].ratios.clear();
      for (int i = 0; i < samples && !stopped(); ++i) {
        sample_reference();
        for (const size_t at : alive) sample(at);
        if (i + 1 >= kRoundSamples / 2 && spent() > kHalvingShare) break;
      }
      for (const size_t at : alive) {
        if (!entries_[at].ratios.empty()) entries_[at].score = median(entries_[at].ratios);
      }
      sort_and_keep(alive, (alive.size() + 1) / 2);
      best_ = alive[0];
      samples += samples / 2;
      report();
    }
    if (!alive.empty()) best_ = alive[0];
  }

  void sort_and_keep(std::vector<size_t>& alive, size_t most) const {
    std::sort(alive.begin(), alive.end(), [&](size_t a, size_t b) {
      return std::pair(entries_[a].score, a) < std::pair(entries_[b].score, b);
    });
    alive.resize(std::min(alive.size(), most));
  }

  void finish() {
    for (size_t i = 0; i < entries_.size(); ++i) {
      if (!entries_[i].seconds.empty()) {
        result_.timings[jit::name(tilings_[i])] = timing_of(entries_[i].seconds);
      }
    }
    if (best_ == 0 || stopped()) return;
    const Duel last = duel(tilings_[0], tilings_[best_], start_ + options_.budget_s, hooks_);
    result_.timings[jit::name(tilings_[0])] = last.holder;
    result_.timings[jit::name(tilings_[best_])] = last.challenger;
    if (stopped() || !last.faster) return;
    result_.winner = tilings_[best_];
    result_.ratio = last.ratio;
    report();
  }

  std::span<const jit::Tiling> tilings_;
  const SearchOptions& options_;
  const SearchHooks& hooks_;
  std::vector<Place> places_;
  std::vector<Entry> entries_;
  std::vector<size_t> order_;
  size_t cursor_ = 0, best_ = 0;
  double start_, reference_ = 0;
  double fastest_ = std::numeric_limits<double>::infinity(), scale_ = 1;
  SearchResult result_;
};

}  // namespace

runtime::Timing timing_of(std::vector<double> seconds) {
  std::sort(seconds.begin(), seconds.end());
  return {quantile(seconds, 0.5), quantile(seconds, 0.2), quantile(seconds, 0.8),
          std::ssize(seconds)};
}

SearchResult search_tilings(std::span<const jit::Tiling> candidates, const SearchOptions& options,
                            const SearchHooks& hooks) {
  return Search(candidates, options, hooks).run();
}

Duel duel(const jit::Tiling& holder, const jit::Tiling& challenger, double until,
          const SearchHooks& hooks) {
  std::vector<double> held, challenged, ratios;
  for (int i = 0; i < kMostPairs; ++i) {
    if (i >= kLeastPairs && hooks.clock() >= until) break;
    if (hooks.stop && hooks.stop() && i > 0) break;
    // Who goes first alternates, so that neither always runs in the other's wake.
    const bool first = i % 2 == 0;
    if (first) held.push_back(hooks.sample(holder, true));
    challenged.push_back(hooks.sample(challenger, true));
    if (!first) held.push_back(hooks.sample(holder, true));
    ratios.push_back(challenged.back() / held.back());
  }
  Duel out;
  out.holder = timing_of(held);
  out.challenger = timing_of(challenged);
  const runtime::Timing ratio = timing_of(ratios);
  out.ratio = ratio.median;
  // The p20-p80 range of a normal distribution is 1.68 deviations, and its median is off by
  // 1.25 deviations / sqrt(n).
  const double deviation = (ratio.p80 - ratio.p20) / 1.68;
  out.noise = std::max(kLeastGain, 1.25 * deviation / std::sqrt(static_cast<double>(ratio.n)));
  out.faster = out.ratio < 1 - out.noise;
  out.slower = out.ratio > 1 + out.noise;
  return out;
}

}  // namespace nibble::tune
