// nibble tune report: one page of what the tuning database holds and how a model runs with it.
#include <ctime>
#include <memory>
#include <span>

#include "graph/model_shapes.h"
#include "jit/error.h"
#include "runtime/atomic_file.h"
#include "runtime/tuning_db.h"
#include "tools/cli/interrupt.h"
#include "tools/cli/model_loader.h"
#include "tools/cli/tune.h"
#include "tools/report/measure_report.h"

namespace nibble::cli {
namespace {

struct TuneReportOptions {
  std::string model, shape, output;
  bool json = false;
  CLI::Option *model_flag = nullptr, *shape_flag = nullptr;
  WeightOptions weights;
  RunOptions run;
};

report::TilingChoice choice_of(const runtime::TuningKey& key, const runtime::TuningEntry& entry) {
  report::TilingChoice choice;
  choice.spec = key.spec;
  choice.isa = jit::isa_name(key.isa);
  choice.m = key.m;
  choice.threads = key.threads;
  choice.winner = entry.winner;
  choice.default_tiling = entry.default_tiling;
  for (const auto& [tiling, time] : entry.candidates) {
    choice.candidates.push_back({tiling, time.median, time.p20, time.p80, time.n});
  }
  return choice;
}

std::string today() {
  const std::time_t time = std::time(nullptr);
  std::tm parts{};
  gmtime_r(&time, &parts);
  char text[32];
  const size_t length = std::strftime(text, sizeof(text), "%Y-%m-%d", &parts);
  return {text, length};
}

// How the model runs: the roofline's dots and the curves. Takes what fits the context.
void measure(const TuneReportOptions& options, report::ReportData& data) {
  LoadedModel model = load_model(options.model, options.shape, options.weights, options.run);
  if (!model.session) {
    fail("The report looks at compiled steps, but this model is interpreted.");
  }
  report::MeasureOptions what;
  what.pause = [] {
    if (interrupted()) fail("Interrupted before everything was measured.");
  };
  report::measure_report(*model.session, *model.pool, what, data);
  data.model = options.shape.empty() ? options.model : options.shape;
  data.machine += fmt::format(", {} on {} threads", model.isa(), model.pool->size());
}

int write_report(const TuneReportOptions& options) {
  catch_interrupts();
  const runtime::TuningDb db = runtime::read_tuning_db(runtime::tuning_db_path());
  if (!db.warning.empty()) warn(db.warning);
  report::ReportData data;
  data.machine = runtime::describe(runtime::this_machine());
  data.date = today();
  for (const auto& [key, entry] : db.entries) data.tilings.push_back(choice_of(key, entry));
  // Opened first, so that a page that cannot be written is refused before minutes of measuring.
  runtime::AtomicFile file(options.output);
  if (!options.model.empty() || !options.shape.empty()) measure(options, data);
  const std::string page = report::render_report(data);
  file.append(std::as_bytes(std::span(page)));
  file.commit();
  if (options.json) {
    print_json({{"output", options.output},
                {"bytes", page.size()},
                {"ops", data.ops.size()},
                {"tilings", data.tilings.size()},
                {"contexts", data.contexts.size()},
                {"rows", data.rows.size()}});
  } else {
    print_line(fmt::format("{}: {} kinds of step, {} matmuls tuned, {} contexts, {} row counts",
                           options.output, data.ops.size(), data.tilings.size(),
                           data.contexts.size(), data.rows.size()));
  }
  return 0;
}

}  // namespace

void add_tune_report(CLI::App& tune, Action& action) {
  auto options = std::make_shared<TuneReportOptions>();
  CLI::App* command = tune.add_subcommand(
      "report", "Write one page: roofline, tilings, speed over context, cost over rows");
  options->model_flag = command->add_option("MODEL", options->model,
                                            "Measured for the roofline and the curves; without "
                                            "one, or --shape, the page shows the database alone");
  options->shape_flag =
      command->add_option("--shape", options->shape, "Random weights of this model's shapes")
          ->check(CLI::IsMember(graph::shape_names()))
          ->excludes(options->model_flag);
  command->add_option("-o,--output", options->output, "The page to write, .html")->required();
  command->add_flag("--json", options->json, "Print a JSON object");
  options->run.add_to(*command);
  options->weights.add_to(*command);
  command->callback([options, &action] { action = [options] { return write_report(*options); }; });
}

}  // namespace nibble::cli
