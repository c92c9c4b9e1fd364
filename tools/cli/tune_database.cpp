// nibble tune show | verify | diff | merge | export | reset: the tuning database itself.
#include <cmath>

#include "jit/error.h"
#include "tools/cli/interrupt.h"
#include "tools/cli/tune.h"

namespace nibble::cli {
namespace {

using runtime::TuningDb;
using runtime::TuningEntry;
using runtime::TuningKey;
using runtime::TuningState;

struct TuneDatabaseOptions {
  std::string first, second, output, budget = "30s";
  int threads = 0;
  bool json = false;
};

std::string_view state_name(TuningState state) {
  switch (state) {
    case TuningState::disabled:
      return "disabled";
    case TuningState::absent:
      return "absent";
    case TuningState::usable:
      return "usable";
    case TuningState::foreign:
      return "foreign";
    case TuningState::stale:
      return "stale";
    case TuningState::damaged:
      return "damaged";
  }
  return "unknown";
}

std::string key_text(const TuningKey& key) {
  return fmt::format("{} {} m={} threads={}", key.spec, jit::isa_name(key.isa), key.m, key.threads);
}

double ratio_of(const TuningEntry& entry) {
  return entry.candidates.at(entry.winner).median /
         entry.candidates.at(entry.default_tiling).median;
}

Json entry_json(const TuningKey& key, const TuningEntry& entry) {
  Json candidates = Json::object();
  for (const auto& [tiling, t] : entry.candidates) {
    candidates[tiling] = {{"median_s", t.median}, {"p20_s", t.p20}, {"p80_s", t.p80}, {"n", t.n}};
  }
  Json json = runtime::to_json(key);
  json.update({{"default", entry.default_tiling},
               {"winner", entry.winner},
               {"ratio", ratio_of(entry)},
               {"gbs", entry.gbs},
               {"gops", entry.gops},
               {"complete", entry.complete},
               {"candidates", candidates}});
  return json;
}

// A file that is there and whole, of whatever machine.
TuningDb read_database(const std::string& path) {
  TuningDb db = runtime::read_tuning_db(path);
  if (db.state == TuningState::absent) fail("{}: there is no such file.", path);
  const bool other_format = db.state == TuningState::stale && db.machine.vendor.empty();
  if (db.state == TuningState::damaged || other_format) fail("{}", db.warning);
  return db;
}

int show(const TuneDatabaseOptions& options) {
  const TuningDb db = runtime::read_tuning_db(runtime::tuning_db_path());
  if (!db.warning.empty()) warn(db.warning);
  if (options.json) {
    Json entries = Json::array();
    for (const auto& [key, entry] : db.entries) entries.push_back(entry_json(key, entry));
    print_json({{"database", db.path.empty() ? Json() : Json(db.path)},
                {"state", state_name(db.state)},
                {"machine", runtime::to_json(db.machine)},
                {"generator", db.generator},
                {"entries", entries}});
    return 0;
  }
  if (db.entries.empty()) {
    print_line(db.path.empty() ? "The tuning database is off (NIBBLE_TUNE_DB)."
                               : fmt::format("{} holds no tunings.", db.path));
    return 0;
  }
  print_line(
      fmt::format("{}: {}, {} entries", db.path, runtime::describe(db.machine), db.entries.size()));
  print_line(fmt::format("{:<44} {:<12} {:>4} {:>3}  {:<16} {:<16} {:>6} {:>7} {:>7} {:>5}",
                         "matmul", "isa", "m", "thr", "winner", "default", "ratio", "GB/s", "GOP/s",
                         "tried"));
  for (const auto& [key, entry] : db.entries) {
    print_line(
        fmt::format("{:<44} {:<12} {:>4} {:>3}  {:<16} {:<16} {:>6.3f} {:>7.1f} {:>7.0f} {:>5}{}",
                    key.spec, jit::isa_name(key.isa), key.m, key.threads, entry.winner,
                    entry.default_tiling, ratio_of(entry), entry.gbs, entry.gops,
                    entry.candidates.size(), entry.complete ? "" : "+"));
  }
  return 0;
}

int verify(const TuneDatabaseOptions& options) {
  catch_interrupts();
  const std::string path = needed_tuning_path();
  const TuningDb db = runtime::read_tuning_db(path);
  if (!db.warning.empty()) fail("{}", db.warning);
  if (db.state == TuningState::absent) fail("{}: there is nothing to verify yet.", path);
  runtime::ThreadPool pool(options.threads > 0 ? options.threads : runtime::default_threads());
  tune::TuneCallbacks callbacks;
  callbacks.stop = interrupted;
  callbacks.done = [&](const tune::Tuned& tuned) {
    if (options.json) return;
    print_line(one_line(tuned));
    flush_output();
  };
  const auto outcome = tune::verify(path, parse_seconds(options.budget), pool, callbacks);
  int64_t replaced = 0;
  Json entries = Json::array();
  for (const tune::Tuned& tuned : outcome.entries) {
    replaced += tuned.replaced ? 1 : 0;
    entries.push_back(to_json(tuned));
  }
  if (options.json) {
    print_json({{"database", path},
                {"threads", pool.size()},
                {"verified", outcome.entries.size()},
                {"replaced", replaced},
                {"interrupted", outcome.interrupted},
                {"entries", entries}});
  } else {
    print_line(
        fmt::format("{} verified, {} put back to the default", outcome.entries.size(), replaced));
  }
  if (outcome.interrupted) fail("Interrupted before all was verified.");
  return 0;
}

// One line or object for every key whose winner or time differs.
int diff(const TuneDatabaseOptions& options) {
  const TuningDb a = read_database(options.first), b = read_database(options.second);
  std::map<TuningKey, std::pair<const TuningEntry*, const TuningEntry*>> both;
  for (const auto& [key, entry] : a.entries) both[key].first = &entry;
  for (const auto& [key, entry] : b.entries) both[key].second = &entry;
  Json rows = Json::array();
  for (const auto& [key, pair] : both) {
    const auto& [left, right] = pair;
    const auto winner = [](const TuningEntry* e) { return e ? Json(e->winner) : Json(); };
    const auto time = [](const TuningEntry* e) {
      return e ? Json(e->candidates.at(e->winner).median) : Json();
    };
    if (winner(left) == winner(right) && time(left) == time(right)) continue;
    if (options.json) {
      Json row = runtime::to_json(key);
      row.update({{"winner_a", winner(left)},
                  {"winner_b", winner(right)},
                  {"seconds_a", time(left)},
                  {"seconds_b", time(right)}});
      rows.push_back(std::move(row));
      continue;
    }
    const auto text = [](const TuningEntry* e) {
      if (e == nullptr) return std::string("-");
      return fmt::format("{} {:.1f} us", e->winner, e->candidates.at(e->winner).median * 1e6);
    };
    print_line(fmt::format("{}  {}  |  {}", key_text(key), text(left), text(right)));
  }
  const bool same_machine = a.machine == b.machine;
  if (options.json) {
    print_json({{"a", a.path},
                {"b", b.path},
                {"same_machine", same_machine},
                {"same_generator", a.generator == b.generator},
                {"differences", rows}});
    return 0;
  }
  if (!same_machine) {
    print_line(fmt::format("machines differ: {}  |  {}", runtime::describe(a.machine),
                           runtime::describe(b.machine)));
  }
  if (a.generator != b.generator) {
    print_line(fmt::format("kernel generators differ: {}  |  {}", a.generator, b.generator));
  }
  return 0;
}

int say_written(const TuneDatabaseOptions& options, const TuningDb& db) {
  if (options.json) {
    print_json({{"output", options.output}, {"entries", db.entries.size()}});
  } else {
    print_line(fmt::format("{}: {} entries", options.output, db.entries.size()));
  }
  return 0;
}

int merge(const TuneDatabaseOptions& options) {
  TuningDb a = read_database(options.first);
  runtime::merge_tunings(a, read_database(options.second));
  runtime::write_new_tuning_db(options.output, a);
  return say_written(options, a);
}

int export_database(const TuneDatabaseOptions& options) {
  const TuningDb db = read_database(needed_tuning_path());
  if (db.state != TuningState::usable) fail("{}", db.warning);
  runtime::write_new_tuning_db(options.output, db);
  return say_written(options, db);
}

int reset(const TuneDatabaseOptions& options) {
  const std::string path = needed_tuning_path();
  std::vector<std::string> removed;
  if (runtime::read_tuning_db(path).state != TuningState::absent) {
    runtime::update_tuning_db(path, [&](TuningDb& db) {
      for (const auto& [key, entry] : db.entries) removed.push_back(key_text(key));
      db.entries.clear();
    });
  }
  if (options.json) {
    print_json({{"database", path}, {"removed", removed}});
    return 0;
  }
  for (const std::string& text : removed) print_line("removed " + text);
  print_line(fmt::format("{}: {} entries removed", path, removed.size()));
  return 0;
}

}  // namespace

void add_tune_database(CLI::App& tune, Action& action) {
  const auto add = [&](const char* name, const char* help,
                       int (*perform)(const TuneDatabaseOptions&)) {
    auto options = std::make_shared<TuneDatabaseOptions>();
    CLI::App* command = tune.add_subcommand(name, help);
    if (perform == diff || perform == merge) {
      command->add_option("A", options->first, "A tuning database")->required();
      command->add_option("B", options->second, "Another")->required();
    }
    if (perform == merge || perform == export_database) {
      command
          ->add_option("-o,--output", options->output, "The file to write, which is not there yet")
          ->required();
    }
    if (perform == verify) {
      add_budget(*command, options->budget);
      command->add_option("--threads", options->threads, "Threads (default: one a physical core)")
          ->check(CLI::Range(1, 1024));
    }
    command->add_flag("--json", options->json, "Print a JSON object");
    command->callback(
        [options, perform, &action] { action = [options, perform] { return perform(*options); }; });
  };
  add("show", "What is in the database", show);
  add("verify", "Measure winners against the default, and put back what is slower", verify);
  add("diff", "Where two databases differ", diff);
  add("merge", "Two databases of one machine as one, the better measured of each", merge);
  add("export", "Write this machine's tunings to a file", export_database);
  add("reset", "Remove this machine's tunings", reset);
}

}  // namespace nibble::cli
