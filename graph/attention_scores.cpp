// What happens between Q K^T and the softmax: scale, softcap, mask, window, ALiBi.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "graph/attention_meaning.h"
#include "graph/probe.h"

namespace nibble::graph {
namespace {

// Below this a score is masked: fp16's lowest is -65504; -10000 is what older exports use.
constexpr float kMasked = -9999.0F;
// Longest context that is probed for a window, in positions.
constexpr int64_t kLongestProbe = 65536;

// The shape of Q K^T for any call: at one token of no past, with the dimension that grows with
// tokens.
struct ScoreShape {
  Shape unit;
  size_t token_axis = 0;

  Shape at(const ProbeCall& call) const {
    Shape shape = unit;
    shape[token_axis] *= call.tokens;
    shape.back() = call.past + call.tokens;
    return shape;
  }
};

ScoreShape score_shape(const Graph& graph, const Interpreter& interpreter,
                       const AttentionRegion& region) {
  ScoreShape shape;
  for (int64_t tokens = 1; tokens <= 2; ++tokens) {
    const std::vector<float> zeros(static_cast<size_t>(tokens * total_width(region)), 0.0F);
    Feeds feeds = decoder_feeds(graph, {.tokens = tokens, .past = 0, .thin_cache = false});
    feed_projections(region, tokens, zeros, feeds);
    const Shape found = interpreter.run_one(feeds, region.products).shape;
    if (tokens == 1) {
      shape.unit = found;
      continue;
    }
    bool grown = false;
    for (size_t i = 0; i + 1 < found.size(); ++i) {
      if (found[i] == 2 * shape.unit[i]) {
        shape.token_axis = i;
        grown = true;
      }
    }
    if (!grown || found.size() != shape.unit.size()) {
      throw NotAttention(fmt::format("scores of 1 token are {} and of 2 tokens {}",
                                     to_string(shape.unit), to_string(found)));
    }
  }
  return shape;
}

// The softmax's input when every product of Q and K is `product`.
std::vector<float> scores_for(const Graph& graph, const Interpreter& interpreter,
                              const AttentionRegion& region, const ScoreShape& shape,
                              const ProbeCall& call, float product) {
  Feeds feeds = decoder_feeds(graph, call);
  const std::vector<float> zeros(static_cast<size_t>(call.tokens * total_width(region)), 0.0F);
  feed_projections(region, call.tokens, zeros, feeds);
  Shape dims = shape.at(call);
  const auto count = static_cast<size_t>(element_count(dims));
  feeds[region.products] = Array::of(std::move(dims), std::vector<float>(count, product));
  const Array scores = interpreter.run_one(feeds, region.scores);
  return {scores.floats().begin(), scores.floats().end()};
}

bool masked(float value) { return value <= kMasked; }

// The window, from one row over a long past: how many of the last positions are visible.
int64_t visible_span(std::span<const float> row, int64_t total) {
  int64_t visible = 0;
  while (visible < total && row[static_cast<size_t>(total - 1 - visible)] > -60000.0F) ++visible;
  return visible;
}

// ALiBi's slope of each head: the bias grows by it per position. Empty when no head has any bias.
std::vector<float> find_slopes(std::span<const float> rows, int64_t heads, int64_t total) {
  std::vector<float> slopes;
  bool any = false;
  for (int64_t h = 0; h < heads; ++h) {
    const float* row = rows.data() + h * total;
    const float slope = (row[total - 1] - row[0]) / static_cast<float>(total - 1);
    for (int64_t t = 0; t < total; ++t) {
      const float expected = row[total - 1] - slope * static_cast<float>(total - 1 - t);
      if (std::fabs(row[t] - expected) > 1e-4F * std::max(1.0F, std::fabs(expected))) {
        throw NotAttention(fmt::format(
            "head {} adds {} to the score of position {} of {}, which no slope explains", h, row[t],
            t, total));
      }
    }
    any = any || slope != 0;
    slopes.push_back(slope);
  }
  if (!any) slopes.clear();
  return slopes;
}

void check_causal(std::span<const float> scores, const ProbeCall& call, AttentionMeaning& meaning) {
  const int64_t total = call.past + call.tokens;
  for (int64_t h = 0; h < meaning.heads; ++h) {
    for (int64_t s = 0; s < call.tokens; ++s) {
      for (int64_t t = 0; t < total; ++t) {
        const int64_t behind = call.past + s - t;
        const bool visible = behind >= 0 && (meaning.window == 0 || behind < meaning.window);
        const float value = scores[static_cast<size_t>((h * call.tokens + s) * total + t)];
        if (visible == masked(value)) {
          throw NotAttention(
              fmt::format("token {} after {} cached {} position {}, which a causal mask with "
                          "window {} does not",
                          s, call.past, visible ? "does not see" : "sees", t, meaning.window));
        }
      }
    }
  }
}

}  // namespace

void find_scores(const Graph& graph, const Interpreter& interpreter, const AttentionRegion& region,
                 AttentionMeaning& meaning) {
  const ScoreShape shape = score_shape(graph, interpreter, region);
  const ProbeCall call{.tokens = 1, .past = 0, .thin_cache = true};
  const auto response = [&](float product) {
    const float zero = scores_for(graph, interpreter, region, shape, call, 0.0F)[0];
    return scores_for(graph, interpreter, region, shape, call, product)[0] - zero;
  };
  const float unit = response(1.0F);
  const float large = response(1024.0F);
  if (std::fabs(large - 1024.0F * unit) <= 1e-5F * std::fabs(large)) {
    meaning.scale *= unit;
    return;
  }
  const float cap = response(1e9F);
  const float slope = response(1e-3F) / 1e-3F;
  for (float product : {-300.0F, -7.0F, 3.0F, 40.0F, 900.0F}) {
    const float expected = cap * std::tanh(product * slope / cap);
    if (std::fabs(response(product) - expected) > 1e-4F * std::fabs(cap)) {
      throw NotAttention(
          fmt::format("scores are neither scaled nor capped by tanh: a product of {} becomes {}",
                      product, response(product)));
    }
  }
  meaning.scale *= slope;
  meaning.softcap = cap;
}

void find_mask(const Graph& graph, const Interpreter& interpreter, const AttentionRegion& region,
               AttentionMeaning& meaning) {
  const ScoreShape shape = score_shape(graph, interpreter, region);
  const ProbeCall brief{.tokens = 1, .past = 7, .thin_cache = true};
  const auto near = scores_for(graph, interpreter, region, shape, brief, 0.0F);
  int64_t span = visible_span(near, 8);
  if (span == 8) {
    meaning.slopes = find_slopes(near, meaning.heads, 8);
    const int64_t past = std::min(
        kLongestProbe, graph.context_length > 8 ? graph.context_length - 1 : int64_t{4095});
    const ProbeCall call{.tokens = 1, .past = past, .thin_cache = true};
    const auto row = scores_for(graph, interpreter, region, shape, call, 0.0F);
    span = meaning.slopes.empty() ? visible_span(row, past + 1) : past + 1;
    meaning.window = span == past + 1 ? 0 : span;
  } else {
    meaning.window = span;
  }
  if (span == 0) throw NotAttention("the last token does not see itself");
  const ProbeCall call{.tokens = 5, .past = 3, .thin_cache = true};
  auto scores = scores_for(graph, interpreter, region, shape, call, 0.0F);
  check_causal(scores, call, meaning);
}

}  // namespace nibble::graph
