#include "tools/cli/model_options.h"

#include <fmt/format.h>

#include <algorithm>

#include "tools/cli/commands.h"

namespace nibble::cli {

void WeightOptions::add_to(CLI::App& command) {
  const char* title = "Weights";
  flags = {
      command.add_option("--weights", weights, "How weights are stored: int4, int6, int8 or f32")
          ->check(CLI::IsMember({"int4", "int6", "int8", "f32"}))
          ->capture_default_str()
          ->group(title),
      command.add_option("--group", group, "Weights that share a scale; 0: a whole column")
          ->check(CLI::IsMember({0, 16, 32, 64, 128, 256, 512, 1024}))
          ->capture_default_str()
          ->group(title),
      command.add_flag("--asym", asym, "Store zero points")->group(title),
      command
          .add_option(
              "--scale", scale,
              "Type of the scales: f16, bf16, f32, or q8: bytes under a number for 256 weights")
          ->check(CLI::IsMember({"f16", "bf16", "f32", "q8"}))
          ->capture_default_str()
          ->group(title),
      command.add_option("--lm-head", head, "The output matrix alone (default: int8 beside int4)")
          ->check(CLI::IsMember({"int4", "int6", "int8", "f32"}))
          ->group(title),
      command
          .add_option("--embedding", embedding,
                      "The embedding table alone (default: int8 beside int4); one that is tied to "
                      "the output matrix is stored like it")
          ->check(CLI::IsMember({"int4", "int6", "int8", "f32"}))
          ->group(title),
      command
          .add_flag("--no-fuse", no_fuse, "Run the graph as it is, by the reference interpreter")
          ->group(title),
  };
  command
      .add_option("--compute", compute,
                  "Activations of the matmuls: int8, bf16 or f32 (default: int8, or what a .nib "
                  "says)")
      ->check(CLI::IsMember({"int8", "bf16", "f32"}))
      ->group(title);
}

jit::ScaleType scale_type_of(const std::string& scale, int64_t group, bool asym) {
  const jit::ScaleType type = *jit::parse_scale_type(scale);
  if (type != jit::ScaleType::q8) return type;
  if (asym) throw UsageError("--scale q8 goes with symmetric weights, not with --asym.");
  if (group < 16 || group > 128) {
    throw UsageError(fmt::format("--scale q8 takes groups of 16 to 128, found {}.", group));
  }
  return type;
}

quant::QuantizeOptions WeightOptions::quantize_options() const {
  const jit::ScaleType type = scale_type_of(scale, group, asym);
  quant::QuantizeOptions options = quant::default_options(weights, group, asym, type);
  if (!head.empty()) options.head = quant::default_options(head, group, asym, type).linear;
  if (!embedding.empty()) {
    options.embedding = quant::default_options(embedding, group, asym, type).linear;
    options.embedding_chosen = true;
  }
  return options;
}

bool WeightOptions::given(const std::string& name) const {
  return std::any_of(flags.begin(), flags.end(), [&](const CLI::Option* flag) {
    return flag->get_name() == name && flag->count() > 0;
  });
}

void RunOptions::add_to(CLI::App& command, bool with_context) {
  const char* title = "Running";
  command.add_option("--threads", threads, "Threads (default: one a physical core)")
      ->check(CLI::Range(1, 1024))
      ->group(title);
  if (with_context) {
    command.add_option("--context", context, "Positions to keep (default: all of the model's)")
        ->check(CLI::Range(int64_t{1}, int64_t{1} << 30))
        ->group(title);
  }
  command.add_option("--chunk", chunk, "Rows of a prefill pass")
      ->check(CLI::Range(1, 65536))
      ->capture_default_str()
      ->group(title);
  command
      .add_option(
          "--kv", kv,
          "Type of the KV cache: f32, f16, bf16 (with --compute bf16 attention multiplies in bf16 "
          "too), int16 or int8 (default: f32 when computing so, else int16)")
      ->check(CLI::IsMember({"f32", "f16", "bf16", "int16", "int8"}))
      ->group(title);
}

}  // namespace nibble::cli
