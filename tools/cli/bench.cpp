// nibble bench: how fast a model runs, and how far that is from what the machine could do.
#include <algorithm>

#include "graph/model_shapes.h"
#include "jit/error.h"
#include "runtime/machine_roofs.h"
#include "tools/cli/commands.h"
#include "tools/cli/interrupt.h"
#include "tools/cli/model_loader.h"
#include "tools/cli/output.h"

namespace nibble::cli {
namespace {

constexpr int64_t kDecodeContext = 16;  // positions held when decode begins: weights, not KV

struct Options {
  std::string model, shape;
  int64_t prompt = 512, tokens = 32;
  bool json = false;
  CLI::Option *model_flag = nullptr, *shape_flag = nullptr;
  WeightOptions weights;
  RunOptions run;
};

std::vector<int32_t> random_ids(int64_t count, int64_t vocabulary) {
  std::vector<int32_t> ids;
  uint64_t state = 1;
  for (int64_t i = 0; i < count; ++i) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    ids.push_back(static_cast<int32_t>((state >> 33) % static_cast<uint64_t>(vocabulary)));
  }
  return ids;
}

void stop_if_interrupted() {
  if (interrupted()) fail("Interrupted before anything was measured.");
}

double measure_prefill(runtime::Decoder& decoder, const std::vector<int32_t>& ids) {
  // Once for the caches, page tables and clocks, on a chunk's worth at most; then for the result.
  decoder.reset();
  decoder.forward(std::span(ids).first(std::min<size_t>(ids.size(), 64)));
  stop_if_interrupted();
  decoder.reset();
  const double start = now();
  decoder.forward(ids);
  return static_cast<double>(ids.size()) / (now() - start);
}

// From the median over the steps, so that one interruption does not count.
double measure_decode(runtime::Decoder& decoder, const std::vector<int32_t>& ids, int64_t steps) {
  decoder.reset();
  const auto before =
      static_cast<size_t>(std::min(kDecodeContext, decoder.context_length() - steps));
  decoder.forward(std::span(ids).first(std::clamp<size_t>(before, 1, ids.size())));
  std::vector<double> seconds;
  for (int64_t i = 0; i < steps; ++i) {
    stop_if_interrupted();
    const int32_t id = ids[static_cast<size_t>(i) % ids.size()];
    const double start = now();
    decoder.forward(std::span(&id, 1));
    seconds.push_back(now() - start);
  }
  const auto middle = seconds.begin() + static_cast<std::ptrdiff_t>(seconds.size() / 2);
  std::nth_element(seconds.begin(), middle, seconds.end());
  return 1 / *middle;
}

// A roof is the best that the machine does, so a disturbed measurement must not lower it.
runtime::Roofs best_roofs(runtime::ThreadPool& pool) {
  const runtime::Roofs first = runtime::measure_roofs(pool), second = runtime::measure_roofs(pool);
  return {std::max(first.read_gbs, second.read_gbs), std::max(first.int8_gops, second.int8_gops)};
}

void check_sizes(const Options& options, const runtime::Decoder& decoder) {
  const int64_t context = decoder.context_length();
  if (options.prompt > context || options.tokens >= context) {
    fail("A prompt of {} and {} more do not fit the context, which holds {} positions.",
         options.prompt, options.tokens, context);
  }
}

int bench(const Options& options) {
  catch_interrupts();
  LoadedModel model = load_model(options.model, options.shape, options.weights, options.run);
  check_sizes(options, *model.decoder);
  const auto ids = random_ids(std::max<int64_t>(options.prompt, 1), model.decoder->vocab_size());
  const double prefill = measure_prefill(*model.decoder, ids);
  const double decode = measure_decode(*model.decoder, ids, options.tokens);
  const double rss = peak_rss_mb();  // before the roofs, whose buffer is large
  const runtime::Roofs roofs = best_roofs(*model.pool);

  Json json = {{"model", options.shape.empty() ? options.model : options.shape},
               {"roof_read_gbs", roofs.read_gbs},
               {"roof_int8_gops", roofs.int8_gops},
               {"decode_tok_s", decode},
               {"decode_share", nullptr},
               {"prefill_tok_s", prefill},
               {"prefill_share", nullptr},
               {"load_s", model.load_s},
               {"jit_ms", model.jit_ms},
               {"peak_rss_mb", rss},
               {"threads", model.pool->size()},
               {"isa", model.isa()},
               {"prompt", options.prompt},
               {"gen", options.tokens},
               {"compute", model.compute},
               {"tuned", 0}};
  if (model.session) {
    const runtime::Plan& plan = model.session->plan();
    const auto bytes = static_cast<double>(plan.weight_bytes_per_token);
    const auto macs = static_cast<double>(plan.macs_per_token);
    json["tuned"] = plan.tuned;
    json["weight_bytes_per_token"] = plan.weight_bytes_per_token;
    json["macs_per_token"] = plan.macs_per_token;
    json["decode_share"] = bytes * decode / (roofs.read_gbs * 1e9);
    json["prefill_share"] = 2 * macs * prefill / (roofs.int8_gops * 1e9);
  }
  if (options.json) {
    print_json(json);
    return 0;
  }
  const auto share = [&](const char* key) {
    return json[key].is_null() ? std::string("no share: the model is interpreted")
                               : fmt::format("{:.1f}% of the roof", json[key].get<double>() * 100);
  };
  print_line(fmt::format("{} on {} threads, {}, {} activations", json["model"].get<std::string>(),
                         model.pool->size(), model.isa(), model.compute));
  if (json["tuned"] > 0) {
    print_line(
        fmt::format("tuned    {:>9} tilings by the tuning database", json["tuned"].get<int64_t>()));
  }
  print_line(fmt::format("roofs    {:>9.2f} GB/s read   {:.0f} GOP/s int8", roofs.read_gbs,
                         roofs.int8_gops));
  print_line(fmt::format("decode   {:>9.2f} tok/s       {}", decode, share("decode_share")));
  print_line(fmt::format("prefill  {:>9.2f} tok/s       {}", prefill, share("prefill_share")));
  print_line(fmt::format(
      "load     {:>9.2f} s           {:.0f} ms of code generation, peak memory {:.0f} MB",
      model.load_s, model.jit_ms, rss));
  return 0;
}

}  // namespace

void add_bench(CLI::App& program, Action& action) {
  auto options = std::make_shared<Options>();
  CLI::App* command =
      program.add_subcommand("bench", "Measure decode and prefill beside the machine's roofs");
  options->model_flag =
      command->add_option("MODEL", options->model, "An .onnx, a .nib or a folder holding one");
  options->shape_flag =
      command->add_option("--shape", options->shape, "Random weights of this model's shapes")
          ->check(CLI::IsMember(graph::shape_names()))
          ->excludes(options->model_flag);
  command->add_option("--prompt", options->prompt, "Ids of the prompt")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->capture_default_str();
  command->add_option("--gen", options->tokens, "Ids to make, one at a time")
      ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
      ->capture_default_str();
  command->add_flag("--json", options->json, "Print a JSON object");
  options->run.add_to(*command);
  options->weights.add_to(*command);
  command->callback([options, &action] {
    if (options->model_flag->count() + options->shape_flag->count() == 0) {
      throw CLI::RequiredError("MODEL or --shape");
    }
    action = [options] { return bench(*options); };
  });
}

}  // namespace nibble::cli
