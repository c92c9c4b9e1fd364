// From the Q, K and V projections to the output projection: finds the region around every Softmax
// (attention_region.h), asks what it means (attention_meaning.h), and replaces it by one merged
// Linear and one Attention.
#include <fmt/format.h>

#include <algorithm>

#include "graph/attention_meaning.h"
#include "graph/attention_norms.h"
#include "graph/attention_region.h"
#include "graph/ops.h"
#include "graph/passes.h"
#include "graph/probe.h"
#include "graph/rewrite.h"
#include "jit/error.h"

namespace nibble::graph {
namespace {

// One Linear that makes [Q heads | K heads | V heads] from the region's projections.
class ProjectionMerger {
 public:
  ProjectionMerger(Graph& graph, const AttentionRegion& region, const AttentionMeaning& meaning)
      : graph_(graph) {
    for (const auto* columns : {&meaning.q_columns, &meaning.k_columns, &meaning.v_columns}) {
      columns_.insert(columns_.end(), columns->begin(), columns->end());
    }
    const std::vector<int32_t> made_by = producers(graph);
    for (ValueId id : region.projections) {
      linears_.push_back(&graph.nodes[static_cast<size_t>(made_by[static_cast<size_t>(id)])]);
    }
  }

  Node merged(const std::string& name) {
    std::vector<MatrixSource> sources;
    std::vector<float> biases;
    bool any_bias = false;
    for (const Node* linear : linears_) {
      const auto& constant = graph_.values[static_cast<size_t>(linear->inputs[1])].constant;
      sources.push_back(std::get<MatrixSource>(*constant));
      std::vector<float> bias(static_cast<size_t>(sources.back().n), 0.0F);
      if (linear->input(2) != kNoValue) {
        bias = to_f32(*graph_.tensor(linear->inputs[2]));
        any_bias = true;
      }
      biases.insert(biases.end(), bias.begin(), bias.end());
    }
    Node node;
    node.op = "Linear";
    node.domain = kNibbleDomain;
    node.name = name;
    MatrixSource weight = select(concatenate(sources));
    node.inputs = {linears_[0]->inputs[0], kNoValue, kNoValue};
    node.inputs[1] = graph_.add_constant(name + "/weight", Constant(std::move(weight)));
    if (any_bias) {
      std::vector<float> ordered;
      for (int64_t column : columns_) ordered.push_back(biases[static_cast<size_t>(column)]);
      const auto n = static_cast<int64_t>(ordered.size());
      node.inputs[2] = graph_.add_constant(name + "/bias", make_f32({n}, std::move(ordered)));
    }
    node.outputs = {graph_.add_value(name)};
    return node;
  }

 private:
  // Runs of neighbouring columns become segments; select_columns counts a part as a whole
  // concatenation.
  MatrixSource select(const MatrixSource& all) const {
    std::vector<ColumnSegment> segments;
    for (int64_t column : columns_) {
      if (!segments.empty() && segments.back().begin + segments.back().count == column) {
        ++segments.back().count;
      } else {
        segments.push_back({0, column, 1});
      }
    }
    return select_columns(all, segments);
  }

  Graph& graph_;
  std::vector<const Node*> linears_;
  std::vector<int64_t> columns_;
};

Node attention_node(Graph& graph, const AttentionRegion& region, const AttentionMeaning& m,
                    ValueId qkv, const std::string& name) {
  Node node;
  node.op = "Attention";
  node.domain = kNibbleDomain;
  node.name = name;
  node.inputs = {qkv, kNoValue, kNoValue};
  if (m.rotary > 0) {
    const auto half = static_cast<int64_t>(m.inv_freq.size());
    node.inputs[1] = graph.add_constant(name + "/inv_freq", make_f32({half}, m.inv_freq));
  }
  if (!m.slopes.empty()) {
    node.inputs[2] = graph.add_constant(name + "/slopes", make_f32({m.heads}, m.slopes));
  }
  if (m.norms.q_shared != kNoValue) {
    node.inputs.push_back(m.norms.q_shared);
    node.inputs.push_back(m.norms.k_shared);
  }
  node.outputs = {region.out};
  node.attributes = {
      {"layer", region.layer},  {"heads", m.heads},   {"kv_heads", m.kv_heads},
      {"head_dim", m.head_dim}, {"scale", m.scale},   {"window", m.window},
      {"softcap", m.softcap},   {"rotary", m.rotary}, {"interleaved", int64_t{m.interleaved}}};
  if (m.norms.q_shared != kNoValue) node.attributes["norm_epsilon"] = m.norms.epsilon;
  if (m.norms.last) node.attributes["norm_last"] = int64_t{1};
  return node;
}

// Norms that Attention has no operands for, as a node of their own.
Node head_norm_node(Graph& graph, const AttentionMeaning& m, ValueId qkv, const std::string& name) {
  const auto both = [&](const std::vector<float>& q, const std::vector<float>& k,
                        const char* what) {
    std::vector<float> all = q;
    all.insert(all.end(), k.begin(), k.end());
    const auto count = static_cast<int64_t>(all.size());
    return graph.add_constant(name + what, make_f32({count}, std::move(all)));
  };
  Node node{"HeadNorm", std::string(kNibbleDomain), name, {qkv}, {}, {}};
  node.inputs.push_back(both(m.norms.q_weight, m.norms.k_weight, "/weight"));
  if (!m.norms.q_bias.empty()) {
    node.inputs.push_back(both(m.norms.q_bias, m.norms.k_bias, "/bias"));
  }
  node.outputs = {graph.add_value(name)};
  node.attributes = {{"heads", m.heads},
                     {"kv_heads", m.kv_heads},
                     {"head_dim", m.head_dim},
                     {"whole", int64_t{m.norms.whole}},
                     {"centre", int64_t{m.norms.centre}},
                     {"epsilon", m.norms.epsilon}};
  return node;
}

// What stands between the projections and the attention: a clip, norms, in either order. Appends
// the nodes; returns the value that attention takes.
ValueId add_clip_and_norms(Graph& graph, const AttentionMeaning& m, ValueId qkv,
                           const std::string& prefix) {
  const auto clip = [&] {
    if (m.clip == 0) return;
    const ValueId out = graph.add_value(prefix + "clip");
    graph.nodes.push_back(
        {"Clip", std::string(kNibbleDomain), prefix + "clip", {qkv}, {out}, {{"limit", m.clip}}});
    qkv = out;
  };
  if (m.clip_first) clip();
  if (m.norms.any() && m.norms.q_shared == kNoValue) {
    graph.nodes.push_back(head_norm_node(graph, m, qkv, prefix + "head_norm"));
    qkv = graph.nodes.back().outputs[0];
  }
  if (!m.clip_first) clip();
  return qkv;
}

// A cache that only fused attention uses is the session's business: its inputs and outputs go.
// Where something else still uses it the graph keeps them all.
void drop_caches(Graph& graph) {
  Graph trimmed = graph;
  trimmed.outputs = {graph.io.logits};
  for (LayerCache& layer : trimmed.io.layers) layer = LayerCache{};
  eliminate_dead(trimmed);
  const auto users = consumers(trimmed);
  for (const LayerCache& layer : graph.io.layers) {
    for (ValueId id : {layer.past_key, layer.past_value}) {
      if (id != kNoValue && !users[static_cast<size_t>(id)].empty()) return;
    }
  }
  graph = std::move(trimmed);
  std::erase_if(graph.inputs, [&](ValueId id) {
    return id != graph.io.input_ids && users[static_cast<size_t>(id)].empty();
  });
  for (ValueId* id : {&graph.io.attention_mask, &graph.io.position_ids}) {
    if (std::find(graph.inputs.begin(), graph.inputs.end(), *id) == graph.inputs.end()) {
      *id = kNoValue;
    }
  }
}

// The shape of a value for any number of tokens, -1 standing for them. Empty when it is not so
// simple.
Shape shape_in_tokens(const Graph& graph, const Interpreter& interpreter,
                      const AttentionRegion& region, ValueId value) {
  Shape shapes[2];
  for (int64_t i = 0; i < 2; ++i) {
    const int64_t tokens = 5 + 2 * i;
    Feeds feeds = decoder_feeds(graph, {.tokens = tokens, .past = 0, .thin_cache = false});
    const std::vector<float> zeros(static_cast<size_t>(tokens * total_width(region)), 0.0F);
    feed_projections(region, tokens, zeros, feeds);
    shapes[i] = interpreter.run_one(feeds, value).shape;
  }
  if (shapes[0].size() != shapes[1].size()) return {};
  for (size_t d = 0; d < shapes[0].size(); ++d) {
    if (shapes[0][d] == shapes[1][d]) continue;
    if (shapes[0][d] != 5 || shapes[1][d] != 7) return {};
    shapes[0][d] = -1;
  }
  return shapes[0];
}

// Values inside a fused region whose shape the rest of the graph still asks for.
struct AskedShape {
  int32_t node;  // the Shape
  Shape shape;
};

// The dimensions [start, end) of a shape, as a Shape node has them.
Shape asked_part(const Node& node, const Shape& shape) {
  const auto rank = static_cast<int64_t>(shape.size());
  const auto place = [&](int64_t at) {
    return std::clamp<int64_t>(at < 0 ? at + rank : at, 0, rank);
  };
  const int64_t start = place(node.get_int("start", 0)), end = place(node.get_int("end", rank));
  return start < end ? Shape(shape.begin() + start, shape.begin() + end) : Shape{};
}

std::vector<AskedShape> asked_shapes(const Graph& graph, const Interpreter& interpreter,
                                     const AttentionRegion& region) {
  std::vector<AskedShape> asked;
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    const Node& node = graph.nodes[i];
    if (!node.is("Shape")) continue;
    if (std::find(region.chain.begin(), region.chain.end(), node.inputs[0]) == region.chain.end()) {
      continue;
    }
    const Shape shape =
        asked_part(node, shape_in_tokens(graph, interpreter, region, node.inputs[0]));
    if (!shape.empty()) asked.push_back({static_cast<int32_t>(i), shape});
  }
  return asked;
}

// Shape(value) as a list of constants and the number of tokens, from the ids.
void answer_shape(Graph& graph, const AskedShape& asked) {
  const Node shape = graph.nodes[static_cast<size_t>(asked.node)];
  const ValueId ids = graph.add_value(shape.name + "/ids_shape", DType::i64);
  const ValueId tokens = graph.add_value(shape.name + "/tokens", DType::i64);
  const ValueId one = graph.add_constant(shape.name + "/one", make_i64({1}, {1}));
  std::vector<ValueId> parts;
  for (int64_t dim : asked.shape) {
    parts.push_back(dim < 0 ? tokens
                            : graph.add_constant(shape.name + "/dim", make_i64({1}, {dim})));
  }
  graph.nodes[static_cast<size_t>(asked.node)] =
      Node{"Concat", "", shape.name, std::move(parts), shape.outputs, {{"axis", int64_t{0}}}};
  graph.nodes.push_back({"Shape", "", shape.name, {graph.io.input_ids}, {ids}, {}});
  graph.nodes.push_back({"Gather", "", shape.name, {ids, one}, {tokens}, {{"axis", int64_t{0}}}});
}

struct Found {
  AttentionRegion region;
  AttentionMeaning meaning;
  std::string name;
  std::vector<AskedShape> asked;
};

// Whether attention can be evaluated for a token at the last of so many positions: tables of
// rotations, positions or masks may end before.
bool reaches_position(const Graph& graph, const Interpreter& interpreter,
                      const AttentionRegion& region, int64_t positions) {
  const ProbeCall call{.tokens = 1, .past = positions - 1, .thin_cache = false};
  Feeds feeds = decoder_feeds(graph, call);
  const int64_t rows = rows_of_call(graph, call);
  const std::vector<float> zeros(static_cast<size_t>(rows * total_width(region)), 0.0F);
  feed_projections(region, rows, zeros, feeds);
  const ValueId wanted[] = {region.q, region.scores};
  try {
    interpreter.run(feeds, wanted);
  } catch (const Error&) {
    return false;
  }
  return true;
}

// One position past a table's end a slice of it may wrap around instead of failing.
void settle_context(Graph& graph, const Interpreter& interpreter, const AttentionRegion& region,
                    int64_t reached) {
  const Graph plain = without_head_norms(graph);
  const Interpreter plain_interpreter(plain, probe_limits(plain));
  graph.context_length = reached;
  try {
    Graph limited = plain;
    limited.context_length = reached;
    find_attention_meaning({graph, interpreter, limited, plain_interpreter}, region);
  } catch (const NotAttention&) {
    graph.context_length = reached - 1;
  }
}

// Where nothing tells the context length, tables that end before the positions that probes look at
// do.
void limit_unknown_context(Graph& graph) {
  if (graph.context_length > 0) return;
  const int64_t most = furthest_position(graph) + 1;
  const RegionFinder finder(graph);
  const Interpreter interpreter(graph, probe_limits(graph));
  for (size_t i = 0; i < graph.nodes.size(); ++i) {
    if (!graph.nodes[i].is("Softmax")) continue;
    try {
      const AttentionRegion region = finder.around(static_cast<int32_t>(i), 0);
      if (reaches_position(graph, interpreter, region, most)) return;
      int64_t reached = 1, beyond = most;
      while (beyond - reached > 1) {
        const int64_t middle = (reached + beyond) / 2;
        (reaches_position(graph, interpreter, region, middle) ? reached : beyond) = middle;
      }
      if (reached > 1) settle_context(graph, interpreter, region, reached);
      return;
    } catch (const NotAttention&) {
      continue;
    }
  }
}

// Fused layers would have a cache and the others none.
void refuse_partial(size_t found, FusionReport& report) {
  for (size_t i = report.entries.size(); i-- > 0 && found > 0;) {
    FusionEntry& entry = report.entries[i];
    if (entry.what != "attention" || !entry.fused) continue;
    entry.fused = false;
    entry.detail = "this export has no cache, and attention of another layer is not fused";
    --found;
  }
}

int64_t softmaxes_left(const Graph& graph) {
  return std::count_if(graph.nodes.begin(), graph.nodes.end(),
                       [](const Node& node) { return node.is("Softmax"); });
}

// Whether there is anything that mixes cached values: a Softmax, or attention that a frontend made.
bool has_attention(const Graph& graph) {
  return std::any_of(graph.nodes.begin(), graph.nodes.end(), [](const Node& node) {
    return node.is("Softmax") || node.is("Attention", kNibbleDomain);
  });
}

// An export without a cache: its attention has one now, so its masks and positions go. What no
// probe has seen is not served.
void finish_prefix(Graph& graph, FusionReport& report) {
  drop_caches(graph);
  const int64_t positions = prefix_positions(graph);
  if (graph.context_length == positions) return;
  report.entries.push_back(
      {-1, "cache", true,
       fmt::format("added to an export without one, for {} positions", positions), ""});
  graph.context_length = positions;
}

}  // namespace

int fuse_attention(Graph& graph, FusionReport& report) {
  limit_unknown_context(graph);
  std::vector<Found> all;
  {
    const RegionFinder finder(graph);
    const Interpreter interpreter(graph, probe_limits(graph));
    const Graph plain = without_head_norms(graph);
    const Interpreter plain_interpreter(plain, probe_limits(plain));
    const ProbeGraphs probes{graph, interpreter, plain, plain_interpreter};
    int64_t softmaxes = 0;
    for (size_t i = 0; i < graph.nodes.size(); ++i) {
      const Node& softmax = graph.nodes[i];
      if (!softmax.is("Softmax")) continue;
      FusionEntry entry{layer_of_name(softmax.name), "attention", false, "", softmax.name};
      try {
        Found found;
        found.region = finder.around(static_cast<int32_t>(i), softmaxes++);
        entry.layer = found.region.layer;
        found.meaning = find_attention_meaning(probes, found.region);
        found.asked = asked_shapes(graph, interpreter, found.region);
        found.name = fmt::format("layers.{}.attention", found.region.layer);
        entry.fused = true;
        all.push_back(std::move(found));
      } catch (const NotAttention& reason) {
        entry.detail = reason.what();
      }
      report.entries.push_back(std::move(entry));
    }
  }
  if (!graph.io.layers.empty() && !has_attention(graph)) {
    report.entries.push_back(
        {-1, "attention", false, "no Softmax is there that would mix the cached values", ""});
  }
  if (is_prefix_form(graph) && static_cast<int64_t>(all.size()) < softmaxes_left(graph)) {
    refuse_partial(all.size(), report);
    return 0;
  }
  for (const Found& found : all) {
    Node qkv = ProjectionMerger(graph, found.region, found.meaning)
                   .merged(fmt::format("layers.{}.qkv", found.region.layer));
    const ValueId operand = add_clip_and_norms(graph, found.meaning, qkv.outputs[0],
                                               fmt::format("layers.{}.", found.region.layer));
    Node attention = attention_node(graph, found.region, found.meaning, operand, found.name);
    // The old maker of the region's output goes; dead code takes the rest.
    const auto maker = static_cast<size_t>(producers(graph)[static_cast<size_t>(found.region.out)]);
    graph.nodes[maker] = std::move(attention);
    graph.nodes.push_back(std::move(qkv));
    for (const AskedShape& asked : found.asked) answer_shape(graph, asked);
  }
  sort_nodes(graph);
  eliminate_dead(graph);
  simplify_shapes(graph);
  if (is_prefix_form(graph)) {
    if (!all.empty() && softmaxes_left(graph) == 0) finish_prefix(graph, report);
  } else if (!all.empty() && all.size() == graph.io.layers.size()) {
    drop_caches(graph);
  }
  return static_cast<int>(all.size());
}

}  // namespace nibble::graph
