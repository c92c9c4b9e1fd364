// nibble tune: measures tilings of a model's matmuls and keeps the best in the tuning database.
#include "tools/cli/tune.h"

#include <unistd.h>

#include <algorithm>
#include <charconv>
#include <cstdio>

#include "graph/lower.h"
#include "graph/model_shapes.h"
#include "jit/error.h"
#include "runtime/clock.h"
#include "tools/cli/interrupt.h"
#include "tools/cli/model_loader.h"
#include "tools/tune/machine_watch.h"

namespace nibble::cli {
namespace {

constexpr double kMostSeconds = 7 * 24 * 3600.0;

struct TuneCommandOptions {
  std::string model, shape, isa, budget = "60s";
  std::vector<int64_t> rows;
  int threads = 0;
  uint64_t seed = 1;
  bool resume = false, json = false;
  CLI::Option *model_flag = nullptr, *shape_flag = nullptr;
  WeightOptions weights;
};

void print_outcome(const tune::TuneOutcome& outcome, const std::string& path,
                   const std::vector<std::string>& warnings, bool as_json) {
  if (as_json) {
    Json entries = Json::array();
    for (const tune::Tuned& tuned : outcome.entries) entries.push_back(to_json(tuned));
    print_json({{"database", path},
                {"machine", runtime::to_json(runtime::this_machine())},
                {"roof_read_gbs", outcome.roofs.read_gbs},
                {"roof_int8_gops", outcome.roofs.int8_gops},
                {"seconds", outcome.seconds},
                {"interrupted", outcome.interrupted},
                {"warnings", warnings},
                {"entries", entries}});
    return;
  }
  const auto better = std::count_if(outcome.entries.begin(), outcome.entries.end(),
                                    [](const tune::Tuned& t) { return t.ratio < 1; });
  print_line(fmt::format("{} of {} are faster than the default; {:.0f} s; {}", better,
                         outcome.entries.size(), outcome.seconds, path));
}

int tune_model(const TuneCommandOptions& options) {
  catch_interrupts();
  const std::string path = needed_tuning_path();
  tune::TuneOptions what;
  what.isa = options.isa.empty() ? jit::selected_isa() : *jit::parse_isa(options.isa);
  what.rows = options.rows;
  if (what.rows.empty())
    what.rows.assign(std::begin(runtime::kRowBuckets), std::end(runtime::kRowBuckets));
  what.budget_s = parse_seconds(options.budget);
  what.seed = options.seed;
  what.resume = options.resume;
  runtime::ThreadPool pool(options.threads > 0 ? options.threads : runtime::default_threads());
  const auto plan =
      plan_without_weights(options.model, options.shape, options.weights, what.isa, pool);

  const tune::MachineWatch watch;
  std::vector<std::string> warnings;
  if (std::string load = watch.load_at_start(); !load.empty()) warnings.push_back(std::move(load));
  for (const std::string& warning : warnings) warn(warning);
  TuneLine line;
  tune::TuneCallbacks callbacks;
  callbacks.progress = [&](const tune::TuneProgress& progress) { line.update(progress); };
  callbacks.stop = interrupted;
  callbacks.done = [&](const tune::Tuned& tuned) {
    line.clear();
    if (options.json) return;
    print_line(one_line(tuned));
    flush_output();
  };
  const auto outcome = tune::tune(tune::matmuls_of(*plan), what, pool, path, callbacks);
  line.clear();
  for (std::string& warning : tune::warnings_of(watch.look())) {
    warn(warning);
    warnings.push_back(std::move(warning));
  }
  print_outcome(outcome, path, warnings, options.json);
  if (outcome.interrupted) fail("Interrupted; 'nibble tune --resume' goes on from here.");
  return 0;
}

}  // namespace

double parse_seconds(const std::string& text) {
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  const std::string unit(end, text.data() + text.size());
  double scale = 0;
  if (unit.empty() || unit == "s") scale = 1;
  if (unit == "m") scale = 60;
  if (unit == "h") scale = 3600;
  if (error != std::errc{} || scale == 0 || !(value > 0) || value * scale > kMostSeconds) {
    throw UsageError(fmt::format("--budget is '{}', expected a time such as 60s, 5m or 1h.", text));
  }
  return value * scale;
}

CLI::Option* add_budget(CLI::App& command, std::string& text) {
  return command.add_option("--budget", text, "Time to take, such as 60s, 5m or 1h")
      ->capture_default_str();
}

std::string needed_tuning_path() {
  std::string path = runtime::tuning_db_path();
  if (path.empty()) {
    throw UsageError(
        "There is no tuning database: NIBBLE_TUNE_DB is off, or no folder is known for it. Set "
        "NIBBLE_TUNE_DB to a file.");
  }
  return path;
}

Json to_json(const tune::Tuned& tuned) {
  Json json = runtime::to_json(tuned.key);
  json.update({{"default", tuned.default_tiling},
               {"winner", tuned.winner},
               {"default_s", tuned.default_s},
               {"winner_s", tuned.winner_s},
               {"ratio", tuned.ratio},
               {"gbs", tuned.gbs},
               {"gops", tuned.gops},
               {"candidates", tuned.candidates},
               {"tried", tuned.tried},
               {"pruned", tuned.pruned},
               {"complete", tuned.complete},
               {"skipped", tuned.skipped},
               {"replaced", tuned.replaced}});
  return json;
}

std::string one_line(const tune::Tuned& tuned) {
  std::string remark;
  if (tuned.skipped) remark = "  as it was";
  if (tuned.replaced) remark = "  was slower: the default again";
  if (tuned.candidates > 0) {
    remark =
        fmt::format("  {} of {} tried, {} pruned", tuned.tried, tuned.candidates, tuned.pruned);
  }
  return fmt::format("{} {} m={}  {} over {}  {:.3f} of its time  {:.1f} GB/s {:.0f} GOP/s{}",
                     tuned.key.spec, jit::isa_name(tuned.key.isa), tuned.key.m, tuned.winner,
                     tuned.default_tiling, tuned.ratio, tuned.gbs, tuned.gops, remark);
}

TuneLine::TuneLine() : terminal_(isatty(STDERR_FILENO) == 1) {}
TuneLine::~TuneLine() { clear(); }

void TuneLine::clear() {
  if (shown_) fmt::print(stderr, "\r\x1B[K");
  shown_ = false;
}

void TuneLine::update(const tune::TuneProgress& progress) {
  const double time = runtime::seconds_now();
  if (!terminal_ || time - last_ < 0.1) return;
  last_ = time;
  shown_ = true;
  fmt::print(stderr,
             "\r\x1B[Ktuning {:3.0f}%  {}/{} {} m={}  best {} at {:.3f}  {}/{}  {:.0f} s left",
             progress.share * 100, progress.index + 1, progress.count, progress.key.spec,
             progress.key.m, jit::name(progress.search.best), progress.search.best_ratio,
             progress.search.tried, progress.search.candidates, progress.seconds_left);
  fflush(stderr);
}

void add_tune(CLI::App& program, Action& action) {
  auto options = std::make_shared<TuneCommandOptions>();
  CLI::App* command = program.add_subcommand(
      "tune", "Measure tilings of a model's matmuls and keep the best for this machine");
  options->model_flag = command->add_option(
      "MODEL", options->model, "An .onnx, a .nib, .safetensors, a .gguf or a folder holding one");
  options->shape_flag =
      command->add_option("--shape", options->shape, "The matmuls of this model's shapes")
          ->check(CLI::IsMember(graph::shape_names()))
          ->excludes(options->model_flag);
  add_budget(*command, options->budget);
  std::vector<std::string> isas;
  for (const jit::Isa isa : jit::supported_isas()) isas.emplace_back(jit::isa_name(isa));
  command->add_option("--isa", options->isa, "For this instruction set (default: the best)")
      ->check(CLI::IsMember(isas));
  command->add_option("--threads", options->threads, "Threads (default: one a physical core)")
      ->check(CLI::Range(1, 1024));
  command->add_option("--rows", options->rows, "Tune for so many rows (default: 1,16,512)")
      ->delimiter(',')
      ->allow_extra_args(false)
      ->check(CLI::Range(int64_t{1}, int64_t{65536}));
  command->add_flag("--resume", options->resume, "Skip what is complete, go on with the rest");
  command->add_option("--seed", options->seed, "Of the order of candidates")->capture_default_str();
  command->add_flag("--json", options->json, "Print a JSON object");
  options->weights.add_to(*command);
  add_tune_database(*command, action);
  add_tune_report(*command, action);
  command->require_subcommand(0, 1);
  command->callback([options, command, &action] {
    if (!command->get_subcommands().empty()) return;
    if (options->model_flag->count() + options->shape_flag->count() == 0) {
      throw CLI::RequiredError("MODEL, --shape or a subcommand");
    }
    action = [options] { return tune_model(*options); };
  });
}

}  // namespace nibble::cli
