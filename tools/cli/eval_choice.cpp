// nibble eval choice: which of several answers a model finds likeliest, as HellaSwag, PIQA,
// WinoGrande and their like ask.
#include <algorithm>
#include <numeric>

#include "jit/error.h"
#include "quant/scores/continuations.h"
#include "runtime/clock.h"
#include "tools/cli/eval.h"
#include "tools/cli/interrupt.h"

namespace nibble::cli {
namespace {

struct EvalChoiceOptions {
  EvalOptions eval;
  int64_t max_items = 0;  // 0: all
};

struct ChoiceAnswers {
  std::vector<uint8_t> right;       // the likeliest choice is the right one
  std::vector<uint8_t> right_norm;  // ... by log-likelihood over its length in characters
  std::vector<double> nll;          // of the right choice, in nats
  int64_t truncated = 0, tokens = 0;
  double seconds = 0;
};

// The first of the largest.
int64_t best_of(const std::vector<double>& scores) {
  return std::max_element(scores.begin(), scores.end()) - scores.begin();
}

void answer_one(const EvalModel& model, const ChoiceItem& item, const std::string& path,
                quant::ContinuationScorer& scorer, ChoiceAnswers& out) {
  std::vector<double> scores, by_length;
  bool truncated = false;
  for (size_t i = 0; i < item.choices.size(); ++i) {
    const quant::Continuation ids = encode_pair(model, item.choices[i], path, item.line);
    const quant::ContinuationScore score = scorer.score(ids.context, ids.continuation);
    scores.push_back(score.log_prob);
    by_length.push_back(score.log_prob / static_cast<double>(item.lengths[i]));
    truncated = truncated || score.truncated;
  }
  out.right.push_back(best_of(scores) == item.label ? 1 : 0);
  out.right_norm.push_back(best_of(by_length) == item.label ? 1 : 0);
  out.nll.push_back(-scores[static_cast<size_t>(item.label)]);
  out.truncated += truncated ? 1 : 0;
}

ChoiceAnswers answer(const EvalModel& model, const std::vector<ChoiceItem>& items,
                     const std::string& path) {
  ChoiceAnswers out;
  quant::ContinuationScorer scorer(*model.loaded.decoder);
  Progress progress("scoring", "questions", 1);
  const double start = runtime::seconds_now();
  for (const ChoiceItem& item : items) {
    answer_one(model, item, path, scorer, out);
    progress.update(std::ssize(out.right), std::ssize(items));
    stop_if_interrupted();
  }
  out.seconds = runtime::seconds_now() - start;
  out.tokens = scorer.ids_run();
  return out;
}

// How many of the answers are right, and how sure that is.
struct Accuracy {
  quant::Mean mean;
  quant::Interval interval;
};

std::vector<double> numbers(const std::vector<uint8_t>& right) {
  return {right.begin(), right.end()};
}

Accuracy accuracy_of(const std::vector<uint8_t>& right) {
  return {quant::mean_of(numbers(right)),
          quant::share_interval(std::accumulate(right.begin(), right.end(), int64_t{0}),
                                std::ssize(right))};
}

Json answers_json(const ChoiceAnswers& answers) {
  const Accuracy acc = accuracy_of(answers.right), norm = accuracy_of(answers.right_norm);
  return {{"acc", acc.mean.value},
          {"acc_se", acc.mean.standard_error},
          {"acc_ci", to_json(acc.interval)},
          {"acc_norm", norm.mean.value},
          {"acc_norm_se", norm.mean.standard_error},
          {"acc_norm_ci", to_json(norm.interval)},
          {"items", answers.right.size()},
          {"truncated", answers.truncated},
          {"tokens", answers.tokens}};
}

// Of the same answers by the model and by the base.
Json paired_json(const std::vector<uint8_t>& model, const std::vector<uint8_t>& base) {
  const quant::Mean delta = quant::paired_difference(numbers(model), numbers(base));
  return {{"base", accuracy_of(base).mean.value},
          {"delta", delta.value},
          {"delta_se", delta.standard_error},
          {"mcnemar", to_json(quant::mcnemar(model, base))}};
}

Json comparison_json(const ChoiceAnswers& model, const ChoiceAnswers& base) {
  const quant::Mean delta = quant::paired_difference(model.nll, base.nll);
  return {{"base_acc", accuracy_of(base.right).mean.value},
          {"base_acc_norm", accuracy_of(base.right_norm).mean.value},
          {"paired_acc", paired_json(model.right, base.right)},
          {"paired_acc_norm", paired_json(model.right_norm, base.right_norm)},
          {"delta_nll", delta.value},
          {"delta_nll_se", delta.standard_error}};
}

void print_accuracy(const char* name, const std::vector<uint8_t>& right) {
  const Accuracy accuracy = accuracy_of(right);
  print_line(fmt::format("{:<11} {:>10.4f}     -+ {:.4f}, 95% in {}", name, accuracy.mean.value,
                         accuracy.mean.standard_error, to_text(accuracy.interval, 4)));
}

void print_answers(const ChoiceAnswers& answers, const EvalModel& model) {
  print_accuracy("acc", answers.right);
  print_accuracy("acc_norm", answers.right_norm);
  if (answers.truncated > 0) {
    print_line(fmt::format("truncated   {:>10}     questions were longer than the model's context",
                           answers.truncated));
  }
  print_line(fmt::format(
      "speed       {:>10.1f} tok/s {} questions in {:.2f} s; {} threads, {}, {} activations",
      static_cast<double>(answers.tokens) / answers.seconds, answers.right.size(), answers.seconds,
      model.loaded.pool->size(), model.loaded.isa(), model.loaded.compute));
}

void print_paired(const char* name, const std::vector<uint8_t>& model,
                  const std::vector<uint8_t>& base) {
  const quant::Mean delta = quant::paired_difference(numbers(model), numbers(base));
  const quant::PairedTest test = quant::mcnemar(model, base);
  print_line(fmt::format(
      "{:<11} {:>10.4f}     the model has {:+.4f} -+ {:.4f}, alone right {} times, alone wrong {} "
      "times, p = {:.3g}",
      name, accuracy_of(base).mean.value, delta.value, delta.standard_error, test.only_first,
      test.only_second, test.p_value));
}

int choice(const EvalChoiceOptions& options) {
  catch_interrupts();
  std::vector<ChoiceItem> items = read_choices(options.eval.data);
  if (options.max_items > 0 && std::ssize(items) > options.max_items) {
    items.resize(static_cast<size_t>(options.max_items));
  }
  const EvalModel model = load_eval_model(options.eval);
  const ChoiceAnswers answers = answer(model, items, options.eval.data);
  std::optional<ChoiceAnswers> base;
  if (!options.eval.base.empty()) {
    base = answer(load_eval_base(options.eval, model.loaded.pool), items, options.eval.data);
  }
  if (options.eval.json) {
    Json json = answers_json(answers);
    if (base) json.update(comparison_json(answers, *base));
    json.update(run_json(model.loaded, answers.seconds));
    print_json(json);
    return 0;
  }
  print_answers(answers, model);
  if (base) {
    print_paired("base acc", answers.right, base->right);
    print_paired("base norm", answers.right_norm, base->right_norm);
  }
  return 0;
}

}  // namespace

void add_eval_choice(CLI::App& group, Action& action) {
  auto options = std::make_shared<EvalChoiceOptions>();
  CLI::App* command = group.add_subcommand(
      "choice", "Which of several answers a model finds likeliest (HellaSwag, PIQA, WinoGrande)");
  options->eval.add_to(*command, "DATA", "Questions, one a line of JSON",
                       "Whether every context begins with the model's own token: yes, no, or "
                       "auto, as its tokenizer has it");
  command->add_option("--max-items", options->max_items, "Only the first so many questions")
      ->check(CLI::Range(1, 1 << 30));
  command->footer(
      "A line is {\"ctx\", \"endings\", \"label\"} as in HellaSwag, {\"goal\", \"sol1\", \"sol2\", "
      "\"label\"} as in PIQA,\n{\"sentence\", \"option1\", \"option2\", \"answer\"} as in "
      "WinoGrande, or {\"context\", \"choices\", \"label\"}.");
  command->callback([options, &action] { action = [options] { return choice(*options); }; });
}

}  // namespace nibble::cli
