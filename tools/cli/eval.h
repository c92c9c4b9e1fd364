// What the subcommands of `nibble eval` share: their options, the models they load, how they say
// how sure a figure is.
#pragma once

#include <optional>
#include <string>
#include <vector>

#include "quant/scores/statistics.h"
#include "tools/cli/commands.h"
#include "tools/cli/eval_data.h"
#include "tools/cli/model_loader.h"
#include "tools/cli/model_tokenizer.h"
#include "tools/cli/output.h"

namespace nibble::cli {

struct EvalOptions {
  std::string model, data, base;
  std::string bos = "auto";
  bool json = false;
  WeightOptions weights, base_weights;
  RunOptions run;

  void add_to(CLI::App& command, const char* data_name, const char* data_help,
              const char* bos_help);
};

// A loaded model that reads text.
struct EvalModel {
  LoadedModel loaded;
  frontends::Tokenizer tokenizer;
  std::optional<int32_t> bos;  // what every text begins with, by --bos

  std::vector<int32_t> encode(const std::string& text) const;  // without bos
};
EvalModel load_eval_model(const EvalOptions& options);
// As `options` want the base; it computes with the pool of the model.
LoadedModel load_base(const EvalOptions& options, std::shared_ptr<runtime::ThreadPool> pool);
// The same, reading text for itself.
EvalModel load_eval_base(const EvalOptions& options, std::shared_ptr<runtime::ThreadPool> pool);

// How the ids of a question's parts are found: those of the whole text, cut after as many as the
// context alone has; blanks that end the context count to the continuation. This is
// lm-evaluation-harness's way, and how its published figures come about. Throws Error naming `line`
// when no id is left to score or there is nothing to begin with.
struct PairIds {
  std::vector<int32_t> context, continuation;
};
PairIds encode_pair(const EvalModel& model, const Pair& pair, const std::string& path,
                    int64_t line);

// The token that texts usually begin with for this model, as its tokenizer puts it there.
std::optional<int32_t> usual_bos(const graph::Graph& graph, const frontends::Tokenizer& tokenizer);

void stop_if_interrupted();

Json to_json(const quant::Interval& interval);  // [low, high]
std::string to_text(const quant::Interval& interval, int digits);
Json to_json(const quant::PairedTest& test);  // {"only_model", "only_base", "p"}
// Of a model and how it was run: what every result ends with.
Json run_json(const LoadedModel& model, double seconds);

void add_eval_perplexity(CLI::App& group, Action& action);  // and kl
void add_eval_cloze(CLI::App& group, Action& action);
void add_eval_choice(CLI::App& group, Action& action);

}  // namespace nibble::cli
