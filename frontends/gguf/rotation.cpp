#include "frontends/gguf/rotation.h"

#include <nlohmann/json.hpp>
#include <string>
#include <vector>

#include "jit/error.h"

namespace nibble::frontends::gguf {
namespace {

using decoder::Checkpoint;
using decoder::Rotation;

// Divides each frequency by its factor.
void apply_factors(Checkpoint& checkpoint, const char* name, Rotation& rotation) {
  const graph::TensorData& tensor = checkpoint.take(name);
  const graph::Shape expected = {static_cast<int64_t>(rotation.inv_freq.size())};
  if (tensor.dtype != graph::DType::f32 || tensor.shape != expected) {
    fail("{}: the tensor '{}' is {} {}, but f32 {} is expected.", checkpoint.path(), name,
         graph::dtype_name(tensor.dtype), graph::to_string(tensor.shape),
         graph::to_string(expected));
  }
  const std::vector<float> factors = graph::to_f32(tensor);
  for (size_t i = 0; i < factors.size(); ++i) {
    if (!(factors[i] > 0)) {
      fail("{}: the tensor '{}' has the factor {}, but numbers above 0 are expected.",
           checkpoint.path(), name, factors[i]);
    }
    rotation.inv_freq[i] /= factors[i];
  }
}

double read_factor(Metadata& meta) {
  // The first files had another name for it; 0 stands for none.
  double factor = meta.real("rope.scale_linear", 1);
  factor = meta.real("rope.scaling.factor", factor);
  if (factor == 0) return 1;
  if (factor < 0) meta.refuse("rope.scaling.factor", std::to_string(factor), "a number above 0");
  return factor;
}

// YaRN as a configuration of transformers says it, for the arithmetic that is there.
Rotation read_yarn(Metadata& meta, double theta, double factor, int64_t original, int64_t rotary) {
  const nlohmann::json scaling = {
      {"rope_type", "yarn"},
      {"rope_theta", theta},
      {"factor", factor},
      {"original_max_position_embeddings", original},
      {"beta_fast", meta.real("rope.scaling.yarn_beta_fast", 32)},
      {"beta_slow", meta.real("rope.scaling.yarn_beta_slow", 1)},
      {"truncate", meta.boolean("rope.scaling.yarn_truncate", true)},
      {"mscale", 1},
      {"mscale_all_dim", meta.real("rope.scaling.yarn_log_multiplier", 0)}};
  // What follows from the others, in the files that have them; llama.cpp makes nothing of them.
  meta.pass("rope.scaling.yarn_ext_factor");
  meta.pass("rope.scaling.yarn_attn_factor");
  const nlohmann::json config = {{"rope_parameters", scaling}};
  return decoder::read_rotation(
      decoder::Config::parse(config.dump(), meta.path() + ": rope.scaling"), rotary);
}

}  // namespace

int64_t original_context(Metadata& meta) {
  return meta.size("rope.scaling.original_context_length", meta.size("context_length"));
}

Rotation read_rotation(Metadata& meta, Checkpoint& checkpoint, int64_t head_dim) {
  Rotation rotation;
  rotation.rotary = meta.size("rope.dimension_count", head_dim);
  if (rotation.rotary % 2 != 0 || rotation.rotary > head_dim) {
    meta.refuse("rope.dimension_count", std::to_string(rotation.rotary),
                fmt::format("an even number of at most {}", head_dim));
  }
  const double theta = meta.real("rope.freq_base", 10000);
  if (!(theta > 1)) meta.refuse("rope.freq_base", std::to_string(theta), "a base above 1");
  rotation.inv_freq = decoder::plain_frequencies(theta, rotation.rotary);
  const std::string type = meta.text("rope.scaling.type", "linear");
  const double factor = read_factor(meta);
  // llama.cpp's "original length" concerns the types that use it alone.
  const int64_t original = original_context(meta);
  const bool long_factors = checkpoint.has("rope_factors_long.weight");
  if (type == "yarn") {
    rotation = read_yarn(meta, theta, factor, original, rotation.rotary);
  } else if (type == "linear") {
    for (float& frequency : rotation.inv_freq) frequency /= static_cast<float>(factor);
  } else if (type != "none" && !(type == "longrope" && long_factors)) {
    meta.refuse("rope.scaling.type", "\"" + type + "\"", "none, linear, yarn or longrope");
  }
  rotation.factor *= static_cast<float>(meta.real("rope.scaling.attn_factor", 1));
  if (checkpoint.has("rope_freqs.weight")) apply_factors(checkpoint, "rope_freqs.weight", rotation);
  if (!long_factors) return rotation;
  // Of two lists of factors the one for short contexts holds up to the original length.
  checkpoint.take("rope_factors_long.weight");
  apply_factors(checkpoint, "rope_factors_short.weight", rotation);
  rotation.most_positions = original;
  return rotation;
}

}  // namespace nibble::frontends::gguf
