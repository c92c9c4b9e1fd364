// How a model's weights are quantized, as a value: which transformation comes first, how numbers
// are rounded, in which formats. Plain data, to and from JSON; quantize_model.h carries it out,
// recipe_loop.h looks for the cheapest that is good enough.
#pragma once

#include <cstdint>
#include <map>
#include <string>
#include <vector>

#include "jit/packed_layout.h"
#include "quant/formats/quantize.h"

namespace nibble::quant {

// What is done to a layer before its weights are rounded; the model computes the same after it.
enum class Scaling : uint8_t {
  none,
  awq,  // channels scaled by the activations they meet (arXiv 2306.00978)
  teq,  // channels scaled by trained factors (arXiv 2310.10944)
};

enum class Rounding : uint8_t {
  nearest,            // rtn.h
  search,             // nearest, with the range of each group searched (range_search.h)
  gptq,               // arXiv 2210.17323
  sign_round,         // a matrix at a time, against its inputs' products (sign_round.h)
  sign_round_blocks,  // a layer at a time, against its output (arXiv 2309.05516)
};

struct Recipe {
  Scaling scaling = Scaling::none;
  bool clip = false;  // AWQ's search for a smaller range of each group, after scaling
  Rounding rounding = Rounding::nearest;
  QuantizeOptions formats;
  // Weights, by their names in the fused graph, that have a format of their own.
  std::map<std::string, jit::WeightFormat> formats_of;

  double damping = 0.01;       // GPTQ: of the mean of the diagonal
  bool act_order = true;       // GPTQ: channels in the order of what they weigh
  bool static_groups = false;  // GPTQ: the ranges of groups from the weights as they were
  int iterations = 200;        // SignRound, TEQ: steps
  uint64_t seed = 1;           // SignRound by blocks, TEQ: which sequences a step looks at

  // Whether activations are needed.
  bool calibrates() const { return scaling != Scaling::none || rounding != Rounding::nearest; }
};

// The methods that have names: "rtn", "opt-rtn", "gptq", "awq", "teq", "signround",
// "signround-blocks", and scalings before roundings, "awq+gptq". What the parts say is set in
// `recipe`, all else left. Throws Error listing the names when there is no such method.
void set_method(Recipe& recipe, const std::string& method);
std::string method_name(const Recipe& recipe);
std::vector<std::string> method_names();

// "gptq int4 in groups of 32, with f16 scales"
std::string recipe_text(const Recipe& recipe);

// {"method", "weights", "group", "asym", "scale", "lm_head", "embedding", "formats_of", and what
// the method reads of the rest}. Reading throws Error naming `origin`, the key, expected and found;
// unknown keys are errors, absent ones keep what `defaults` has.
std::string recipe_to_json(const Recipe& recipe);
Recipe recipe_from_json(const std::string& text, const std::string& origin, const Recipe& defaults);

}  // namespace nibble::quant
