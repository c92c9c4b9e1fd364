// nibble eval cloze: whether a model finds the last word of a text, as LAMBADA asks.
#include <algorithm>
#include <numeric>

#include "jit/error.h"
#include "quant/scores/continuations.h"
#include "runtime/clock.h"
#include "tools/cli/eval.h"
#include "tools/cli/interrupt.h"

namespace nibble::cli {
namespace {

struct EvalClozeOptions {
  EvalOptions eval;
  int64_t max_items = 0;  // 0: all
};

struct ClozeAnswers {
  std::vector<uint8_t> right;  // the last word is what greedy decoding makes
  std::vector<double> nll;     // -log p(last word | context), in nats
  int64_t truncated = 0, tokens = 0;
  double seconds = 0;

  int64_t count_right() const { return std::accumulate(right.begin(), right.end(), int64_t{0}); }
  quant::Mean accuracy() const {
    return quant::mean_of(std::vector<double>(right.begin(), right.end()));
  }
  quant::Interval accuracy_interval() const {
    return quant::share_interval(count_right(), static_cast<int64_t>(right.size()));
  }
};

ClozeAnswers answer(const EvalModel& model, const ClozeData& data, const std::string& path) {
  ClozeAnswers out;
  quant::ContinuationScorer scorer(*model.loaded.decoder);
  Progress progress("scoring", "texts", 1);
  const double start = runtime::seconds_now();
  for (const ClozeItem& item : data.items) {
    const quant::Continuation ids = encode_pair(model, item.pair, path, item.line);
    const quant::ContinuationScore score = scorer.score(ids.context, ids.continuation);
    out.right.push_back(score.greedy ? 1 : 0);
    out.nll.push_back(-score.log_prob);
    out.truncated += score.truncated ? 1 : 0;
    progress.update(static_cast<int64_t>(out.nll.size()), static_cast<int64_t>(data.items.size()));
    stop_if_interrupted();
  }
  out.seconds = runtime::seconds_now() - start;
  out.tokens = scorer.ids_run();
  return out;
}

struct Comparison {
  quant::Mean accuracy, nll;  // of the model less those of the base
  quant::PairedTest test;
};

Comparison compare(const ClozeAnswers& model, const ClozeAnswers& base) {
  const std::vector<double> a(model.right.begin(), model.right.end());
  const std::vector<double> b(base.right.begin(), base.right.end());
  return {quant::paired_difference(a, b), quant::paired_difference(model.nll, base.nll),
          quant::mcnemar(model.right, base.right)};
}

Json answers_json(const ClozeAnswers& answers, const ClozeData& data) {
  const quant::Mean nll = quant::mean_of(answers.nll), accuracy = answers.accuracy();
  return {{"accuracy", accuracy.value},
          {"accuracy_se", accuracy.standard_error},
          {"accuracy_ci", to_json(answers.accuracy_interval())},
          {"perplexity", quant::perplexity_of(nll)},
          {"perplexity_ci", to_json(quant::perplexity_interval(nll))},
          {"items", answers.right.size()},
          {"skipped", data.skipped},
          {"truncated", answers.truncated},
          {"tokens", answers.tokens}};
}

Json comparison_json(const ClozeAnswers& model, const ClozeAnswers& base) {
  const Comparison both = compare(model, base);
  return {{"base_accuracy", base.accuracy().value},
          {"base_perplexity", quant::perplexity_of(quant::mean_of(base.nll))},
          {"delta_accuracy", both.accuracy.value},
          {"delta_accuracy_se", both.accuracy.standard_error},
          {"mcnemar", to_json(both.test)},
          {"delta_nll", both.nll.value},
          {"delta_nll_se", both.nll.standard_error},
          {"ratio", quant::perplexity_of(both.nll)},
          {"ratio_ci", to_json(quant::perplexity_interval(both.nll))}};
}

void print_answers(const ClozeAnswers& answers, const ClozeData& data, const EvalModel& model) {
  const quant::Mean nll = quant::mean_of(answers.nll);
  print_line(fmt::format("accuracy    {:>10.4f}     {} of {} last words, 95% in {}",
                         answers.accuracy().value, answers.count_right(), answers.right.size(),
                         to_text(answers.accuracy_interval(), 4)));
  print_line(fmt::format("perplexity  {:>10.4f}     of the last word, 95% in {}",
                         quant::perplexity_of(nll), to_text(quant::perplexity_interval(nll), 3)));
  if (data.skipped > 0) print_line(fmt::format("skipped     {:>10}     of one word", data.skipped));
  if (answers.truncated > 0) {
    print_line(fmt::format("truncated   {:>10}     contexts were longer than the model's",
                           answers.truncated));
  }
  print_line(fmt::format("speed       {:>10.1f} tok/s {:.2f} s; {} threads, {}, {} activations",
                         static_cast<double>(answers.tokens) / answers.seconds, answers.seconds,
                         model.loaded.pool->size(), model.loaded.isa(), model.loaded.compute));
}

void print_comparison(const ClozeAnswers& model, const ClozeAnswers& base) {
  const Comparison both = compare(model, base);
  print_line(fmt::format(
      "base        {:>10.4f}     accuracy; the model has {:+.4f} -+ {:.4f}, alone right {} times, "
      "alone wrong {} times, p = {:.3g}",
      base.accuracy().value, both.accuracy.value, both.accuracy.standard_error,
      both.test.only_first, both.test.only_second, both.test.p_value));
  print_line(fmt::format("            {:>10.4f}     perplexity; the model's is {} times that",
                         quant::perplexity_of(quant::mean_of(base.nll)),
                         to_text(quant::perplexity_interval(both.nll), 4)));
}

int cloze(const EvalClozeOptions& options) {
  catch_interrupts();
  ClozeData data = read_cloze(options.eval.data);
  if (options.max_items > 0 && std::ssize(data.items) > options.max_items) {
    data.items.resize(static_cast<size_t>(options.max_items));
  }
  const EvalModel model = load_eval_model(options.eval);
  const ClozeAnswers answers = answer(model, data, options.eval.data);
  std::optional<ClozeAnswers> base;
  if (!options.eval.base.empty()) {
    base = answer(load_eval_base(options.eval, model.loaded.pool), data, options.eval.data);
  }
  if (options.eval.json) {
    Json json = answers_json(answers, data);
    if (base) json.update(comparison_json(answers, *base));
    json.update(run_json(model.loaded, answers.seconds));
    print_json(json);
    return 0;
  }
  print_answers(answers, data, model);
  if (base) print_comparison(answers, *base);
  return 0;
}

}  // namespace

void add_eval_cloze(CLI::App& group, Action& action) {
  auto options = std::make_shared<EvalClozeOptions>();
  CLI::App* command =
      group.add_subcommand("cloze", "Whether a model finds the last word of texts (LAMBADA)");
  options->eval.add_to(*command, "DATA", "A text a line, or a .jsonl with \"text\"",
                       "Whether every context begins with the model's own token: yes, no, or "
                       "auto, as its tokenizer has it");
  command->add_option("--max-items", options->max_items, "Only the first so many texts")
      ->check(CLI::Range(1, 1 << 30));
  command->callback([options, &action] { action = [options] { return cloze(*options); }; });
}

}  // namespace nibble::cli
