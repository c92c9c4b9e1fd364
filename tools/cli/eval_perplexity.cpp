// nibble eval perplexity and kl: how well a model predicts a text, and how far it is from a base.
#include <algorithm>
#include <cmath>

#include "jit/error.h"
#include "quant/scores/perplexity.h"
#include "tools/cli/eval.h"
#include "tools/cli/interrupt.h"

namespace nibble::cli {
namespace {

constexpr int64_t kUsualWindow = 512;

struct EvalPerplexityOptions {
  EvalOptions eval;
  int64_t window = 0, stride = 0, max_tokens = 0;  // 0: kUsualWindow or the context; window; all
  std::string score = "all";
  bool kl = false;
};

quant::Protocol protocol_of(const EvalPerplexityOptions& options, const EvalModel& model) {
  const int64_t context = model.loaded.decoder->context_length();
  quant::Protocol protocol;
  protocol.window = options.window > 0 ? options.window : std::min(kUsualWindow, context);
  protocol.stride = options.stride > 0 ? options.stride : protocol.window;
  protocol.second_half = options.score == "half";
  if (options.eval.bos == "yes") protocol.bos = model.bos;
  protocol.max_tokens = options.max_tokens;
  return protocol;
}

// The value below which a share of the values lie.
double quantile(std::vector<double> values, double share) {
  const auto last = static_cast<double>(values.size() - 1);
  const auto at = static_cast<std::ptrdiff_t>(std::llround(share * last));
  std::nth_element(values.begin(), values.begin() + at, values.end());
  return values[static_cast<size_t>(at)];
}

// A token that begins the text only is one of its ids.
std::vector<int32_t> ids_of(const std::string& text, const EvalModel& model,
                            const EvalPerplexityOptions& options) {
  std::vector<int32_t> ids = model.encode(text);
  if (model.bos && options.eval.bos == "auto") ids.insert(ids.begin(), *model.bos);
  return ids;
}

// What the model's own token stands before.
std::string bos_of(const EvalModel& model, const quant::Protocol& protocol) {
  if (!model.bos) return "none";
  return protocol.bos ? "windows" : "text";
}

Json protocol_json(const EvalModel& model, const quant::Protocol& protocol) {
  return {{"window", protocol.window},
          {"stride", protocol.stride},
          {"score", protocol.second_half ? "half" : "all"},
          {"bos", bos_of(model, protocol)}};
}

Json scores_json(const quant::Scores& scores) {
  const quant::Mean nll = scores.mean_nll();
  return {{"perplexity", scores.perplexity()},
          {"tokens", scores.nll.size()},
          {"ci", to_json(quant::perplexity_interval(nll))},
          {"nll", nll.value},
          {"nll_se", nll.standard_error},
          {"tok_s", static_cast<double>(scores.nll.size()) / scores.seconds},
          {"model_seconds", scores.decoder_seconds}};
}

Json comparison_json(const quant::Comparison& both) {
  const quant::Mean kl = both.mean_kl(), delta = both.delta_nll();
  return {{"kl", kl.value},
          {"kl_se", kl.standard_error},
          {"kl_median", quantile(both.kl, 0.5)},
          {"kl_p99", quantile(both.kl, 0.99)},
          {"kl_max", quantile(both.kl, 1)},
          {"top1", both.top1()},
          {"base_perplexity", both.base_perplexity()},
          {"delta_nll", delta.value},
          {"delta_nll_se", delta.standard_error},
          {"ratio", quant::perplexity_of(delta)},
          {"ratio_ci", to_json(both.perplexity_ratio())}};
}

void print_scores(const quant::Scores& scores, const quant::Protocol& protocol,
                  const EvalModel& model) {
  const std::string bos = bos_of(model, protocol);
  print_line(fmt::format("perplexity  {:>10.4f}     95% in {}", scores.perplexity(),
                         to_text(quant::perplexity_interval(scores.mean_nll()), 3)));
  print_line(fmt::format(
      "tokens      {:>10}     windows of {}, {} apart, {}{}", scores.nll.size(), protocol.window,
      protocol.stride, protocol.second_half ? "second halves scored" : "every token scored once",
      bos == "none"
          ? ""
          : fmt::format(", id {} before {}", *model.bos, bos == "text" ? "the text" : "each")));
  print_line(
      fmt::format("speed       {:>10.1f} tok/s {:.2f} s, {:.1f}% of them outside the model; "
                  "{} threads, {}, {} activations",
                  static_cast<double>(scores.nll.size()) / scores.seconds, scores.seconds,
                  100 * (1 - scores.decoder_seconds / scores.seconds), model.loaded.pool->size(),
                  model.loaded.isa(), model.loaded.compute));
}

void print_comparison(const quant::Comparison& both) {
  const auto percent = [](double ratio) { return (ratio - 1) * 100; };
  const quant::Mean kl = both.mean_kl();
  const quant::Interval ratio = both.perplexity_ratio();
  print_line(
      fmt::format("KL          {:>10.6f} nats -+ {:.6f}; half below {:.6f}, 99% below {:.4f}, "
                  "at most {:.4f}",
                  kl.value, kl.standard_error, quantile(both.kl, 0.5), quantile(both.kl, 0.99),
                  quantile(both.kl, 1)));
  print_line(fmt::format("top 1       {:>9.2f}%      of the likeliest ids are the base's",
                         100 * both.top1()));
  print_line(
      fmt::format("base        {:>10.4f}     the model has {:+.3f}%, 95% in [{:+.3f}%, "
                  "{:+.3f}%]",
                  both.base_perplexity(), percent(quant::perplexity_of(both.delta_nll())),
                  percent(ratio.low), percent(ratio.high)));
}

int perplexity(const EvalPerplexityOptions& options) {
  catch_interrupts();
  const std::string text = read_text(options.eval.data);
  const EvalModel model = load_eval_model(options.eval);
  const std::vector<int32_t> ids = ids_of(text, model, options);
  const quant::Protocol protocol = protocol_of(options, model);
  try {
    quant::plan_windows(static_cast<int64_t>(ids.size()), protocol);
  } catch (const Error& error) {
    fail("{}: {}", options.eval.data, error.what());
  }
  std::optional<LoadedModel> base;
  if (!options.eval.base.empty()) base = load_base(options.eval, model.loaded.pool);

  quant::Comparison both;
  {
    Progress progress("scoring", "tokens", 1);
    const quant::Scoring scoring{model.loaded.pool.get(), [&](int64_t done, int64_t total) {
                                   progress.update(done, total);
                                   stop_if_interrupted();
                                 }};
    runtime::Decoder& decoder = *model.loaded.decoder;
    if (base) {
      both = quant::compare(decoder, *base->decoder, ids, protocol, scoring);
    } else {
      both.model = quant::score(decoder, ids, protocol, scoring);
    }
  }
  if (options.eval.json) {
    Json json = scores_json(both.model);
    if (base) json.update(comparison_json(both));
    json.update(protocol_json(model, protocol));
    json.update(run_json(model.loaded, both.model.seconds));
    if (base) json["base_compute"] = base->compute;
    print_json(json);
    return 0;
  }
  if (base && options.kl) print_comparison(both);
  print_scores(both.model, protocol, model);
  if (base && !options.kl) print_comparison(both);
  return 0;
}

void add_command(CLI::App& group, Action& action, const char* name, const char* help, bool kl) {
  auto options = std::make_shared<EvalPerplexityOptions>();
  options->kl = kl;
  CLI::App* command = group.add_subcommand(name, help);
  options->eval.add_to(*command, "TEXT",
                       "A text file, or a .jsonl with \"text\", whose texts are joined by an empty "
                       "line",
                       "The token that begins a text. auto: before the text, where the tokenizer "
                       "has it so; yes: before every window; no: nowhere");
  if (kl) command->get_option("--base")->required();
  command
      ->add_option("--window", options->window,
                   "Positions of a window (default: 512, or the context when that is less)")
      ->check(CLI::Range(2, 1 << 30));
  command
      ->add_option("--stride", options->stride,
                   "Ids from one window to the next; those that both have are scored in the first "
                   "only (default: the window)")
      ->check(CLI::Range(1, 1 << 30));
  command
      ->add_option("--score", options->score,
                   "all: every token of a window; half: those of its second half")
      ->check(CLI::IsMember({"all", "half"}))
      ->capture_default_str();
  command
      ->add_option("--max-tokens", options->max_tokens,
                   "Use only the first so many ids of the text (default: all)")
      ->check(CLI::Range(1, 1 << 30));
  command->callback([options, &action] {
    if (options->window > 0 && options->stride > options->window) {
      throw CLI::ValidationError("--stride", "it must not be more than --window");
    }
    action = [options] { return perplexity(*options); };
  });
}

}  // namespace

void add_eval_perplexity(CLI::App& group, Action& action) {
  add_command(group, action, "perplexity", "How well a model predicts a text", false);
  add_command(group, action, "kl", "How far a model's predictions are from those of a base", true);
}

}  // namespace nibble::cli
