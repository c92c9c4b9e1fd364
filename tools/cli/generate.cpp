#include "tools/cli/generate.h"

#include <algorithm>

#include "jit/error.h"
#include "runtime/clock.h"
#include "tools/cli/interrupt.h"
#include "tools/cli/output.h"

namespace nibble::cli {
namespace {

constexpr size_t kPrefillStep = 512;  // ids between two looks for Ctrl-C

double rate(int64_t count, double seconds) {
  return seconds > 0 ? static_cast<double>(count) / seconds : 0;
}

// The logits after the prompt; empty when interrupted.
std::span<const float> prefill(runtime::Decoder& decoder, std::span<const int32_t> prompt) {
  std::span<const float> logits;
  while (!prompt.empty()) {
    if (interrupted()) return {};
    const auto part = prompt.first(std::min(prompt.size(), kPrefillStep));
    logits = decoder.forward(part);
    prompt = prompt.subspan(part.size());
  }
  return logits;
}

}  // namespace

double Generation::prefill_tok_s() const { return rate(prompt_tokens, prefill_s); }
double Generation::decode_tok_s() const { return rate(decode_steps, decode_s); }

Generation generate(runtime::Decoder& decoder, const runtime::SamplerOptions& options,
                    std::span<const int32_t> prompt, int64_t limit, std::span<const int64_t> eos,
                    const std::function<bool(int32_t)>& on_id) {
  const auto length = static_cast<int64_t>(prompt.size());
  if (length > decoder.context_length()) {
    fail("The prompt has {} ids, but the context holds {}.", length, decoder.context_length());
  }
  runtime::Sampler sampler(options);
  Generation out;
  const auto held = static_cast<size_t>(decoder.position());
  out.prompt_tokens = length - decoder.position();
  std::vector<int32_t> history(prompt.begin(), prompt.end());
  const double start = runtime::seconds_now();
  std::span<const float> logits = prefill(decoder, prompt.subspan(held));
  const double decode_start = runtime::seconds_now();
  out.prefill_s = decode_start - start;
  while (out.stop.empty()) {
    if (logits.empty() || interrupted()) {
      out.stop = "interrupted";
      break;
    }
    if (static_cast<int64_t>(out.ids.size()) >= limit) {
      out.stop = "length";
      break;
    }
    const int32_t id = sampler.sample(logits, history);
    if (std::find(eos.begin(), eos.end(), id) != eos.end()) {
      out.stop = "eos";
      break;
    }
    history.push_back(id);
    out.ids.push_back(id);
    if (!on_id(id)) {
      out.stop = "text";
      break;
    }
    if (static_cast<int64_t>(out.ids.size()) >= limit) continue;
    if (decoder.position() >= decoder.context_length()) {
      out.stop = "context";
      break;
    }
    logits = decoder.forward(std::span(&id, 1));
    ++out.decode_steps;
  }
  out.decode_s = runtime::seconds_now() - decode_start;
  return out;
}

}  // namespace nibble::cli
