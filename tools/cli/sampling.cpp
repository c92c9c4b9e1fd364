#include "tools/cli/sampling.h"

#include <random>

#include "jit/error.h"
#include "runtime/json_text.h"
#include "tools/cli/commands.h"
#include "tools/cli/output.h"

namespace nibble::cli {

void SamplingOptions::add_to(CLI::App& command) {
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
  seed_flag = command.add_option("--seed", sampler.seed, "Seed (default: at random)")->group(title);
}

void SamplingOptions::settle() {
  if (seed_flag->count() == 0) {
    std::random_device device;
    sampler.seed = device();
  }
  try {
    const runtime::Sampler probe(sampler);
  } catch (const Error& error) {
    throw UsageError(error.what());
  }
}

std::vector<int32_t> encode_text(const std::string& text, const graph::Graph& graph,
                                 const frontends::Tokenizer& tokenizer) {
  std::vector<int32_t> ids = tokenizer.encode(text, true);
  bool add_bos = ids.empty();
  const auto config = graph.documents.find("tokenizer_config.json");
  if (config != graph.documents.end()) {
    const auto json = runtime::parse_json(config->second, graph.origin + ": tokenizer_config.json");
    const auto flag = json.find("add_bos_token");
    add_bos = add_bos || (flag != json.end() && flag->is_boolean() && flag->get<bool>());
  }
  const int64_t bos = graph.bos_id;
  if (add_bos && bos >= 0 && (ids.empty() || ids[0] != bos)) {
    ids.insert(ids.begin(), static_cast<int32_t>(bos));
  }
  if (ids.empty()) fail("The prompt is empty, and the model has no token that begins a text.");
  return ids;
}

}  // namespace nibble::cli
