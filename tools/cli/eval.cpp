// nibble eval: how well a model predicts, and how much of that quantizing it costs.
#include "tools/cli/eval.h"

#include <algorithm>

#include "jit/error.h"
#include "tools/cli/interrupt.h"
#include "tools/cli/sampling.h"

namespace nibble::cli {
namespace {

void add_base_weights(CLI::App& command, WeightOptions& weights) {
  const char* title = "Base";
  weights.weights = "f32";
  weights.flags = {
      command
          .add_option("--base-weights", weights.weights,
                      "How the base's weights are stored: int4, int8 or f32")
          ->check(CLI::IsMember({"int4", "int6", "int8", "f32"}))
          ->capture_default_str()
          ->group(title),
      command.add_option("--base-group", weights.group, "Weights of the base that share a scale")
          ->check(CLI::IsMember({0, 16, 32, 64, 128, 256, 512, 1024}))
          ->capture_default_str()
          ->group(title),
      command.add_flag("--base-asym", weights.asym, "Store zero points in the base")->group(title),
  };
  command
      .add_option("--base-compute", weights.compute,
                  "Activations of the base's matmuls: int8 or f32 (default: f32 beside f32 "
                  "weights, else int8, or what a .nib says)")
      ->check(CLI::IsMember({"int8", "f32"}))
      ->group(title);
}

std::optional<int32_t> choose_bos(const EvalOptions& options, const graph::Graph& graph,
                                  const frontends::Tokenizer& tokenizer) {
  if (options.bos == "no") return std::nullopt;
  if (const auto usual = usual_bos(graph, tokenizer)) return usual;
  if (options.bos == "auto") return std::nullopt;
  if (graph.bos_id < 0) fail("{}: the model has no token that begins a text.", graph.origin);
  return static_cast<int32_t>(graph.bos_id);
}

EvalModel with_tokenizer(const EvalOptions& options, const std::string& path, LoadedModel loaded) {
  auto tokenizer = tokenizer_of(*loaded.graph);
  if (!tokenizer) {
    fail("{}: there is no tokenizer.json or tokenizer.model beside or within the model.", path);
  }
  const auto bos = choose_bos(options, *loaded.graph, *tokenizer);
  return {std::move(loaded), std::move(*tokenizer), bos};
}

}  // namespace

std::optional<int32_t> usual_bos(const graph::Graph& graph, const frontends::Tokenizer& tokenizer) {
  const std::string text = "a";
  const std::vector<int32_t> whole = encode_text(text, graph, tokenizer);
  const std::vector<int32_t> plain = tokenizer.encode(text, false);
  if (whole.size() <= plain.size()) return std::nullopt;
  const bool begins = std::equal(plain.begin(), plain.end(), whole.begin() + 1);
  return begins ? std::optional(whole[0]) : std::nullopt;
}

void EvalOptions::add_to(CLI::App& command, const char* data_name, const char* data_help,
                         const char* bos_help) {
  command
      .add_option("MODEL", model, "An .onnx, a .nib, .safetensors, a .gguf or a folder holding one")
      ->required();
  command.add_option(data_name, data, data_help)->required();
  command.add_option("--bos", bos, bos_help)
      ->check(CLI::IsMember({"auto", "yes", "no"}))
      ->capture_default_str();
  command
      .add_option("--base", base, "A model to compare with; the same one with other weights too")
      ->group("Base");
  add_base_weights(command, base_weights);
  command.add_flag("--json", json, "Print a JSON object");
  run.add_to(command);
  weights.add_to(command);
}

std::vector<int32_t> EvalModel::encode(const std::string& text) const {
  return tokenizer.encode(text, false);
}

EvalModel load_eval_model(const EvalOptions& options) {
  return with_tokenizer(options, options.model,
                        load_model(options.model, "", options.weights, options.run));
}

LoadedModel load_base(const EvalOptions& options, std::shared_ptr<runtime::ThreadPool> pool) {
  RunOptions run = options.run;
  run.kv.clear();  // as its own computing has it
  return load_model(options.base, "", options.base_weights, run, std::move(pool));
}

EvalModel load_eval_base(const EvalOptions& options, std::shared_ptr<runtime::ThreadPool> pool) {
  return with_tokenizer(options, options.base, load_base(options, std::move(pool)));
}

quant::Continuation encode_pair(const EvalModel& model, const Pair& pair, const std::string& path,
                                int64_t line) {
  return encode_pair(*model.loaded.graph, model.tokenizer, model.bos, pair, path, line);
}

quant::Continuation encode_pair(const graph::Graph& graph, const frontends::Tokenizer& tokenizer,
                                std::optional<int32_t> bos, const Pair& pair,
                                const std::string& path, int64_t line) {
  const size_t end = pair.context.find_last_not_of(" \t\r\n\f\v");
  const std::string context =
      end == std::string::npos ? std::string() : pair.context.substr(0, end + 1);
  const std::vector<int32_t> whole = tokenizer.encode(pair.context + pair.continuation, false);
  quant::Continuation ids{tokenizer.encode(context, false), {}};
  const size_t cut = std::min(ids.context.size(), whole.size());
  ids.continuation.assign(whole.begin() + static_cast<std::ptrdiff_t>(cut), whole.end());
  if (ids.continuation.empty()) {
    fail("{}: line {} has no ids of its own left to score behind its context.", path, line);
  }
  if (bos) ids.context.insert(ids.context.begin(), *bos);
  if (ids.context.empty()) {
    if (graph.bos_id < 0) {
      fail("{}: line {} has no context, and the model has no token that begins a text.", path,
           line);
    }
    ids.context.push_back(static_cast<int32_t>(graph.bos_id));
  }
  return ids;
}

void stop_if_interrupted() {
  if (interrupted()) fail("Interrupted before everything was scored.");
}

Json to_json(const quant::Interval& interval) { return {interval.low, interval.high}; }

std::string to_text(const quant::Interval& interval, int digits) {
  return fmt::format("[{:.{}f}, {:.{}f}]", interval.low, digits, interval.high, digits);
}

Json to_json(const quant::PairedTest& test) {
  return {{"only_model", test.only_first}, {"only_base", test.only_second}, {"p", test.p_value}};
}

Json run_json(const LoadedModel& model, double seconds) {
  return {{"seconds", seconds},           {"load_s", model.load_s},
          {"peak_rss_mb", peak_rss_mb()}, {"threads", model.pool->size()},
          {"isa", model.isa()},           {"compute", model.compute}};
}

void add_eval(CLI::App& program, Action& action) {
  CLI::App* group =
      program.add_subcommand("eval", "Measure how well a model predicts, alone or beside a base");
  group->require_subcommand(1);
  add_eval_perplexity(*group, action);
  add_eval_cloze(*group, action);
  add_eval_choice(*group, action);
}

}  // namespace nibble::cli
