// nibble run: makes text, or ids.
#include <algorithm>
#include <random>

#include "jit/error.h"
#include "runtime/sampler.h"
#include "tools/cli/commands.h"
#include "tools/cli/generate.h"
#include "tools/cli/interrupt.h"
#include "tools/cli/model_loader.h"
#include "tools/cli/output.h"

namespace nibble::cli {
namespace {

constexpr int64_t kDefaultTokens = 256;

struct Options {
  std::string model, prompt;
  std::vector<int64_t> ids;
  int64_t tokens = -1;  // -1: kDefaultTokens, or fewer where the context ends before
  bool json = false, echo = false, ignore_eos = false;
  runtime::SamplerOptions sampler;
  CLI::Option *prompt_flag = nullptr, *ids_flag = nullptr, *seed_flag = nullptr;
  WeightOptions weights;
  RunOptions run;
};

// The text's ids, with the token that begins a text where tokenizer_config.json asks for it.
std::vector<int32_t> encode_prompt(const Options& options, const LoadedModel& model,
                                   const frontends::Tokenizer& tokenizer) {
  std::vector<int32_t> ids = tokenizer.encode(options.prompt, true);
  bool add_bos = ids.empty();
  const auto config = model.graph->documents.find("tokenizer_config.json");
  if (config != model.graph->documents.end()) {
    const Json json = Json::parse(config->second, nullptr, false);
    const auto flag = json.is_object() ? json.find("add_bos_token") : json.end();
    add_bos = add_bos ||
              (json.is_object() && flag != json.end() && flag->is_boolean() && flag->get<bool>());
  }
  const int64_t bos = model.graph->bos_id;
  if (add_bos && bos >= 0 && (ids.empty() || ids[0] != bos)) {
    ids.insert(ids.begin(), static_cast<int32_t>(bos));
  }
  if (ids.empty()) fail("The prompt is empty, and the model has no token that begins a text.");
  return ids;
}

std::vector<int32_t> given_ids(const Options& options, const runtime::Decoder& decoder) {
  std::vector<int32_t> ids;
  for (const int64_t id : options.ids) {
    if (id < 0 || id >= decoder.vocab_size()) {
      fail("The id {} given by --ids is outside the vocabulary 0..{}.", id,
           decoder.vocab_size() - 1);
    }
    ids.push_back(static_cast<int32_t>(id));
  }
  return ids;
}

// How many ids to make: what was asked for must fit, what was not asked for stops where it must.
int64_t choose_limit(const Options& options, int64_t prompt, int64_t context) {
  // The last id made is not fed back, so it needs no position.
  const int64_t room = std::max<int64_t>(context - prompt + 1, 0);
  if (options.tokens < 0) return std::min(kDefaultTokens, room);
  if (options.tokens > room) {
    fail("A prompt of {} ids and {} more need {} positions, but the context holds {}.", prompt,
         options.tokens, prompt + options.tokens - 1, context);
  }
  return options.tokens;
}

Json timings(const LoadedModel& model, const Generation& made) {
  return {{"stop", made.stop},
          {"prompt_tokens", made.prompt_tokens},
          {"generated_tokens", made.ids.size()},
          {"prefill_s", made.prefill_s},
          {"prefill_tok_s", made.prefill_tok_s()},
          {"decode_s", made.decode_s},
          {"decode_tok_s", made.decode_tok_s()},
          {"load_s", model.load_s},
          {"jit_ms", model.jit_ms},
          {"peak_rss_mb", peak_rss_mb()},
          {"threads", model.pool->size()},
          {"isa", model.isa()},
          {"compute", model.compute},
          {"fused", model.report.complete()}};
}

void note_timings(const LoadedModel& model, const Generation& made, uint64_t seed) {
  note(fmt::format(
      "[{} tokens at {:.1f} tok/s, prompt of {} at {:.1f} tok/s, loaded in {:.2f} s with {:.0f} ms "
      "of code generation; {} threads, {}, seed {}; ended by {}]",
      made.ids.size(), made.decode_tok_s(), made.prompt_tokens, made.prefill_tok_s(), model.load_s,
      model.jit_ms, model.pool->size(), model.isa(), seed, made.stop));
}

// Ids as they come, for models without a tokenizer.
class Printer {
 public:
  Printer(const std::optional<frontends::Tokenizer>& tokenizer, bool silent) : silent_(silent) {
    if (tokenizer) decoder_.emplace(*tokenizer, true);
  }
  void add(int32_t id) {
    if (decoder_) {
      put(decoder_->push(id));
    } else {
      put((first_ ? "" : " ") + std::to_string(id));
    }
    first_ = false;
  }
  void finish() {
    if (decoder_) put(decoder_->finish());
    if (!silent_) print("\n");
  }
  const std::string& text() const { return text_; }

 private:
  void put(const std::string& part) {
    text_ += part;
    if (silent_ || part.empty()) return;
    print(part);
    flush_output();
  }
  std::optional<frontends::StreamDecoder> decoder_;
  std::string text_;
  bool silent_, first_ = true;
};

// Before a model is loaded for nothing.
void check_sampling(const runtime::SamplerOptions& options) {
  try {
    runtime::Sampler sampler(options);
  } catch (const Error& error) {
    throw UsageError(error.what());
  }
}

int run(Options options) {
  catch_interrupts();
  if (options.seed_flag->count() == 0) {
    std::random_device device;
    options.sampler.seed = device();
  }
  check_sampling(options.sampler);
  const LoadedModel model = load_model(options.model, "", options.weights, options.run);
  const bool from_text = options.ids_flag->count() == 0;
  const auto tokenizer = tokenizer_of(*model.graph);
  if (from_text && !tokenizer) {
    fail("{}: there is no tokenizer.json beside or within the model; give --ids instead of a text.",
         options.model);
  }
  const std::vector<int32_t> prompt =
      from_text ? encode_prompt(options, model, *tokenizer) : given_ids(options, *model.decoder);
  const int64_t limit =
      choose_limit(options, static_cast<int64_t>(prompt.size()), model.decoder->context_length());
  std::vector<int64_t> eos;
  if (!options.ignore_eos) eos = model.graph->eos_ids;

  Printer printer(tokenizer, options.json);
  if (options.echo && !options.json) print(tokenizer ? tokenizer->decode(prompt, true) : "");
  const Generation made = generate(*model.decoder, options.sampler, prompt, limit, eos,
                                   [&](int32_t id) { printer.add(id); });
  printer.finish();
  if (options.json) {
    Json json = {{"ids", made.ids}, {"prompt_ids", prompt}};
    if (tokenizer) json["text"] = printer.text();
    json.update(timings(model, made));
    json["seed"] = options.sampler.seed;
    print_json(json);
  } else {
    flush_output();
    note_timings(model, made, options.sampler.seed);
  }
  return 0;
}

void add_sampling(CLI::App& command, Options& options) {
  runtime::SamplerOptions& sampler = options.sampler;
  const char* title = "Sampling";
  CLI::Option* greedy =
      command.add_flag("--greedy", sampler.greedy, "Always the likeliest id")->group(title);
  const auto add = [&](const char* name, auto& value, const char* help) {
    return command.add_option(name, value, help)->capture_default_str()->group(title);
  };
  add("--temp", sampler.temperature, "Temperature; 0 is greedy")->excludes(greedy);
  add("--top-k", sampler.top_k, "Only the K likeliest; 0: all")->excludes(greedy);
  add("--top-p", sampler.top_p, "Only the likeliest with this mass together")->excludes(greedy);
  add("--min-p", sampler.min_p, "Only ids this likely, relative to the likeliest")
      ->excludes(greedy);
  add("--repeat-penalty", sampler.repeat_penalty, "Makes ids of late less likely; 1: off");
  add("--repeat-last", sampler.repeat_last, "How many ids are of late; -1: all");
  options.seed_flag =
      command.add_option("--seed", sampler.seed, "Seed (default: at random)")->group(title);
}

}  // namespace

void add_run(CLI::App& program, Action& action) {
  auto options = std::make_shared<Options>();
  CLI::App* command = program.add_subcommand("run", "Make text with a model");
  command
      ->add_option("MODEL", options->model,
                   "An .onnx, a .nib, .safetensors or a folder holding one")
      ->required();
  options->prompt_flag = command->add_option("-p,--prompt", options->prompt, "The text to go on");
  options->ids_flag =
      command->add_option("--ids", options->ids, "Ids to go on, with commas between: 5,7,9")
          ->delimiter(',')
          ->allow_extra_args(false)
          ->excludes(options->prompt_flag);
  command->add_option("-n,--tokens", options->tokens, "Ids to make at most (default: 256)")
      ->check(CLI::Range(int64_t{0}, int64_t{1} << 30));
  command->add_flag("--echo", options->echo, "Print the prompt too");
  command->add_flag("--ignore-eos", options->ignore_eos, "Go on past the end of a text");
  command->add_flag("--json", options->json, "Print one JSON object at the end");
  add_sampling(*command, *options);
  options->run.add_to(*command);
  options->weights.add_to(*command);
  command->callback([options, &action] {
    if (options->prompt_flag->count() + options->ids_flag->count() == 0) {
      throw CLI::RequiredError("-p TEXT or --ids IDS");
    }
    action = [options] { return run(*options); };
  });
}

}  // namespace nibble::cli
