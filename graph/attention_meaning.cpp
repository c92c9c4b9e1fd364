#include "graph/attention_meaning.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "graph/attention_norms.h"
#include "graph/probe.h"
#include "jit/error.h"

namespace nibble::graph {
namespace {

constexpr double kSameScores = 2e-4;  // of the largest element, fp32 against double

// Attention as `meaning` says, in double, over rows of concatenated projections of all tokens.
class Expected {
 public:
  Expected(const AttentionMeaning& meaning, std::span<const float> rows, int64_t total)
      : m_(meaning),
        rows_(rows),
        total_(total),
        q_{m_.q_columns, m_.norms.q_weight, m_.norms.q_bias},
        k_{m_.k_columns, m_.norms.k_weight, m_.norms.k_bias} {}

  std::vector<float> tokens(int64_t first, int64_t count) const {
    std::vector<float> out;
    for (int64_t s = first; s < first + count; ++s) {
      for (int64_t h = 0; h < m_.heads; ++h) append_head(s, h, out);
    }
    return out;
  }

 private:
  // The heads of Q or of K: their columns, and what normalises them.
  struct Heads {
    const std::vector<int64_t>& columns;
    const std::vector<float>&weight, &bias;
  };

  double clipped(double x, bool first) const {
    if (m_.clip == 0 || first != m_.clip_first) return x;
    return std::clamp(x, -static_cast<double>(m_.clip), static_cast<double>(m_.clip));
  }

  std::vector<double> columns_at(std::span<const int64_t> columns, int64_t s) const {
    std::vector<double> x;
    for (const int64_t column : columns) {
      x.push_back(clipped(rows_[static_cast<size_t>(s * total_ + column)], true));
    }
    return x;
  }

  // Columns [first, first + x.size()) of the heads, normalised by what they are normalised with.
  void normalise(const Heads& heads, size_t first, int64_t s, std::vector<double>& x) const {
    const std::vector<double> all = m_.norms.whole ? columns_at(heads.columns, s) : x;
    const auto count = static_cast<double>(all.size());
    double mean = 0, squares = 0;
    for (double value : all) mean += m_.norms.centre ? value / count : 0;
    for (double value : all) squares += (value - mean) * (value - mean);
    const double inverse = 1 / std::sqrt(squares / count + static_cast<double>(m_.norms.epsilon));
    for (size_t d = 0; d < x.size(); ++d) {
      const double bias = heads.bias.empty() ? 0.0 : static_cast<double>(heads.bias[first + d]);
      x[d] = (x[d] - mean) * inverse * static_cast<double>(heads.weight[first + d]) + bias;
    }
  }

  // One head of one token, as it is.
  std::vector<double> plain_head(const std::vector<int64_t>& columns, int64_t h, int64_t s) const {
    return columns_at(std::span(columns).subspan(static_cast<size_t>(h * m_.head_dim),
                                                 static_cast<size_t>(m_.head_dim)),
                      s);
  }

  // The same normalised (when there is a norm) and rotated.
  std::vector<double> head(const Heads& heads, int64_t h, int64_t s) const {
    std::vector<double> x = plain_head(heads.columns, h, s);
    const auto first = static_cast<size_t>(h * m_.head_dim);
    if (m_.norms.any() && !m_.norms.last) normalise(heads, first, s, x);
    for (double& value : x) value = clipped(value, false);
    rotate(s, x);
    if (m_.norms.any() && m_.norms.last) normalise(heads, first, s, x);
    return x;
  }

  void rotate(int64_t s, std::vector<double>& x) const {
    const auto half = static_cast<size_t>(m_.rotary) / 2;
    for (size_t i = 0; i < half; ++i) {
      const size_t a = m_.interleaved ? 2 * i : i, b = m_.interleaved ? 2 * i + 1 : i + half;
      const double angle = static_cast<double>(static_cast<float>(s) * m_.inv_freq[i]);
      const double xa = x[a], xb = x[b];
      x[a] = xa * std::cos(angle) - xb * std::sin(angle);
      x[b] = xb * std::cos(angle) + xa * std::sin(angle);
    }
  }

  double score(const std::vector<double>& q, int64_t s, int64_t h, int64_t t) const {
    const auto k = head(k_, h * m_.kv_heads / m_.heads, t);
    double dot = 0;
    for (size_t d = 0; d < q.size(); ++d) dot += q[d] * k[d];
    dot *= m_.scale;
    if (m_.softcap != 0) dot = m_.softcap * std::tanh(dot / m_.softcap);
    if (!m_.slopes.empty()) dot += m_.slopes[static_cast<size_t>(h)] * static_cast<double>(t - s);
    return dot;
  }

  void append_head(int64_t s, int64_t h, std::vector<float>& out) const {
    const auto q = head(q_, h, s);
    const int64_t first = m_.window > 0 ? std::max<int64_t>(0, s + 1 - m_.window) : 0;
    std::vector<double> weights;
    double largest = -1e300, sum = 0;
    for (int64_t t = first; t <= s; ++t) {
      weights.push_back(score(q, s, h, t));
      largest = std::max(largest, weights.back());
    }
    for (double& w : weights) sum += (w = std::exp(w - largest));
    std::vector<double> result(q.size(), 0.0);
    for (size_t i = 0; i < weights.size(); ++i) {
      const auto v =
          plain_head(m_.v_columns, h * m_.kv_heads / m_.heads, first + static_cast<int64_t>(i));
      for (size_t d = 0; d < v.size(); ++d) result[d] += weights[i] / sum * clipped(v[d], false);
    }
    for (double value : result) out.push_back(static_cast<float>(value));
  }

  const AttentionMeaning& m_;
  std::span<const float> rows_;
  int64_t total_;
  Heads q_, k_;
};

void compare(const Array& found, const std::vector<float>& expected, double tolerance,
             const char* when) {
  const double difference = relative_difference(found.floats(), expected);
  if (!(difference < tolerance)) {
    throw NotAttention(fmt::format(
        "what was found out does not reproduce the subgraph {} (relative difference {:.2g})", when,
        difference));
  }
}

}  // namespace

void verify_meaning(const Graph& graph, const Interpreter& interpreter,
                    const AttentionRegion& region, const AttentionMeaning& meaning) {
  constexpr int64_t kFirst = 5, kSecond = 3;
  const int64_t total = total_width(region);
  auto rows = probe_values(static_cast<size_t>((kFirst + kSecond) * total), 77);
  if (meaning.clip != 0) {  // so that some are clipped and some not
    for (float& value : rows) value *= 1.5F * meaning.clip;
  }
  const Expected expected(meaning, rows, total);

  const double tolerance = std::max(kSameScores, 8 * meaning.table_error);
  Feeds feeds = decoder_feeds(graph, {.tokens = kFirst, .past = 0, .thin_cache = false});
  feed_projections(region, kFirst, rows, feeds);
  if (is_prefix_form(graph)) {
    return compare(interpreter.run_one(feeds, region.out), expected.tokens(0, kFirst), tolerance,
                   "without a cache");
  }
  const LayerCache& cache = graph.io.layers[static_cast<size_t>(region.layer)];
  const ValueId wanted[] = {region.out, cache.present_key, cache.present_value};
  const auto first = interpreter.run(feeds, wanted);
  compare(first[0], expected.tokens(0, kFirst), tolerance, "without cached positions");

  feeds = decoder_feeds(graph, {.tokens = kSecond, .past = kFirst, .thin_cache = false});
  feed_projections(region, kSecond, std::span(rows).subspan(static_cast<size_t>(kFirst * total)),
                   feeds);
  feeds[cache.past_key] = first[1];
  feeds[cache.past_value] = first[2];
  compare(interpreter.run_one(feeds, region.out), expected.tokens(kFirst, kSecond), tolerance,
          "with cached positions");
}

namespace {

// Clips, norms and rotations change places without a trace in what the probes so far have seen: the
// order is the first that reproduces the subgraph. A norm comes before the rotation, but that of
// heads may also come behind it; a clip comes before the norm, or behind it.
void settle_order(const ProbeGraphs& probes, const AttentionRegion& region,
                  AttentionMeaning& meaning) {
  std::vector<AttentionMeaning> orders = {meaning};
  if (meaning.norms.any() && meaning.clip != 0) {
    orders.push_back(meaning);
    orders.back().clip_first = false;
    orders.back().norms.q_shared = orders.back().norms.k_shared = kNoValue;
  }
  if (meaning.norms.q_shared != kNoValue && meaning.rotary > 0) {
    orders.push_back(meaning);
    orders.back().norms.last = true;
  }
  for (size_t i = 0; i < orders.size(); ++i) {
    try {
      verify_meaning(probes.graph, probes.interpreter, region, orders[i]);
      meaning = std::move(orders[i]);
      return;
    } catch (const NotAttention&) {
      if (i + 1 == orders.size()) throw;
    }
  }
}

}  // namespace

AttentionMeaning find_attention_meaning(const ProbeGraphs& probes, const AttentionRegion& region) {
  AttentionMeaning meaning;
  try {
    find_columns(probes.plain, probes.plain_interpreter, region, meaning);
    find_norms(probes, region, meaning);
    find_clip(probes.graph, region, meaning);
    find_rotation(probes.plain, probes.plain_interpreter, region, meaning);
    find_scores(probes.plain, probes.plain_interpreter, region, meaning);
    settle_order(probes, region, meaning);
  } catch (const Error& error) {
    throw NotAttention(fmt::format("probing failed: {}", error.what()));
  }
  return meaning;
}

}  // namespace nibble::graph
