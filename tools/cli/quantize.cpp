// nibble quantize: the cheapest recipe that keeps a model's loss under a mark, carried out and
// written.
#include <charconv>
#include <filesystem>

#include "graph/nib_model.h"
#include "jit/error.h"
#include "quant/calibration/default_text.h"
#include "runtime/atomic_file.h"
#include "runtime/clock.h"
#include "runtime/json_text.h"
#include "runtime/nib_file.h"
#include "tools/cli/commands.h"
#include "tools/cli/eval.h"
#include "tools/cli/interrupt.h"
#include "tools/cli/model_documents.h"
#include "tools/cli/model_loader.h"
#include "tools/cli/model_path.h"
#include "tools/cli/model_tokenizer.h"
#include "tools/cli/output.h"
#include "tools/cli/quantize_trials.h"
#include "tools/report/quantize_report.h"

namespace nibble::cli {
namespace {

namespace fs = std::filesystem;

constexpr int kMissedMark = 3;  // exit code

struct QuantizeCommandOptions {
  std::string model, output, method, recipe, calibration, held_out, report;
  std::vector<std::string> tasks;
  int64_t task_items = 0;  // 0: all
  double max_loss = 0.01;
  double bits_budget = 4.75;
  bool budget_given = false;
  int64_t group = 32, tokens = 65536, length = 512, held_out_tokens = 16384;
  bool asym = false, json = false;
  std::string scale = "f16", compute = "int8";
  int threads = 0;
};

// "1%" or "0.01".
std::string parse_share(std::string& text) {
  const bool percent = text.ends_with('%');
  if (percent) text.pop_back();
  double value = 0;
  const auto [end, error] = std::from_chars(text.data(), text.data() + text.size(), value);
  if (error != std::errc() || end != text.data() + text.size() || !(value >= 0)) {
    return "a share such as 1% or 0.01 is expected";
  }
  text = fmt::format("{}", percent ? value / 100 : value);
  return "";
}

struct Texts {
  std::vector<int32_t> calibration, held_out;
  std::string source;
};

constexpr int64_t kHeldOut = 4;  // of so many stretches one

// Calibration text, and text held out of it: a file of its own, else every fourth stretch of
// `stretch` ids, so that both are of all kinds that there are.
Texts read_texts(const QuantizeCommandOptions& options, const frontends::Tokenizer& tokenizer,
                 int64_t stretch) {
  Texts texts;
  texts.source = options.calibration.empty() ? "the built-in text" : options.calibration;
  const std::string text = options.calibration.empty()
                               ? std::string(quant::default_calibration_text())
                               : read_text(options.calibration);
  std::vector<int32_t> ids = tokenizer.encode(text, false);
  if (!options.held_out.empty()) {
    texts.calibration = std::move(ids);
    texts.held_out = tokenizer.encode(read_text(options.held_out), false);
    return texts;
  }
  const auto count = static_cast<int64_t>(ids.size());
  for (int64_t at = 0, i = 0; at < count; at += stretch, ++i) {
    auto& part = i % kHeldOut == kHeldOut - 1 ? texts.held_out : texts.calibration;
    part.insert(part.end(), ids.begin() + at, ids.begin() + std::min(count, at + stretch));
  }
  return texts;
}

// Whole sequences of `length` ids, each beginning with `bos` if there is one.
quant::Calibration cut(const std::vector<int32_t>& ids, int64_t length, int64_t most,
                       std::optional<int32_t> bos, const std::string& source) {
  quant::Calibration out{.sequences = 0, .length = length, .ids = {}};
  const int64_t fresh = length - (bos ? 1 : 0);
  const auto count = static_cast<int64_t>(ids.size());
  for (int64_t at = 0; at + fresh <= count && (out.sequences + 1) * length <= most; at += fresh) {
    if (bos) out.ids.push_back(*bos);
    out.ids.insert(out.ids.end(), ids.begin() + at, ids.begin() + at + fresh);
    ++out.sequences;
  }
  if (out.sequences == 0) {
    fail("{}: {} tokens are left to calibrate on, expected at least the {} of one sequence.",
         source, count, length);
  }
  return out;
}

// What a model's files are known by: their names, sizes and times.
std::string identity_of(const std::string& path) {
  std::string text;
  std::vector<fs::path> files{path};
  if (fs::is_directory(path)) {
    files.clear();
    for (const auto& entry : fs::recursive_directory_iterator(path)) {
      if (entry.is_regular_file()) files.push_back(entry.path());
    }
    std::sort(files.begin(), files.end());
  }
  for (const fs::path& file : files) {
    text += fmt::format("{} {} {}\n", file.string(), fs::file_size(file),
                        fs::last_write_time(file).time_since_epoch().count());
  }
  return text;
}

uint32_t check_of(const std::vector<int32_t>& ids) {
  return runtime::crc32c(std::as_bytes(std::span(ids)));
}

std::vector<quant::Recipe> choose_recipes(const QuantizeCommandOptions& options) {
  const jit::ScaleType scale = scale_type_of(options.scale, options.group, options.asym);
  quant::Recipe plain;
  plain.formats = quant::default_options("int4", options.group, options.asym, scale);
  if (options.budget_given && (options.method != "auto" || !options.recipe.empty())) {
    plain.bits = options.bits_budget;
  }
  if (!options.recipe.empty()) {
    return {quant::recipe_from_json(read_text_file(options.recipe), options.recipe, plain)};
  }
  if (options.method == "auto") {
    return quant::automatic_recipes(plain.formats, options.bits_budget);
  }
  quant::set_method(plain, options.method);
  return {plain};
}

Json trial_json(const quant::Trial& trial, const std::vector<quant::WeightOutcome>& weights) {
  Json json = {
      {"recipe", runtime::parse_ordered_json(quant::recipe_to_json(trial.recipe), "the recipe")}};
  json.update(score_json(trial.score));
  json["weights"] = outcomes_json(weights);
  return json;
}

report::QuantizeReport report_of(const QuantizeCommandOptions& options, const TrialSetup& setup,
                                 const Texts& texts, const TrialOutcome& outcome) {
  report::QuantizeReport page{
      .model = options.model,
      .calibration = texts.source,
      .calibration_tokens = static_cast<int64_t>(setup.calibration.ids.size()),
      .held_out_tokens = static_cast<int64_t>(setup.held_out.size()),
      .max_loss = options.max_loss,
      .met = outcome.loop.met,
      .best = outcome.loop.best,
      .trials = {}};
  for (size_t t = 0; t < outcome.loop.trials.size(); ++t) {
    const auto& [recipe, score] = outcome.loop.trials[t];
    const quant::LossEstimate& deciding = score.deciding();
    const bool mixed = !recipe.formats_of.empty();
    report::QuantizeReport::Trial trial{
        .method = quant::method_name(recipe) + (mixed ? " mixed" : ""),
        .text = quant::recipe_text(recipe),
        .perplexity = score.perplexity,
        .base_perplexity = score.base_perplexity,
        .loss = deciding.loss,
        .loss_low = deciding.interval.low,
        .loss_high = deciding.interval.high,
        .decided_by = deciding.by,
        .estimates = {},
        .kl = score.kl,
        .top1 = score.top1,
        .bits = score.bits,
        .seconds = score.seconds,
        .weights = {}};
    for (const quant::LossEstimate& one : score.estimates) {
      trial.estimates.push_back({one.by, one.loss, one.interval.low, one.interval.high});
    }
    for (const quant::WeightOutcome& w : outcome.weights[t]) {
      trial.weights.push_back({w.name, w.layer, w.error, w.nearest_error, w.seconds});
    }
    page.trials.push_back(std::move(trial));
  }
  return page;
}

int quantize(const QuantizeCommandOptions& options) {
  const double start = runtime::seconds_now();
  catch_interrupts();
  const auto pool = std::make_shared<runtime::ThreadPool>(
      options.threads > 0 ? options.threads : runtime::default_threads());
  if (find_model(options.model).nib) {
    throw UsageError(fmt::format("{} is quantized already.", options.model));
  }
  const std::vector<quant::Recipe> recipes = choose_recipes(options);
  PreparedGraph prepared = prepare_graph(options.model, "", {}, *pool);
  if (!prepared.report.complete()) {
    fail("{}: only a fully fused model can be calibrated; `nibble compile` rounds to nearest. {}",
         options.model, unfused_warning(prepared.report));
  }
  const auto tokenizer = tokenizer_of(prepared.graph);
  if (!tokenizer) {
    fail("{}: there is no tokenizer beside the model, so no text can be calibrated on.",
         options.model);
  }
  const std::optional<int32_t> bos = usual_bos(prepared.graph, *tokenizer);
  int64_t length = options.length;
  if (prepared.graph.context_length > 0) length = std::min(length, prepared.graph.context_length);
  const Texts texts = read_texts(options, *tokenizer, length - (bos ? 1 : 0));
  TrialSetup setup{
      .graph = prepared.graph,
      .calibration = cut(texts.calibration, length, options.tokens, bos, texts.source),
      .held_out = texts.held_out,
      .protocol = {.window = length, .bos = bos, .max_tokens = options.held_out_tokens},
      .tasks = read_tasks(options.tasks, options.task_items, prepared.graph, *tokenizer),
      .compute = options.compute,
      .folder = options.output + ".work",
      .identity = ""};
  setup.identity = fmt::format(
      "nibble quantize 2\n{}sequences {} of {}, check {}\nheld out {}, check {}\n{}compute {}\n",
      identity_of(options.model), setup.calibration.sequences, length,
      check_of(setup.calibration.ids), setup.held_out.size(), check_of(setup.held_out),
      tasks_identity(setup.tasks), options.compute);
  TrialOutcome outcome = run_trials(setup, recipes, options.max_loss, pool);
  const quant::Trial& best = outcome.loop.trials[outcome.loop.best];

  Json trials = Json::array();
  for (size_t t = 0; t < outcome.loop.trials.size(); ++t) {
    trials.push_back(trial_json(outcome.loop.trials[t], outcome.weights[t]));
  }
  Json result = {{"output", options.output},
                 {"method", quant::method_name(best.recipe)},
                 {"met", outcome.loop.met},
                 {"max_loss", options.max_loss},
                 {"calibration", texts.source},
                 {"calibration_tokens", setup.calibration.ids.size()},
                 {"held_out_tokens", setup.held_out.size()},
                 {"best", outcome.loop.best},
                 {"trials", trials}};
  graph::Graph& graph = outcome.model.graph;
  // Its times are this run's and not the model's: the same input gives the same file.
  Json kept = trial_json(best, {});
  kept.erase("seconds");
  kept.erase("weights");
  graph.documents["quantization.json"] = kept.dump();
  graph::write_nib_model(graph, options.output, [&](graph::ValueId id) {
    return std::get<runtime::PackedMatrix>(*graph.values[static_cast<size_t>(id)].constant);
  });
  if (!options.report.empty()) {
    const auto page = report::quantize_page(report_of(options, setup, texts, outcome));
    runtime::write_file(options.report, page);
  }
  forget_trials(setup);
  const auto bytes = static_cast<int64_t>(fs::file_size(options.output));
  const double seconds = runtime::seconds_now() - start;
  if (options.json) {
    result["bytes"] = bytes;
    result["seconds"] = seconds;
    result["peak_rss_mb"] = peak_rss_mb();
    print_json(result);
  } else {
    print_line(fmt::format("{}: {:.1f} MB by {}: {}; in {:.1f} s", options.output,
                           static_cast<double>(bytes) / 1e6, quant::recipe_text(best.recipe),
                           score_text(best.score), seconds));
  }
  if (outcome.loop.met) return 0;
  warn(fmt::format("No recipe tried keeps the loss within {:.2f}%; the best of them is written.",
                   options.max_loss * 100));
  return kMissedMark;
}

}  // namespace

void add_quantize(CLI::App& program, Action& action) {
  auto options = std::make_shared<QuantizeCommandOptions>();
  CLI::App* command = program.add_subcommand(
      "quantize", "Find the cheapest INT4 recipe that loses little, and write the model by it");
  command
      ->add_option("MODEL", options->model,
                   "An .onnx, .safetensors, a .gguf or a folder holding one")
      ->required();
  command->add_option("-o,--output", options->output, "The .nib to write")->required();
  command
      ->add_option(
          "--max-loss", options->max_loss,
          "Loss that is allowed, as 1% or 0.01: the largest of the rise of the perplexity, "
          "e^KL - 1 and the drop of each task's accuracy")
      ->transform(CLI::Validator(parse_share, "SHARE"))
      ->default_str("1%");
  std::vector<std::string> methods = quant::method_names();
  methods.insert(methods.begin(), "auto");
  options->method = "auto";
  CLI::Option* method = command
                            ->add_option("--method", options->method,
                                         "One method instead of a search: " +
                                             fmt::format("{}", fmt::join(methods, ", ")))
                            ->check(CLI::IsMember(methods));
  command->add_option("--recipe", options->recipe, "A JSON file with the one recipe to carry out")
      ->excludes(method);
  command->add_option("--group", options->group, "Weights that share a scale; 0: a whole column")
      ->check(CLI::IsMember({0, 16, 32, 64, 128, 256, 512, 1024}))
      ->capture_default_str();
  command->add_flag("--asym", options->asym, "Store zero points");
  CLI::Option* budget =
      command
          ->add_option("--bits-budget", options->bits_budget,
                       "Bits a weight that the search may spend on mixed formats (0: none); given "
                       "with a method, that method in mixed formats")
          ->check(CLI::Range(0.0, 32.0))
          ->capture_default_str();
  command
      ->add_option(
          "--scale", options->scale,
          "Type of the scales: f16, bf16, f32, or q8: bytes under a number for 256 weights")
      ->check(CLI::IsMember({"f16", "bf16", "f32", "q8"}))
      ->capture_default_str();
  command
      ->add_option("--compute", options->compute,
                   "Activations of the quantized model's matmuls: int8, bf16 or f32")
      ->check(CLI::IsMember({"int8", "bf16", "f32"}))
      ->capture_default_str();
  command->add_option("--calib", options->calibration,
                      "Text to calibrate on, or .jsonl with \"text\" (default: built in)");
  command->add_option("--held-out", options->held_out,
                      "Text to score on (default: a quarter of the calibration text)");
  command
      ->add_option("--task", options->tasks,
                   "Questions to score too, as `eval cloze` or `eval choice` reads them; may be "
                   "given several times")
      ->allow_extra_args(false);
  command
      ->add_option("--task-items", options->task_items,
                   "Only the first so many questions of each task")
      ->check(CLI::Range(1, 1 << 30));
  command->add_option("--calib-tokens", options->tokens, "Tokens to calibrate on, at most")
      ->check(CLI::Range(int64_t{16}, int64_t{1} << 30))
      ->capture_default_str();
  command->add_option("--held-out-tokens", options->held_out_tokens, "Tokens to score, at most")
      ->check(CLI::Range(int64_t{16}, int64_t{1} << 30))
      ->capture_default_str();
  command->add_option("--length", options->length, "Tokens of a sequence and of a scored window")
      ->check(CLI::Range(int64_t{8}, int64_t{1} << 20))
      ->capture_default_str();
  command->add_option("--threads", options->threads, "Threads (default: one a physical core)")
      ->check(CLI::Range(1, 1024));
  command->add_option("--report", options->report,
                      "An HTML page to write: what was tried, what was chosen and why");
  command->add_flag("--json", options->json, "Print a JSON object");
  command->callback([options, budget, &action] {
    options->budget_given = budget->count() > 0;
    action = [options] { return quantize(*options); };
  });
}

}  // namespace nibble::cli
