#include "tools/tune/tuner.h"

#include <algorithm>
#include <map>
#include <memory>

#include "jit/error.h"
#include "jit/gemm.h"
#include "runtime/clock.h"
#include "tools/tune/candidates.h"
#include "tools/tune/matmul_bench.h"

namespace nibble::tune {
namespace {

using runtime::TuningDb;
using runtime::TuningEntry;
using runtime::TuningKey;

constexpr double kLeastShare = 0.05;  // seconds that a search gets at least

// One matmul for one number of rows.
struct Work {
  jit::GemmSpec spec;
  TuningKey key;
};

std::optional<jit::GemmSpec> parse_spec(const TuningKey& key) {
  const std::string name = fmt::format("{}_{}_{}", key.spec, jit::isa_name(key.isa), "1x16x8");
  const auto parsed = jit::parse_kernel_name(name);
  if (!parsed || !std::holds_alternative<jit::GemmSpec>(parsed->spec)) return std::nullopt;
  return std::get<jit::GemmSpec>(parsed->spec);
}

// What an earlier search measured, as time over its default's: all of it, or its winner, which a
// new search must not miss.
std::vector<std::pair<jit::Tiling, double>> known_of(const TuningEntry& entry, bool all) {
  std::vector<std::pair<jit::Tiling, double>> known;
  const double reference = entry.candidates.at(entry.default_tiling).median;
  for (const auto& [name, timing] : entry.candidates) {
    if (!all && name != entry.winner) continue;
    if (const auto tiling = jit::parse_tiling_name(name)) {
      known.emplace_back(*tiling, timing.median / reference);
    }
  }
  return known;
}

// Newly measured candidates take the place of old ones, and the rest stays.
void write_entry(const std::string& path, const TuningKey& key, const TuningEntry& entry) {
  runtime::update_tuning_db(path, [&](TuningDb& db) {
    TuningEntry merged = entry;
    if (const auto old = db.entries.find(key); old != db.entries.end()) {
      merged.candidates.insert(old->second.candidates.begin(), old->second.candidates.end());
    }
    db.entries[key] = std::move(merged);
  });
}

class Run {
 public:
  Run(runtime::ThreadPool& pool, std::string path, const TuneCallbacks& callbacks, double budget_s)
      : pool_(pool),
        path_(std::move(path)),
        callbacks_(callbacks),
        budget_s_(budget_s),
        start_(runtime::seconds_now()) {
    // Fails now rather than after the measuring, and without changing what is there.
    runtime::update_tuning_db(path_, [](TuningDb&) {});
    db_ = runtime::read_tuning_db(path_);
    out_.roofs = runtime::measure_roofs(pool_);
  }

  TuneOutcome tune(const std::vector<Work>& works, const TuneOptions& options) {
    for (size_t i = 0; i < works.size() && !stopped(); ++i) {
      const auto old = db_.entries.find(works[i].key);
      const TuningEntry* before = old != db_.entries.end() ? &old->second : nullptr;
      if (options.resume && before != nullptr && before->complete) {
        finish(skipped(works[i], *before));
        continue;
      }
      tune_one(works, i, options, before);
    }
    return take();
  }

  TuneOutcome verify(const std::vector<Work>& works) {
    for (size_t i = 0; i < works.size() && !stopped(); ++i) verify_one(works, i);
    return take();
  }

  const TuningDb& db() const { return db_; }

 private:
  bool stopped() {
    out_.interrupted = out_.interrupted || (callbacks_.stop && callbacks_.stop());
    return out_.interrupted;
  }
  double left() const { return std::max(0.0, budget_s_ - (runtime::seconds_now() - start_)); }

  // An even share of what is left for what is left.
  double share_of(size_t index, size_t count) const {
    return std::max(kLeastShare, left() / static_cast<double>(count - index));
  }

  const RotatingWeights& weights_for(const jit::GemmSpec& spec, int64_t least_bytes) {
    const bool same =
        weights_ && weights_format_ == spec.weight && weights_n_ == spec.n && weights_k_ == spec.k;
    if (!same) {
      weights_.reset();  // one set of copies in memory at a time
      weights_ = std::make_unique<RotatingWeights>(spec, pool_, least_bytes);
      weights_format_ = spec.weight;
      weights_n_ = spec.n;
      weights_k_ = spec.k;
    }
    return *weights_;
  }

  SearchHooks hooks_for(MatmulBench& bench, const std::vector<Work>& works, size_t index) {
    const Work& work = works[index];
    SearchHooks hooks;
    hooks.sample = [&bench](const jit::Tiling& t, bool whole) { return bench.sample(t, whole); };
    hooks.bound = [this, &work](const jit::Tiling& t) {
      return least_seconds(work.spec, work.key.isa, work.key.m, t, out_.roofs);
    };
    hooks.clock = runtime::seconds_now;
    hooks.stop = [this] { return stopped(); };
    hooks.progress = [this, &works, index](const SearchProgress& search) {
      if (!callbacks_.progress) return;
      callbacks_.progress({works[index].key, index, works.size(), search,
                           std::clamp(1 - left() / budget_s_, 0.0, 1.0), left()});
    };
    return hooks;
  }

  void tune_one(const std::vector<Work>& works, size_t index, const TuneOptions& options,
                const TuningEntry* before) {
    const Work& work = works[index];
    const RotatingWeights& weights = weights_for(work.spec, options.weight_bytes);
    MatmulBench bench(work.spec, work.key.isa, work.key.m, weights, pool_, out_.roofs);
    SearchOptions search_options;
    search_options.budget_s = share_of(index, works.size());
    search_options.seed = options.seed;
    if (before != nullptr) search_options.known = known_of(*before, options.resume);
    const auto candidates = candidate_tilings(work.spec, work.key.isa, work.key.m);
    const SearchResult found =
        search_tilings(candidates, search_options, hooks_for(bench, works, index));
    // What an earlier run chose stands.
    if (found.interrupted && before != nullptr) return;
    Tuned tuned = describe(work, found.timings, jit::name(candidates[0]), jit::name(found.winner));
    tuned.ratio = found.ratio;
    tuned.candidates = found.candidates;
    tuned.tried = found.tried;
    tuned.pruned = found.pruned;
    tuned.complete = found.complete && !found.interrupted;
    write_entry(path_, work.key, entry_of(tuned, found.timings));
    finish(tuned);
  }

  void verify_one(const std::vector<Work>& works, size_t index) {
    const Work& work = works[index];
    const TuningEntry& entry = db_.entries.at(work.key);
    const jit::Tiling standard = jit::default_tiling(work.spec, work.key.isa, work.key.m);
    const auto winner = db_.tiling(work.spec, work.key.isa, work.key.m, work.key.threads);
    const std::string name = jit::name(standard);
    if (winner && *winner == standard) return finish(skipped(work, entry));
    MatmulBench bench(work.spec, work.key.isa, work.key.m, weights_for(work.spec, 0), pool_,
                      out_.roofs);
    const SearchHooks hooks = hooks_for(bench, works, index);
    const double until = runtime::seconds_now() + share_of(index, works.size());
    std::map<std::string, runtime::Timing> timings;
    double ratio = 1;
    bool slower = true;  // a winner that cannot be made, too
    if (winner) {
      const Duel measured = duel(standard, *winner, until, hooks);
      timings[name] = measured.holder;
      timings[entry.winner] = measured.challenger;
      ratio = measured.ratio;
      slower = measured.slower;
    } else {
      timings[name] = timing_of({bench.sample(standard, true)});
    }
    if (stopped()) return;
    Tuned tuned = describe(work, timings, name, slower ? name : entry.winner);
    tuned.ratio = ratio;
    tuned.replaced = slower;
    tuned.complete = entry.complete;
    write_entry(path_, work.key, entry_of(tuned, timings));
    finish(tuned);
  }

  static Tuned describe(const Work& work, const std::map<std::string, runtime::Timing>& timings,
                        const std::string& standard, const std::string& winner) {
    Tuned out;
    out.key = work.key;
    out.default_tiling = standard;
    out.winner = winner;
    out.default_s = timings.at(standard).median;
    out.winner_s = timings.at(winner).median;
    out.gbs = weight_bytes(work.spec) / out.winner_s * 1e-9;
    out.gops = operations(work.spec, work.key.m) / out.winner_s * 1e-9;
    return out;
  }

  static Tuned skipped(const Work& work, const TuningEntry& entry) {
    Tuned out = describe(work, entry.candidates, entry.default_tiling, entry.winner);
    out.ratio = out.winner_s / out.default_s;
    out.complete = entry.complete;
    out.skipped = true;
    return out;
  }

  static TuningEntry entry_of(const Tuned& tuned,
                              const std::map<std::string, runtime::Timing>& timings) {
    return {.default_tiling = tuned.default_tiling,
            .winner = tuned.winner,
            .complete = tuned.complete,
            .gbs = tuned.gbs,
            .gops = tuned.gops,
            .candidates = timings};
  }

  void finish(const Tuned& tuned) {
    out_.entries.push_back(tuned);
    if (callbacks_.done) callbacks_.done(tuned);
  }

  TuneOutcome take() {
    out_.seconds = runtime::seconds_now() - start_;
    return std::move(out_);
  }

  runtime::ThreadPool& pool_;
  std::string path_;
  const TuneCallbacks& callbacks_;
  double budget_s_, start_;
  TuningDb db_;  // as it was at the start
  TuneOutcome out_;
  std::unique_ptr<RotatingWeights> weights_;
  jit::WeightFormat weights_format_;
  int64_t weights_n_ = 0, weights_k_ = 0;
};

}  // namespace

std::vector<jit::GemmSpec> matmuls_of(const runtime::Plan& plan) {
  std::vector<jit::GemmSpec> out;
  for (const runtime::Step& step : plan.steps) {
    const auto* gemm = std::get_if<runtime::GemmStep>(&step.body);
    if (gemm == nullptr) continue;
    const auto& spec = std::get<jit::GemmSpec>(gemm->kernel(1).key.spec);
    if (std::find(out.begin(), out.end(), spec) == out.end()) out.push_back(spec);
  }
  return out;
}

TuneOutcome tune(std::span<const jit::GemmSpec> specs, const TuneOptions& options,
                 runtime::ThreadPool& pool, const std::string& path,
                 const TuneCallbacks& callbacks) {
  std::vector<Work> works;
  for (const jit::GemmSpec& spec : specs) {
    for (const int64_t m : options.rows) {
      works.push_back({spec, {jit::name(jit::KernelSpec(spec)), options.isa, m, pool.size()}});
    }
  }
  return Run(pool, path, callbacks, options.budget_s).tune(works, options);
}

TuneOutcome verify(const std::string& path, double budget_s, runtime::ThreadPool& pool,
                   const TuneCallbacks& callbacks) {
  Run run(pool, path, callbacks, budget_s);
  std::vector<Work> works;
  for (const auto& [key, entry] : run.db().entries) {
    const auto spec = parse_spec(key);
    if (spec && key.threads == pool.size() && jit::supports(key.isa)) works.push_back({*spec, key});
  }
  return run.verify(works);
}

}  // namespace nibble::tune
