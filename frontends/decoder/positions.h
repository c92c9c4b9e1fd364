// How a configuration says where tokens are: rotary frequencies in all their scalings, and the
// slopes of ALiBi. The arithmetic is in fp32 and in the order in which transformers has it, so that
// the frequencies are those that the model was trained and exported with.
#pragma once

#include <cstdint>
#include <optional>
#include <vector>

#include "frontends/decoder/config.h"

namespace nibble::frontends::decoder {

struct Rotation {
  int64_t rotary = 0;           // dimensions of a head that are rotated; 0: none
  bool interleaved = false;     // pairs are (2i, 2i + 1) and not (i, i + rotary / 2)
  std::vector<float> inv_freq;  // [rotary / 2]
  float factor = 1;             // on cos and sin
  // Up to here the frequencies hold; 0: everywhere. Beyond it LongRoPE has others.
  int64_t most_positions = 0;
};

// theta^(-2i/rotary) for i < rotary/2.
std::vector<float> plain_frequencies(double theta, int64_t rotary);

// From rope_parameters, or rope_scaling beside rope_theta. `partial`: the share of head_dim that is
// rotated when nothing is said. Types: default, linear, dynamic (exact up to the model's
// max_position_embeddings), llama3, yarn, longrope. Throws Error for another one.
// `theta`: the base then.
Rotation read_rotation(const Config& config, int64_t head_dim, double partial = 1,
                       double theta = 10000);
// The same from the object that says it, or without one.
Rotation read_rotation(const Config& config, const std::optional<Config>& scaling, int64_t head_dim,
                       double partial, double theta);

// Slopes as BLOOM and Falcon have them (Press et al., "Train Short, Test Long"), and as MPT has
// them; they differ where heads is no power of two.
std::vector<float> alibi_slopes(int64_t heads);
std::vector<float> mpt_slopes(int64_t heads, double bias_max);

}  // namespace nibble::frontends::decoder
