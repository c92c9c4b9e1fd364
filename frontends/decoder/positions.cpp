#include "frontends/decoder/positions.h"

#include <algorithm>
#include <cmath>
#include <numbers>
#include <optional>
#include <string>

namespace nibble::frontends::decoder {
namespace {

// theta^(2i/rotary): the wavelengths over 2 pi.
std::vector<float> periods(double theta, int64_t rotary) {
  std::vector<float> values;
  for (int64_t i = 0; i < rotary; i += 2) {
    const float exponent = static_cast<float>(i) / static_cast<float>(rotary);
    values.push_back(std::pow(static_cast<float>(theta), exponent));
  }
  return values;
}

// Llama 3: long waves are stretched, short ones kept, those between mixed.
void scale_llama3(const Config& scaling, double original, std::vector<float>& inv_freq) {
  const auto factor = static_cast<float>(scaling.number({"factor"}));
  const double low = scaling.number({"low_freq_factor"});
  const double high = scaling.number({"high_freq_factor"});
  if (!(factor > 0) || !(low > 0) || !(high > low)) {
    scaling.refuse({"high_freq_factor"}, "more than low_freq_factor, and both above 0,");
  }
  const auto longest = static_cast<float>(original / low);
  const auto shortest = static_cast<float>(original / high);
  for (float& frequency : inv_freq) {
    const float wave = (1.0F / frequency) * static_cast<float>(2 * std::numbers::pi);
    if (wave < shortest) continue;
    if (wave > longest) {
      frequency /= factor;
      continue;
    }
    const float smooth = ((1.0F / wave) * static_cast<float>(original) - static_cast<float>(low)) /
                         static_cast<float>(high - low);
    frequency = (1 - smooth) * frequency / factor + smooth * frequency;
  }
}

double yarn_scale(double factor, double mscale) {
  return factor <= 1 ? 1.0 : 0.1 * mscale * std::log(factor) + 1.0;
}

// Peng et al., "YaRN": a ramp over the dimensions from the frequencies to the stretched ones.
void scale_yarn(const Config& scaling, double theta, double original, double factor,
                Rotation& rotation) {
  const auto dimensions = static_cast<double>(rotation.rotary);
  const double mscale = scaling.number({"mscale"}, 0);
  const double all = scaling.number({"mscale_all_dim"}, 0);
  const double own = mscale != 0 && all != 0 ? yarn_scale(factor, mscale) / yarn_scale(factor, all)
                                             : yarn_scale(factor, 1);
  rotation.factor = static_cast<float>(scaling.number({"attention_factor"}, own));
  const auto dimension_of = [&](double turns) {
    return dimensions * std::log(original / (turns * 2 * std::numbers::pi)) / (2 * std::log(theta));
  };
  double low = dimension_of(scaling.number({"beta_fast"}, 32));
  double high = dimension_of(scaling.number({"beta_slow"}, 1));
  if (scaling.boolean({"truncate"}, true)) {
    low = std::floor(low);
    high = std::ceil(high);
  }
  low = std::max(low, 0.0);
  high = std::min(high, dimensions - 1);
  if (low == high) high += 0.001;
  const std::vector<float> waves = periods(theta, rotation.rotary);
  for (size_t i = 0; i < waves.size(); ++i) {
    const float ramp = std::clamp(
        (static_cast<float>(i) - static_cast<float>(low)) / static_cast<float>(high - low), 0.0F,
        1.0F);
    const float keep = 1 - ramp;
    const float stretched = 1.0F / (static_cast<float>(factor) * waves[i]);
    rotation.inv_freq[i] = stretched * (1 - keep) + (1.0F / waves[i]) * keep;
  }
}

// LongRoPE: a factor a dimension; another list of them beyond the original length.
void scale_longrope(const Config& scaling, double theta, double original, double factor,
                    Rotation& rotation) {
  const std::vector<double> factors = scaling.numbers({"short_factor"});
  if (factors.size() != rotation.inv_freq.size()) {
    scaling.refuse({"short_factor"},
                   "a list of " + std::to_string(rotation.inv_freq.size()) + " numbers");
  }
  const std::vector<float> waves = periods(theta, rotation.rotary);
  for (size_t i = 0; i < waves.size(); ++i) {
    rotation.inv_freq[i] = 1.0F / (static_cast<float>(factors[i]) * waves[i]);
  }
  const double own = factor <= 1 ? 1.0 : std::sqrt(1 + std::log(factor) / std::log(original));
  rotation.factor = static_cast<float>(scaling.number({"attention_factor"}, own));
  rotation.most_positions = static_cast<int64_t>(original);
}

// The type of scaling; old Phi-3 files say "su" and "yarn" for what is now longrope.
std::string type_of(const Config& config, const std::optional<Config>& scaling) {
  if (!scaling) return "default";
  const std::string type = scaling->text({"rope_type", "type"}, "default");
  const bool phi3 = config.text({"model_type"}, "") == "phi3";
  return type == "su" || (phi3 && type == "yarn") ? "longrope" : type;
}

// The length that the model was first trained with, which scalings refer to.
double original_length(const Config& config, const Config& scaling) {
  const double own = config.number({"original_max_position_embeddings"},
                                   scaling.number({"original_max_position_embeddings"}, 0));
  const double length = own > 0 ? own : config.number({"max_position_embeddings"});
  if (!(length > 1)) scaling.refuse({"original_max_position_embeddings"}, "a length");
  return length;
}

}  // namespace

std::vector<float> plain_frequencies(double theta, int64_t rotary) {
  std::vector<float> values = periods(theta, rotary);
  for (float& value : values) value = 1.0F / value;
  return values;
}

Rotation read_rotation(const Config& config, int64_t head_dim, double partial, double theta) {
  const std::optional<Config> scaling = config.object({"rope_parameters", "rope_scaling"});
  if (scaling) {
    for (const char* name : {"full_attention", "sliding_attention"}) scaling->only_absent(name);
  }
  theta = config.number({"rope_theta", "rotary_emb_base"}, theta);
  partial = config.number({"partial_rotary_factor", "rotary_pct"}, partial);
  return read_rotation(config, scaling, head_dim, partial, theta);
}

Rotation read_rotation(const Config& config, const std::optional<Config>& scaling, int64_t head_dim,
                       double partial, double theta) {
  if (scaling) {
    theta = scaling->number({"rope_theta"}, theta);
    partial = scaling->number({"partial_rotary_factor"}, partial);
  }
  Rotation rotation;
  rotation.rotary = static_cast<int64_t>(static_cast<double>(head_dim) * partial);
  if (!(theta > 1) || !(partial > 0) || partial > 1 || rotation.rotary < 2 ||
      rotation.rotary % 2 != 0) {
    config.refuse({"rope_parameters", "partial_rotary_factor", "rotary_pct", "rope_theta"},
                  "a base above 1 and an even number of rotated dimensions");
  }
  rotation.inv_freq = plain_frequencies(theta, rotation.rotary);
  const std::string type = type_of(config, scaling);
  if (type == "default") return rotation;
  if (type == "dynamic") {
    // As they are up to max_position_embeddings, which is where the context ends.
    rotation.most_positions = config.size({"max_position_embeddings"});
    return rotation;
  }
  if (type == "linear") {
    const auto factor = static_cast<float>(scaling->number({"factor"}));
    if (!(factor > 0)) scaling->refuse({"factor"}, "a number above 0");
    for (float& frequency : rotation.inv_freq) frequency /= factor;
    return rotation;
  }
  const char* known = "default, linear, dynamic, llama3, yarn or longrope";
  if (type != "llama3" && type != "yarn" && type != "longrope") {
    scaling->refuse({"rope_type", "type"}, known);
  }
  const double original = original_length(config, *scaling);
  if (type == "llama3") {
    scale_llama3(*scaling, original, rotation.inv_freq);
    return rotation;
  }
  const double factor = scaling->has({"factor"})
                            ? scaling->number({"factor"})
                            : config.number({"max_position_embeddings"}) / original;
  if (!(factor > 0)) scaling->refuse({"factor"}, "a number above 0");
  if (type == "yarn") {
    scale_yarn(*scaling, theta, original, factor, rotation);
  } else {
    scale_longrope(*scaling, theta, original, factor, rotation);
  }
  return rotation;
}

std::vector<float> alibi_slopes(int64_t heads) {
  int64_t power = 1;
  while (power * 2 <= heads) power *= 2;
  const auto base_of = [](int64_t count) {
    return static_cast<float>(std::exp2(-std::exp2(-(std::log2(static_cast<double>(count)) - 3))));
  };
  std::vector<float> slopes;
  for (int64_t i = 1; i <= power; ++i) {
    slopes.push_back(std::pow(base_of(power), static_cast<float>(i)));
  }
  for (int64_t i = 1; static_cast<int64_t>(slopes.size()) < heads; i += 2) {
    slopes.push_back(std::pow(base_of(2 * power), static_cast<float>(i)));
  }
  return slopes;
}

std::vector<float> mpt_slopes(int64_t heads, double bias_max) {
  int64_t power = 1;
  while (power < heads) power *= 2;
  std::vector<float> all;
  for (int64_t i = 1; i <= power; ++i) {
    const float exponent =
        static_cast<float>(i) * static_cast<float>(bias_max / static_cast<double>(power));
    all.push_back(1.0F / std::pow(2.0F, exponent));
  }
  if (power == heads) return all;
  std::vector<float> slopes;
  for (size_t i = 1; i < all.size(); i += 2) slopes.push_back(all[i]);
  for (size_t i = 0; i < all.size(); i += 2) slopes.push_back(all[i]);
  slopes.resize(static_cast<size_t>(heads));
  return slopes;
}

}  // namespace nibble::frontends::decoder
