#include "graph/attention_meaning.h"

#include <fmt/format.h>

#include <algorithm>
#include <cmath>

#include "graph/ops.h"
#include "graph/probe.h"
#include "graph/rewrite.h"
#include "jit/error.h"

namespace nibble::graph {
namespace {

constexpr double kTolerance = 2e-4;  // of the largest element, fp32 against double

// Attention as `meaning` says, in double, over rows of concatenated projections of all tokens.
class Expected {
 public:
  Expected(const Graph& graph, const AttentionMeaning& meaning, std::span<const float> rows,
           int64_t total)
      : m_(meaning), rows_(rows), total_(total) {
    if (m_.q_norm != kNoValue) q_norm_ = to_f32(*graph.tensor(m_.q_norm));
    if (m_.k_norm != kNoValue) k_norm_ = to_f32(*graph.tensor(m_.k_norm));
  }

  std::vector<float> tokens(int64_t first, int64_t count) const {
    std::vector<float> out;
    for (int64_t s = first; s < first + count; ++s) {
      for (int64_t h = 0; h < m_.heads; ++h) append_head(s, h, out);
    }
    return out;
  }

 private:
  // One head of one token; Q and K heads are normalised (when there is a norm) and rotated.
  std::vector<double> head(const std::vector<int64_t>& columns, int64_t h, int64_t s, bool rotate,
                           const std::vector<float>& norm) const {
    std::vector<double> x(static_cast<size_t>(m_.head_dim));
    for (size_t d = 0; d < x.size(); ++d) {
      const int64_t column = columns[static_cast<size_t>(h * m_.head_dim) + d];
      x[d] = rows_[static_cast<size_t>(s * total_ + column)];
    }
    if (!norm.empty()) {
      double square = 0;
      for (double value : x) square += value * value;
      const double inverse = 1 / std::sqrt(square / static_cast<double>(x.size()) +
                                           static_cast<double>(m_.norm_epsilon));
      for (size_t d = 0; d < x.size(); ++d) x[d] *= inverse * static_cast<double>(norm[d]);
    }
    if (!rotate) return x;
    const auto half = static_cast<size_t>(m_.rotary) / 2;
    for (size_t i = 0; i < half; ++i) {
      const size_t a = m_.interleaved ? 2 * i : i, b = m_.interleaved ? 2 * i + 1 : i + half;
      const double angle = static_cast<double>(static_cast<float>(s) * m_.inv_freq[i]);
      const double xa = x[a], xb = x[b];
      x[a] = xa * std::cos(angle) - xb * std::sin(angle);
      x[b] = xb * std::cos(angle) + xa * std::sin(angle);
    }
    return x;
  }

  double score(const std::vector<double>& q, int64_t s, int64_t h, int64_t t) const {
    const auto k = head(m_.k_columns, h * m_.kv_heads / m_.heads, t, true, k_norm_);
    double dot = 0;
    for (size_t d = 0; d < q.size(); ++d) dot += q[d] * k[d];
    dot *= m_.scale;
    if (m_.softcap != 0) dot = m_.softcap * std::tanh(dot / m_.softcap);
    if (!m_.slopes.empty()) dot += m_.slopes[static_cast<size_t>(h)] * static_cast<double>(t - s);
    return dot;
  }

  void append_head(int64_t s, int64_t h, std::vector<float>& out) const {
    const auto q = head(m_.q_columns, h, s, true, q_norm_);
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
      const auto v = head(m_.v_columns, h * m_.kv_heads / m_.heads, first + static_cast<int64_t>(i),
                          false, {});
      for (size_t d = 0; d < v.size(); ++d) result[d] += weights[i] / sum * v[d];
    }
    for (double value : result) out.push_back(static_cast<float>(value));
  }

  const AttentionMeaning& m_;
  std::span<const float> rows_;
  int64_t total_;
  std::vector<float> q_norm_, k_norm_;
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
  const auto rows = probe_values(static_cast<size_t>((kFirst + kSecond) * total), 77);
  const Expected expected(graph, meaning, rows, total);

  const double tolerance = std::max(kTolerance, 8 * meaning.table_error);
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

bool is_head_norm(const Node& node, const std::vector<int64_t>& widths) {
  return node.is("RMSNorm", kNibbleDomain) && widths[static_cast<size_t>(node.outputs[0])] == 0;
}

Graph without_head_norms(const Graph& graph) {
  const std::vector<int64_t> widths = hidden_widths(graph);
  Graph plain = graph;
  for (Node& node : plain.nodes) {
    if (is_head_norm(node, widths)) {
      node = Node{"Identity", "", node.name, {node.inputs[0]}, {node.outputs[0]}, {}};
    }
  }
  return plain;
}

AttentionMeaning find_attention_meaning(const ProbeGraphs& probes, const AttentionRegion& region) {
  AttentionMeaning meaning;
  if (region.q_norm >= 0) {
    const Node& q = probes.graph.nodes[static_cast<size_t>(region.q_norm)];
    const Node& k = probes.graph.nodes[static_cast<size_t>(region.k_norm)];
    meaning.q_norm = q.inputs[1];
    meaning.k_norm = k.inputs[1];
    meaning.norm_epsilon = q.get_float("epsilon");
    if (k.get_float("epsilon") != meaning.norm_epsilon) {
      throw NotAttention("the norms of Q and K heads have different epsilons");
    }
  }
  try {
    find_columns(probes.plain, probes.plain_interpreter, region, meaning);
    for (ValueId norm : {meaning.q_norm, meaning.k_norm}) {
      if (norm == kNoValue) continue;
      const TensorData* weight = probes.graph.tensor(norm);
      if (weight == nullptr) throw NotAttention("the factors of a norm of heads are computed");
      const int64_t found = element_count(weight->shape);
      if (found != meaning.head_dim) {
        throw NotAttention(fmt::format("a norm of {} dimensions stands inside heads of {}", found,
                                       meaning.head_dim));
      }
    }
    find_rotation(probes.plain, probes.plain_interpreter, region, meaning);
    find_scores(probes.plain, probes.plain_interpreter, region, meaning);
    verify_meaning(probes.graph, probes.interpreter, region, meaning);
  } catch (const Error& error) {
    throw NotAttention(fmt::format("probing failed: {}", error.what()));
  }
  return meaning;
}

}  // namespace nibble::graph
