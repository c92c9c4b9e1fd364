// nibble bench: how fast a model runs, and how far that is from what the machine could do.
#include <algorithm>
#include <charconv>

#include "graph/model_shapes.h"
#include "jit/error.h"
#include "runtime/atomic_file.h"
#include "runtime/clock.h"
#include "runtime/machine_roofs.h"
#include "runtime/recorder.h"
#include "runtime/step_work.h"
#include "tools/cli/commands.h"
#include "tools/cli/interrupt.h"
#include "tools/cli/model_loader.h"
#include "tools/cli/output.h"
#include "tools/report/chrome_trace.h"
#include "tools/report/curves.h"
#include "tools/report/op_profile.h"

namespace nibble::cli {
namespace {

constexpr int64_t kDecodeContext = 16;  // positions held when decode begins: weights, not KV
constexpr int64_t kRounds = 7;          // passes of each number of rows
constexpr double kPromptSeconds = 15;   // of prompts; the last may end later
constexpr int64_t kTracedTokens = 4;    // decoded tokens that go into --trace
constexpr const char* kDefaultRows = "1,2,4,8,16";

struct BenchOptions {
  std::string model, shape, trace, rows;
  int64_t prompt = 512, tokens = 32, context = kDecodeContext;
  bool json = false, per_op = false;
  CLI::Option *model_flag = nullptr, *shape_flag = nullptr, *rows_flag = nullptr;
  WeightOptions weights;
  RunOptions run;

  bool recorded() const { return per_op || !trace.empty(); }
  std::vector<int64_t> row_counts() const;
};

// "1,2,4" as numbers; nothing without --rows.
std::vector<int64_t> BenchOptions::row_counts() const {
  std::vector<int64_t> counts;
  if (rows_flag->count() == 0) return counts;
  std::string_view text = rows.empty() ? std::string_view(kDefaultRows) : std::string_view(rows);
  while (!text.empty()) {
    const std::string_view word = text.substr(0, text.find(','));
    text.remove_prefix(std::min(text.size(), word.size() + 1));
    int64_t count = 0;
    const auto [end, error] = std::from_chars(word.data(), word.data() + word.size(), count);
    if (error != std::errc() || end != word.data() + word.size() || count < 1 || count > 65536) {
      throw UsageError(fmt::format(
          "--rows takes numbers from 1 to 65536 with commas between, found '{}'.", word));
    }
    counts.push_back(count);
  }
  return counts;
}

void stop_measuring_if_interrupted() {
  if (interrupted()) fail("Interrupted before everything was measured.");
}

struct Figures {
  double rss_mb = 0;
  report::PrefillRounds prefill;
  report::DecodeRounds decode;
  int64_t decode_position = 0;  // of the middle token
  std::vector<report::RowsPoint> rows;
  std::vector<runtime::StepTime> prefill_steps, decode_steps;  // where they are asked for
  runtime::Roofs roofs;
};

double operations_per_id(const LoadedModel& model) {
  return model.session ? 2 * static_cast<double>(model.session->plan().macs_per_token) : 0;
}

// Of one prompt if its steps are recorded.
report::PrefillRounds measure_prefill(const BenchOptions& options, LoadedModel& model,
                                      const std::vector<int32_t>& ids,
                                      const std::function<void()>& about_to_measure) {
  runtime::Decoder& decoder = *model.decoder;
  // Once for the caches, page tables and clocks, on a chunk's worth at most; then for the result.
  if (model.session) model.session->populate(static_cast<int64_t>(ids.size()));
  decoder.reset();
  decoder.forward(std::span(ids).first(std::min<size_t>(ids.size(), 64)));
  stop_measuring_if_interrupted();
  about_to_measure();
  return report::prefill_rounds(decoder, ids, operations_per_id(model), *model.pool,
                                options.recorded() ? 0 : kPromptSeconds,
                                stop_measuring_if_interrupted);
}

// What decoding reads: weights, and the keys and values of `position` positions. 0 when
// interpreted.
int64_t bytes_per_token(const LoadedModel& model, int64_t position) {
  if (!model.session) return 0;
  const runtime::Plan& plan = model.session->plan();
  return plan.weight_bytes_per_token +
         runtime::kv_bytes_read(plan, position, model.session->kv_type());
}

// The passes of several rows come before the tokens, so that one filling of the context serves
// both; where the context is too short for --context and the tokens, the tokens end with it.
void measure_decode(const BenchOptions& options, LoadedModel& model, Figures& figures,
                    const std::function<void()>& about_to_measure) {
  runtime::Decoder& decoder = *model.decoder;
  const auto rows = options.row_counts();
  const int64_t from = std::min(options.context, decoder.context_length() - options.tokens);
  const int64_t rows_from = std::max<int64_t>(1, from - report::rows_needed(rows, kRounds));
  if (decoder.position() > rows_from) decoder.reset();
  report::fill(decoder, rows_from);
  figures.rows = report::rows_curve(decoder, rows, kRounds, stop_measuring_if_interrupted);
  if (decoder.position() > from) decoder.reset();
  report::fill(decoder, from);
  figures.decode_position = decoder.position() + options.tokens / 2;
  runtime::ReadRoof roof(*model.pool);
  about_to_measure();
  figures.decode = report::decode_rounds(decoder, options.tokens,
                                         bytes_per_token(model, figures.decode_position), roof,
                                         stop_measuring_if_interrupted);
}

// With the steps of the prompt and of the tokens, when they are asked for.
void measure_model(const BenchOptions& options, LoadedModel& model, Figures& figures) {
  const auto ids = report::random_ids(options.prompt, model.decoder->vocab_size());
  std::optional<runtime::Recorder> recorder;
  if (options.recorded()) {
    const int64_t passes = std::max(options.prompt / options.run.chunk + 2, options.tokens);
    recorder.emplace(model.pool->size(),
                     static_cast<size_t>(passes) * model.session->plan().steps.size());
  }
  const auto start = [&] {
    if (recorder) model.session->record(&*recorder);
  };
  const auto take = [&](std::vector<runtime::StepTime>& steps) {
    if (!recorder) return;
    model.session->record(nullptr);
    steps = recorder->times();
    recorder->clear();
  };
  figures.prefill = measure_prefill(options, model, ids, start);
  take(figures.prefill_steps);
  measure_decode(options, model, figures, start);
  take(figures.decode_steps);
}

// The roofs are measured before and after the model, as shared machines change their pace. Their
// buffer is large, so the peak of memory is what loading took, or what is held after the passes.
Figures measure(const BenchOptions& options, LoadedModel& model) {
  Figures figures;
  const double loaded = peak_rss_mb();
  const runtime::Roofs before = runtime::measure_roofs(*model.pool);
  stop_measuring_if_interrupted();
  measure_model(options, model, figures);
  figures.rss_mb = std::max(loaded, rss_mb());
  figures.roofs = runtime::best_of(before, runtime::measure_roofs(*model.pool));
  return figures;
}

void check_room(const BenchOptions& options, const LoadedModel& model) {
  const int64_t context = model.decoder->context_length();
  if (options.prompt > context || options.tokens >= context) {
    fail("A prompt of {} and {} more do not fit the context, which holds {} positions.",
         options.prompt, options.tokens, context);
  }
  if (options.context > context) {
    fail("--context asks for {} positions, but the context holds {}.", options.context, context);
  }
  const int64_t rows = report::rows_needed(options.row_counts(), kRounds);
  if (rows >= context - options.tokens) {
    fail("--rows needs {} positions beside the {} of --gen, but the context holds {}.", rows,
         options.tokens, context);
  }
  if (options.recorded() && !model.session) {
    fail("--per-op and --trace look at compiled steps, but this model is interpreted.");
  }
}

// A trace of the prompt's pass and of the last tokens.
void write_trace(const BenchOptions& options, const LoadedModel& model, const Figures& figures) {
  std::vector<runtime::StepTime> times = figures.prefill_steps;
  int64_t prompt_passes = 0;
  for (const runtime::StepTime& time : times) {
    prompt_passes = std::max(prompt_passes, time.pass + 1);
  }
  for (runtime::StepTime time : figures.decode_steps) {
    if (time.pass < options.tokens - kTracedTokens) continue;
    time.pass += prompt_passes;
    times.push_back(time);
  }
  const std::string text =
      report::chrome_trace(model.session->plan(), times, model.session->kv_type(), figures.roofs);
  runtime::write_file(options.trace, text);
}

struct Profiles {
  report::OpProfile decode, prefill;
};

Profiles profiles_of(const LoadedModel& model, const Figures& figures) {
  const runtime::Plan& plan = model.session->plan();
  const jit::KvType kv = model.session->kv_type();
  return {report::profile_of(plan, figures.decode_steps, kv, false),
          report::profile_of(plan, figures.prefill_steps, kv, true)};
}

Json rows_json(const std::vector<report::RowsPoint>& rows) {
  Json json = Json::array();
  for (const report::RowsPoint& point : rows) {
    json.push_back({{"m", point.m}, {"ms", point.seconds * 1e3}, {"ratio", point.ratio}});
  }
  return json;
}

Json figures_json(const BenchOptions& options, const LoadedModel& model, const Figures& figures) {
  const runtime::Roofs& roofs = figures.roofs;
  Json json = {{"model", options.shape.empty() ? options.model : options.shape},
               {"roof_read_gbs", roofs.read_gbs},
               {"roof_int8_gops", roofs.int8_gops},
               {"roof_read_gbs_median", roofs.read_gbs_median},
               {"roof_int8_gops_median", roofs.int8_gops_median},
               {"roof_read_gbs_decode", figures.decode.roof_gbs},
               {"roof_int8_gops_prefill", figures.prefill.roof_gops},
               {"decode_tok_s", 1 / figures.decode.seconds},
               {"decode_share", nullptr},
               {"prefill_tok_s", figures.prefill.tok_s},
               {"prefill_share", nullptr},
               {"load_s", model.load_s},
               {"jit_ms", model.jit_ms},
               {"peak_rss_mb", figures.rss_mb},
               {"threads", model.pool->size()},
               {"isa", model.isa()},
               {"prompt", options.prompt},
               {"gen", options.tokens},
               {"context", figures.decode_position},
               {"compute", model.compute},
               {"tuned", 0}};
  if (model.session) {
    const runtime::Plan& plan = model.session->plan();
    json["tuned"] = plan.tuned;
    const int64_t kv =
        runtime::kv_bytes_read(plan, figures.decode_position, model.session->kv_type());
    json["weight_bytes_per_token"] = plan.weight_bytes_per_token;
    json["kv_bytes_per_token"] = kv;
    json["macs_per_token"] = plan.macs_per_token;
    json["decode_share"] = figures.decode.share;
    json["prefill_share"] = figures.prefill.share;
  }
  if (!figures.rows.empty()) json["rows"] = rows_json(figures.rows);
  if (options.per_op) {
    const Profiles profiles = profiles_of(model, figures);
    json["per_op"] = {{"decode", report::to_json(profiles.decode, roofs)},
                      {"prefill", report::to_json(profiles.prefill, roofs)}};
  }
  if (!options.trace.empty()) json["trace"] = options.trace;
  return json;
}

void print_figures(const BenchOptions& options, const LoadedModel& model, const Figures& figures,
                   const Json& json) {
  const auto share = [&](const char* key) {
    return json[key].is_null() ? std::string("no share: the model is interpreted")
                               : fmt::format("{:.1f}% of the roof", json[key].get<double>() * 100);
  };
  const runtime::Roofs& roofs = figures.roofs;
  print_line(fmt::format("{} on {} threads, {}, {} activations", json["model"].get<std::string>(),
                         model.pool->size(), model.isa(), model.compute));
  if (json["tuned"] > 0) {
    print_line(
        fmt::format("tuned    {:>9} tilings by the tuning database", json["tuned"].get<int64_t>()));
  }
  print_line(fmt::format("roofs    {:>9.2f} GB/s read   {:.0f} GOP/s int8", roofs.read_gbs,
                         roofs.int8_gops));
  print_line(fmt::format("decode   {:>9.2f} tok/s       {}, {} positions held",
                         1 / figures.decode.seconds, share("decode_share"),
                         figures.decode_position));
  print_line(fmt::format("prefill  {:>9.2f} tok/s       {}", figures.prefill.tok_s,
                         share("prefill_share")));
  print_line(fmt::format(
      "load     {:>9.2f} s           {:.0f} ms of code generation, peak memory {:.0f} MB",
      model.load_s, model.jit_ms, figures.rss_mb));
  for (const report::RowsPoint& point : figures.rows) {
    print_line(fmt::format("rows     {:>9} at once     {:.2f} ms a pass, {:.2f} times the first",
                           point.m, point.seconds * 1e3, point.ratio));
  }
  if (options.per_op) {
    const Profiles profiles = profiles_of(model, figures);
    print(fmt::format("\na decoded token, the mean of the middle {}\n", profiles.decode.units));
    print(report::to_table(profiles.decode, roofs));
    print(fmt::format("\na prompt of {}\n", options.prompt));
    print(report::to_table(profiles.prefill, roofs));
  }
}

int bench(const BenchOptions& options) {
  catch_interrupts();
  LoadedModel model = load_model(options.model, options.shape, options.weights, options.run);
  check_room(options, model);
  const Figures figures = measure(options, model);
  if (!options.trace.empty()) write_trace(options, model, figures);
  const Json json = figures_json(options, model, figures);
  if (options.json) {
    print_json(json);
  } else {
    print_figures(options, model, figures, json);
  }
  return 0;
}

void add_measurements(CLI::App& command, BenchOptions& options) {
  command.add_option("--prompt", options.prompt, "Ids of the prompt")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->capture_default_str();
  command.add_option("--gen", options.tokens, "Ids to make, one at a time")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->capture_default_str();
  command
      .add_option("--context", options.context,
                  "Positions held when decoding begins; their keys and values count into its share")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->capture_default_str();
  options.rows_flag =
      command
          .add_option(
              "--rows", options.rows,
              fmt::format("Also time passes of M1,M2,... rows (--rows alone: {})", kDefaultRows))
          ->expected(0, 1);
  command.add_flag("--per-op", options.per_op,
                   "Also say, for every kind of step, its time, rates and share of its roof");
  command.add_option("--trace", options.trace,
                     "Write the steps of the prompt and of some tokens, as a Chrome trace");
  command.add_flag("--json", options.json, "Print a JSON object (perf/README.md has its fields)");
}

}  // namespace

void add_bench(CLI::App& program, Action& action) {
  auto options = std::make_shared<BenchOptions>();
  CLI::App* command =
      program.add_subcommand("bench", "Measure decode and prefill beside the machine's roofs");
  options->model_flag = command->add_option(
      "MODEL", options->model, "An .onnx, a .nib, .safetensors, a .gguf or a folder holding one");
  options->shape_flag =
      command->add_option("--shape", options->shape, "Random weights of this model's shapes")
          ->check(CLI::IsMember(graph::shape_names()))
          ->excludes(options->model_flag);
  add_measurements(*command, *options);
  options->run.add_to(*command, false);
  options->weights.add_to(*command);
  command->callback([options, &action] {
    if (options->model_flag->count() + options->shape_flag->count() == 0) {
      throw CLI::RequiredError("MODEL or --shape");
    }
    action = [options] { return bench(*options); };
  });
}

}  // namespace nibble::cli
