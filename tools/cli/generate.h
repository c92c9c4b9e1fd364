// The loop that makes text: prompt in, then one id after another until there is a reason to stop.
#pragma once

#include <cstdint>
#include <functional>
#include <span>
#include <string>
#include <vector>

#include "runtime/decoder.h"
#include "runtime/sampler.h"

namespace nibble::cli {

struct Generation {
  std::vector<int32_t> ids;   // made, without the prompt and without the id that ended it
  std::string stop;           // "length", "context", "eos", "interrupted", "text"
  int64_t prompt_tokens = 0;  // that were not held already
  double prefill_s = 0, decode_s = 0;
  int64_t decode_steps = 0;
  double prefill_tok_s() const;
  double decode_tok_s() const;
};

// Makes at most `limit` ids after `prompt`, of which the decoder holds the first position()
// already, and not all. `eos`: ids that end the text. on_id is called with each id as it is made;
// what it says false to is the last. Throws Error when an id of the prompt is out of range or the
// prompt does not fit.
Generation generate(runtime::Decoder& decoder, const runtime::SamplerOptions& options,
                    std::span<const int32_t> prompt, int64_t limit, std::span<const int64_t> eos,
                    const std::function<bool(int32_t)>& on_id);

}  // namespace nibble::cli
