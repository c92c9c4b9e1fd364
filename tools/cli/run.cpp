// nibble run: makes text, or ids.
#include <algorithm>

#include "jit/error.h"
#include "tools/cli/commands.h"
#include "tools/cli/generate.h"
#include "tools/cli/interrupt.h"
#include "tools/cli/model_loader.h"
#include "tools/cli/model_tokenizer.h"
#include "tools/cli/output.h"
#include "tools/cli/sampling.h"

namespace nibble::cli {
namespace {

constexpr int64_t kDefaultTokens = 256;

struct RunCommandOptions {
  std::string model, prompt;
  std::vector<int64_t> ids;
  int64_t tokens = -1;  // -1: kDefaultTokens, or fewer where the context ends before
  bool json = false, echo = false, ignore_eos = false;
  SamplingOptions sampling;
  CLI::Option *prompt_flag = nullptr, *ids_flag = nullptr;
  WeightOptions weights;
  RunOptions run;
};

std::vector<int32_t> given_ids(const RunCommandOptions& options, const runtime::Decoder& decoder) {
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
int64_t choose_limit(const RunCommandOptions& options, int64_t prompt, int64_t context) {
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

int run(RunCommandOptions options) {
  catch_interrupts();
  options.sampling.settle();
  const LoadedModel model = load_model(options.model, "", options.weights, options.run);
  const bool from_text = options.ids_flag->count() == 0;
  const auto tokenizer = tokenizer_of(*model.graph);
  if (from_text && !tokenizer) {
    fail(
        "{}: there is no tokenizer.json or tokenizer.model beside or within the model; give --ids "
        "instead of a text.",
        options.model);
  }
  const std::vector<int32_t> prompt = from_text
                                          ? encode_text(options.prompt, *model.graph, *tokenizer)
                                          : given_ids(options, *model.decoder);
  const int64_t limit =
      choose_limit(options, static_cast<int64_t>(prompt.size()), model.decoder->context_length());
  std::vector<int64_t> eos;
  if (!options.ignore_eos) eos = model.graph->eos_ids;

  Printer printer(tokenizer, options.json);
  if (options.echo && !options.json) print(tokenizer ? tokenizer->decode(prompt, true) : "");
  const Generation made =
      generate(*model.decoder, options.sampling.sampler, prompt, limit, eos, [&](int32_t id) {
        printer.add(id);
        return true;
      });
  printer.finish();
  if (options.json) {
    Json json = {{"ids", made.ids}, {"prompt_ids", prompt}};
    if (tokenizer) json["text"] = printer.text();
    json.update(timings(model, made));
    json["seed"] = options.sampling.sampler.seed;
    print_json(json);
  } else {
    flush_output();
    note_timings(model, made, options.sampling.sampler.seed);
  }
  return 0;
}

}  // namespace

void add_run(CLI::App& program, Action& action) {
  auto options = std::make_shared<RunCommandOptions>();
  CLI::App* command = program.add_subcommand("run", "Make text with a model");
  command
      ->add_option("MODEL", options->model,
                   "An .onnx, a .nib, .safetensors, a .gguf or a folder holding one")
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
  options->sampling.add_to(*command);
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
