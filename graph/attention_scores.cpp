// What happens between Q K^T and the softmax: scale, softcap, mask, window, ALiBi.
#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "graph/attention_meaning.h"
#include "graph/probe.h"
#include "jit/error.h"

namespace nibble::graph {
namespace {

// Below this a score is masked: fp16's lowest is -65504; -10000 is what older exports use.
constexpr float kMostMasked = -9999.0F;
// Longest context that is probed for a window, in positions.
constexpr int64_t kLongestProbe = 65536;

// The shape of Q K^T for any call: at one token of no past, with the dimension that grows with
// tokens.
struct ScoreShape {
  Shape unit;
  size_t token_axis = 0;

  Shape at(const ProbeCall& call, int64_t rows) const {
    Shape shape = unit;
    shape[token_axis] *= rows;
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
    for (size_t i = 0; found.size() == shape.unit.size() && i + 1 < found.size(); ++i) {
      if (found[i] == 2 * shape.unit[i]) {
        shape.token_axis = i;
        grown = true;
      }
    }
    if (!grown) {
      throw NotAttention(fmt::format("scores of 1 token are {} and of 2 tokens {}",
                                     to_string(shape.unit), to_string(found)));
    }
  }
  return shape;
}

// The softmax's input when every product of Q and K is `product`, [heads, call.tokens, positions].
std::vector<float> scores_for(const Graph& graph, const Interpreter& interpreter,
                              const AttentionRegion& region, const ScoreShape& shape,
                              const ProbeCall& call, float product, int64_t heads) {
  Feeds feeds = decoder_feeds(graph, call);
  const int64_t rows = rows_of_call(graph, call);
  const std::vector<float> zeros(static_cast<size_t>(rows * total_width(region)), 0.0F);
  feed_projections(region, rows, zeros, feeds);
  Shape dims = shape.at(call, rows);
  const auto count = static_cast<size_t>(element_count(dims));
  feeds[region.products] = Array::of(std::move(dims), std::vector<float>(count, product));
  Array scores;
  try {
    scores = interpreter.run_one(feeds, region.scores);
  } catch (const Error&) {
    if (!call.thin_cache) throw;
    // Masks that take the number of positions from heads of the cache, reshaped, need all of them.
    ProbeCall whole = call;
    whole.thin_cache = false;
    return scores_for(graph, interpreter, region, shape, whole, product, heads);
  }
  // The last tokens' scores, head by head.
  const int64_t total = call.past + call.tokens;
  if (scores.size() != heads * rows * total) {
    throw NotAttention(fmt::format("the scores of {} heads, {} tokens and {} positions are {}",
                                   heads, rows, total, to_string(scores.shape)));
  }
  std::vector<float> last;
  for (int64_t h = 0; h < heads; ++h) {
    const auto end = scores.floats().begin() + (h + 1) * rows * total;
    last.insert(last.end(), end - call.tokens * total, end);
  }
  return last;
}

bool masked(float value) { return value <= kMostMasked; }

// One head's scores over a row of positions, the last of which is the token itself, with ALiBi's
// slope taken out.
struct Row {
  std::span<const float> scores;
  float slope = 0;

  int64_t total() const { return static_cast<int64_t>(scores.size()); }
  // Whether the position `behind` tokens back is visible. Throws when it is neither visible nor
  // masked.
  bool visible(int64_t behind) const {
    const float value = scores[static_cast<size_t>(total() - 1 - behind)];
    const float expected = scores.back() - slope * static_cast<float>(behind);
    if (std::fabs(value - expected) <= 1e-4F * std::max(1.0F, std::fabs(expected))) return true;
    if (masked(value)) return false;
    throw NotAttention(
        fmt::format("the score of the position {} back changes by {}, which neither a mask nor a "
                    "slope explains",
                    behind, value));
  }
};

// ALiBi's slope, from the token itself and its neighbour.
float slope_of(std::span<const float> scores) {
  const float here = scores.back(), before = scores[scores.size() - 2];
  return masked(before) ? 0.0F : here - before;
}

// How many of the last positions are visible; 0 when all are. Every position of every head must
// agree.
int64_t window_of(std::span<const float> scores, const std::vector<float>& slopes, int64_t total) {
  const Row first{scores.first(static_cast<size_t>(total)), slopes[0]};
  int64_t window = 0;
  while (window < total && first.visible(window)) ++window;
  for (size_t h = 0; h < slopes.size(); ++h) {
    const Row row{scores.subspan(h * static_cast<size_t>(total), static_cast<size_t>(total)),
                  slopes[h]};
    for (int64_t behind = 0; behind < total; ++behind) {
      if (row.visible(behind) == (behind < window)) continue;
      throw NotAttention(
          fmt::format("head {} {} the position {} back, but not so do all in a window of {}", h,
                      behind < window ? "does not see" : "sees", behind, window));
    }
  }
  return window == total ? 0 : window;
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

void find_scale(const Graph& graph, const Interpreter& interpreter, const AttentionRegion& region,
                const ScoreShape& shape, AttentionMeaning& meaning) {
  const ProbeCall call{.tokens = 1, .past = 0, .thin_cache = true};
  const auto first = [&](float product) {
    return scores_for(graph, interpreter, region, shape, call, product, meaning.heads)[0];
  };
  const float zero = first(0.0F);
  const auto response = [&](float product) { return first(product) - zero; };
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
               const ScoreShape& shape, AttentionMeaning& meaning) {
  const int64_t past = std::min(kLongestProbe, furthest_position(graph));
  const auto row = [&](int64_t cached) {
    return scores_for(graph, interpreter, region, shape,
                      {.tokens = 1, .past = cached, .thin_cache = true}, 0.0F, meaning.heads);
  };
  const auto scores_far = row(past);
  std::vector<float> slopes;
  for (int64_t h = 0; h < meaning.heads; ++h) {
    slopes.push_back(
        slope_of(std::span(scores_far)
                     .subspan(static_cast<size_t>(h * (past + 1)), static_cast<size_t>(past + 1))));
  }
  meaning.window = window_of(scores_far, slopes, past + 1);
  // A window that moves in steps shows at another position.
  const int64_t between = meaning.window + meaning.window / 2 + 3;
  if (meaning.window > 0 && between < past &&
      window_of(row(between), slopes, between + 1) != meaning.window) {
    throw NotAttention(
        fmt::format("the window of {} positions is not the same everywhere", meaning.window));
  }
  if (std::any_of(slopes.begin(), slopes.end(), [](float slope) { return slope != 0; })) {
    meaning.slopes = std::move(slopes);
  }
  const ProbeCall call{.tokens = 5, .past = 3, .thin_cache = true};
  auto scores = scores_for(graph, interpreter, region, shape, call, 0.0F, meaning.heads);
  check_causal(scores, call, meaning);
}

}  // namespace

void find_scores(const Graph& graph, const Interpreter& interpreter, const AttentionRegion& region,
                 AttentionMeaning& meaning) {
  const ScoreShape shape = score_shape(graph, interpreter, region);
  find_scale(graph, interpreter, region, shape, meaning);
  find_mask(graph, interpreter, region, shape, meaning);
}

}  // namespace nibble::graph
