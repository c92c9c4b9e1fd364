// Operators that stand for a whole subgraph become the subgraph, so that the passes that match
// meaning see one spelling: Attention and GroupQueryAttention, norms that first add a residual, and
// the products that onnxruntime fuses with their scales and activations, and Einsum.
// What the subgraph cannot say (attention sinks, quantized caches) stays as it is.
#include <fmt/format.h>

#include <algorithm>
#include <limits>
#include <optional>

#include "graph/einsum.h"
#include "graph/ops.h"
#include "graph/passes.h"
#include "graph/rewrite.h"
#include "graph/value_kinds.h"
#include "jit/error.h"

namespace nibble::graph {
namespace {

constexpr int64_t kOnnxFloat = 1;

// Appends nodes that all bear the name of the one they replace.
class NodeWriter {
 public:
  NodeWriter(Graph& graph, std::vector<Node>& nodes, std::string name)
      : graph_(graph), nodes_(nodes), name_(std::move(name)) {}

  using Attributes = std::map<std::string, Attribute>;

  ValueId op(const char* op, std::vector<ValueId> inputs, Attributes attributes = {},
             ValueId out = kNoValue, std::string_view domain = "") {
    const std::string name = fmt::format("{}/{}", name_, op);
    if (out == kNoValue) out = graph_.add_value(name);
    nodes_.push_back(
        {op, std::string(domain), name, std::move(inputs), {out}, std::move(attributes)});
    return out;
  }
  ValueId ints(std::vector<int64_t> values) {
    const auto count = static_cast<int64_t>(values.size());
    return graph_.add_constant(name_ + "/ints", make_i64({count}, std::move(values)));
  }
  ValueId integer(int64_t value) {
    return graph_.add_constant(name_ + "/int", make_i64({}, {value}));
  }
  ValueId real(float value) { return graph_.add_constant(name_ + "/real", make_f32({}, {value})); }

  // Dimensions [begin, end) of a value, as a list, and one of them as a scalar.
  ValueId dims(ValueId x, int64_t begin, int64_t end) {
    return op("Slice", {op("Shape", {x}), ints({begin}), ints({end}), ints({0})});
  }
  ValueId dim(ValueId x, int64_t axis) {
    return op("Gather", {op("Shape", {x}), integer(axis)}, {{"axis", int64_t{0}}});
  }
  ValueId reshape(ValueId x, std::vector<int64_t> shape) {
    return op("Reshape", {x, ints(std::move(shape))});
  }
  ValueId swap_heads(ValueId x, ValueId out = kNoValue) {
    return op("Transpose", {x}, {{"perm", std::vector<int64_t>{0, 2, 1, 3}}}, out);
  }

 private:
  Graph& graph_;
  std::vector<Node>& nodes_;
  std::string name_;
};

// What an attention is, its operands as heads [batch, heads, length, dim].
struct Heads {
  ValueId q = kNoValue, k = kNoValue, v = kNoValue;
  bool causal = false;
  int64_t window = 0;
  float scale = 0, softcap = 0;  // scale 0: by the size of the heads
  ValueId mask = kNoValue;
  bool mask_hides = false;  // a boolean one
  ValueId out = kNoValue;
  bool merge = true;  // out is [batch, length, heads * dim]
};

// Keys or values of each query head.
ValueId repeat_heads(NodeWriter& w, ValueId x, ValueId q) {
  const ValueId heads = w.dims(q, 1, 2), kv_heads = w.dims(x, 1, 2);
  const ValueId one = w.ints({1});
  const ValueId times = w.op("Div", {heads, kv_heads});
  const ValueId shape = w.op("Concat", {one, one, times, one, one}, {{"axis", int64_t{0}}});
  const ValueId repeated = w.op("Expand", {w.op("Unsqueeze", {x, w.ints({2})}), shape});
  const ValueId target =
      w.op("Concat", {w.ints({0}), heads, w.dims(x, 2, 4)}, {{"axis", int64_t{0}}});
  return w.op("Reshape", {repeated, target});
}

// Which positions each token sees: [length, total], booleans.
ValueId visible(NodeWriter& w, const Heads& a) {
  const ValueId total = w.dim(a.k, 2), one = w.integer(1);
  const ValueId past = w.op("Sub", {total, w.dim(a.q, 2)});
  const ValueId here = w.op("Unsqueeze", {w.op("Range", {past, total, one}), w.ints({1})});
  const ValueId there = w.op("Range", {w.integer(0), total, one});
  const ValueId causal = w.op("LessOrEqual", {there, here});
  if (a.window <= 0) return causal;
  const ValueId oldest = w.op("Sub", {here, w.integer(a.window)});
  return w.op("And", {causal, w.op("Greater", {there, oldest})});
}

void write_attention(NodeWriter& w, const Heads& a) {
  const ValueId hidden = w.real(std::numeric_limits<float>::lowest());
  const ValueId k = repeat_heads(w, a.k, a.q), v = repeat_heads(w, a.v, a.q);
  const ValueId turned = w.op("Transpose", {k}, {{"perm", std::vector<int64_t>{0, 1, 3, 2}}});
  ValueId scores = w.op("MatMul", {a.q, turned});
  ValueId scale = kNoValue;
  if (a.scale != 0) {
    scale = w.real(a.scale);
  } else {
    const ValueId dim = w.op("Cast", {w.dim(a.q, 3)}, {{"to", kOnnxFloat}});
    scale = w.op("Reciprocal", {w.op("Sqrt", {dim})});
  }
  scores = w.op("Mul", {scores, scale});
  if (a.softcap > 0) {
    const ValueId cap = w.real(a.softcap);
    scores = w.op("Mul", {w.op("Tanh", {w.op("Div", {scores, cap})}), cap});
  }
  if (a.mask != kNoValue) {
    scores = a.mask_hides ? w.op("Where", {a.mask, scores, hidden}) : w.op("Add", {scores, a.mask});
  }
  if (a.causal) scores = w.op("Where", {visible(w, a), scores, hidden});
  const ValueId weights = w.op("Softmax", {scores}, {{"axis", int64_t{-1}}});
  if (!a.merge) {
    w.op("MatMul", {weights, v}, {}, a.out);
    return;
  }
  const ValueId mixed = w.swap_heads(w.op("MatMul", {weights, v}));
  w.op("Reshape", {mixed, w.ints({0, 0, -1})}, {}, a.out);
}

// The cache after the call: `present` when the graph wants it.
ValueId with_past(NodeWriter& w, ValueId past, ValueId x, ValueId present) {
  if (past != kNoValue) return w.op("Concat", {past, x}, {{"axis", int64_t{2}}}, present);
  if (present != kNoValue) return w.op("Identity", {x}, {}, present);
  return x;
}

ValueId output(const Node& node, size_t i) {
  return i < node.outputs.size() ? node.outputs[i] : kNoValue;
}

// Why a GroupQueryAttention cannot be expanded; empty when it can.
std::string obstacle(const Node& node) {
  constexpr int64_t kMostHeads = 1 << 20;
  for (const char* name : {"num_heads", "kv_num_heads"}) {
    const int64_t heads = node.get_int(name, 0);
    if (heads < 1 || heads > kMostHeads) return fmt::format("{} is {}", name, heads);
  }
  if ((node.input(1) == kNoValue) != (node.input(2) == kNoValue)) {
    return "it has only one of key and value";
  }
  if (node.input(11) != kNoValue) return "attention with sinks (head_sink) has no fused operator";
  if (node.get_int("smooth_softmax", 0) == 1) return "smooth_softmax has no fused operator";
  if (node.input(12) != kNoValue || node.input(13) != kNoValue) {
    return "a quantized KV cache (k_scale, v_scale) is not supported";
  }
  if (output(node, 3) != kNoValue) return "its scores are asked for as an output";
  return "";
}

class GroupedAttention {
 public:
  GroupedAttention(const Graph& graph, const Node& node, NodeWriter& w)
      : graph_(graph),
        node_(node),
        w_(w),
        heads_(node.get_int("num_heads")),
        kv_heads_(node.get_int("kv_num_heads")) {}

  void write() {
    const bool packed = node_.input(1) == kNoValue;
    const ValueId query = node_.inputs[0];
    const ValueId all = packed ? w_.reshape(query, {0, 0, heads_ + 2 * kv_heads_, -1}) : kNoValue;
    Heads a;
    a.q = packed ? slice(all, 0, heads_) : w_.reshape(query, {0, 0, heads_, -1});
    a.k =
        packed ? slice(all, heads_, kv_heads_) : w_.reshape(node_.inputs[1], {0, 0, kv_heads_, -1});
    a.v = packed ? slice(all, heads_ + kv_heads_, kv_heads_)
                 : w_.reshape(node_.inputs[2], {0, 0, kv_heads_, -1});
    a.q = w_.swap_heads(normalised(a.q, 14));
    a.k = w_.swap_heads(normalised(a.k, 15));
    a.v = w_.swap_heads(a.v);
    a.v = with_past(w_, node_.input(4), a.v, output(node_, 2));
    if (node_.get_int("do_rotary", 0) != 0) {
      const ValueId positions = find_positions(a);
      a.q = rotated(a.q, positions);
      a.k = rotated(a.k, positions);
    }
    a.k = with_past(w_, node_.input(3), a.k, output(node_, 1));
    a.causal = true;
    a.window = std::max<int64_t>(0, node_.get_int("local_window_size", -1));
    a.scale = node_.get_float("scale", 0);
    a.softcap = node_.get_float("softcap", 0);
    a.mask = node_.input(10);
    a.out = node_.outputs[0];
    write_attention(w_, a);
  }

 private:
  ValueId slice(ValueId x, int64_t begin, int64_t count) {
    return w_.op("Slice", {x, w_.ints({begin}), w_.ints({begin + count}), w_.ints({2})});
  }

  ValueId normalised(ValueId x, size_t weight) {
    if (node_.input(weight) == kNoValue) return x;
    return w_.op("RMSNorm", {x, node_.inputs[weight]},
                 {{"epsilon", node_.get_float("qk_norm_epsilon", 1e-6F)}}, kNoValue, kNibbleDomain);
  }

  // [1, length], after the positions of the cache.
  ValueId find_positions(const Heads& a) {
    if (node_.input(9) != kNoValue) return node_.inputs[9];
    const ValueId total = w_.dim(a.v, 2);
    const ValueId past = w_.op("Sub", {total, w_.dim(a.q, 2)});
    return w_.op("Unsqueeze", {w_.op("Range", {past, total, w_.integer(1)}), w_.ints({0})});
  }

  ValueId rotated(ValueId x, ValueId positions) {
    const TensorData* table = graph_.tensor(node_.input(7));
    const int64_t rotary = table != nullptr ? 2 * table->shape.back() : 0;
    return w_.op(
        "RotaryEmbedding", {x, positions, node_.input(7), node_.input(8)},
        {{"interleaved", node_.get_int("rotary_interleaved", 0)}, {"rotary_embedding_dim", rotary}},
        kNoValue, kMicrosoftDomain);
  }

  const Graph& graph_;
  const Node& node_;
  NodeWriter& w_;
  int64_t heads_, kv_heads_;
};

std::string standard_obstacle(const Node& node) {
  if (node.input(6) != kNoValue) return "nonpad_kv_seqlen has no fused operator";
  if (output(node, 3) != kNoValue) return "its scores are asked for as an output";
  return "";
}

void write_standard(NodeWriter& w, const Node& node, const std::vector<ValueKind>& kinds) {
  const int64_t heads = node.get_int("q_num_heads", 0), kv_heads = node.get_int("kv_num_heads", 0);
  const auto split = [&](ValueId x, int64_t count) {
    return count > 0 ? w.swap_heads(w.reshape(x, {0, 0, count, -1})) : x;
  };
  Heads a;
  a.q = split(node.inputs[0], heads);
  a.k = with_past(w, node.input(4), split(node.inputs[1], kv_heads), output(node, 1));
  a.v = with_past(w, node.input(5), split(node.inputs[2], kv_heads), output(node, 2));
  a.causal = node.get_int("is_causal", 0) != 0;
  a.scale = node.get_float("scale", 0);
  a.softcap = node.get_float("softcap", 0);
  a.mask = node.input(3);
  a.mask_hides = a.mask != kNoValue && kinds[static_cast<size_t>(a.mask)] == ValueKind::boolean;
  a.out = node.outputs[0];
  a.merge = heads > 0;
  write_attention(w, a);
}

// x + skip (+ bias), then the norm; the bias goes to the term that a matmul makes.
void write_skip_norm(NodeWriter& w, const Node& node, const Links& links) {
  const bool layer = node.op == "SkipLayerNormalization";
  const ValueId bias = node.input(layer ? 4 : 3);
  ValueId x = node.inputs[0], skip = node.inputs[1];
  if (bias != kNoValue) {
    const Node* maker = links.producer(x);
    const bool on_x = maker != nullptr && maker->op.starts_with("MatMul") && links.single_use(x);
    (on_x ? x : skip) = w.op("Add", {on_x ? x : skip, bias});
  }
  const ValueId sum = w.op("Add", {x, skip}, {}, output(node, 3));
  std::vector<ValueId> inputs = {sum, node.inputs[2]};
  if (layer && node.input(3) != kNoValue) inputs.push_back(node.inputs[3]);
  w.op(layer ? "LayerNormalization" : "SimplifiedLayerNormalization", std::move(inputs),
       {{"epsilon", node.get_float("epsilon", 1e-12F)}, {"axis", int64_t{-1}}}, node.outputs[0]);
}

bool is_skip_norm(const Node& node) {
  return (node.is("SkipLayerNormalization", kMicrosoftDomain) ||
          node.is("SkipSimplifiedLayerNormalization", kMicrosoftDomain)) &&
         output(node, 1) == kNoValue && output(node, 2) == kNoValue;
}

// A product with a scale: the product alone, transposed or not, and the scale; not by a constant,
// which form_linears scales. A Gemm with an activation likewise, and an activation of a sum.
bool is_fused_product(const Graph& graph, const Node& node) {
  if (node.is("BiasGelu", kMicrosoftDomain) || node.is("FastGelu", kMicrosoftDomain)) {
    return node.input(1) != kNoValue;
  }
  if (node.is("FusedMatMul", kMicrosoftDomain)) {
    if (graph.tensor(node.inputs[1]) != nullptr) return false;
    return node.get_int("transBatchA", 0) == 0 && node.get_int("transBatchB", 0) == 0;
  }
  const std::string activation = node.get_string("activation", "");
  return node.is("FusedGemm", kMicrosoftDomain) &&
         (activation == "Relu" || activation == "Tanh" || activation == "Sigmoid");
}

void write_fused_product(NodeWriter& w, const Node& node) {
  if (node.op == "BiasGelu" || node.op == "FastGelu") {
    const ValueId sum = w.op("Add", {node.inputs[0], node.inputs[1]});
    w.op(node.op == "BiasGelu" ? "Gelu" : "FastGelu", {sum}, {}, node.outputs[0], kMicrosoftDomain);
    return;
  }
  if (node.op == "FusedGemm") {
    NodeWriter::Attributes attributes = node.attributes;
    std::erase_if(attributes, [](const auto& a) { return a.first.starts_with("activation"); });
    const ValueId y = w.op("Gemm", node.inputs, std::move(attributes));
    w.op(node.get_string("activation", "").c_str(), {y}, {}, node.outputs[0]);
    return;
  }
  const int64_t swap_a = node.get_int("transA", 0), swap_b = node.get_int("transB", 0);
  const float alpha = node.get_float("alpha", 1);
  const ValueId out = alpha == 1 ? node.outputs[0] : kNoValue;
  ValueId y = kNoValue;
  if (swap_a == 0 && swap_b == 0) {
    y = w.op("MatMul", node.inputs, {}, out);
  } else {
    y = w.op("FusedMatMul", node.inputs, {{"transA", swap_a}, {"transB", swap_b}}, out,
             kMicrosoftDomain);
  }
  if (alpha != 1) w.op("Mul", {y, w.real(alpha)}, {}, node.outputs[0]);
}

// The dimensions of a product of two, one letter each: of both operands and the output, of one and
// the output, and the one that is summed.
struct ProductDims {
  std::string batch, rows, columns, summed;
};

// What an Einsum multiplies, when it is a MatMul of transposed operands, or a product of each with
// each.
std::optional<ProductDims> product_dims(const Einsum& einsum) {
  if (einsum.operands.size() != 2) return std::nullopt;
  const std::string &left = einsum.operands[0], &right = einsum.operands[1];
  const auto count = [](const std::string& text, char c) {
    return std::count(text.begin(), text.end(), c);
  };
  ProductDims dims;
  for (const char c : left) {
    const bool out = count(einsum.out, c) > 0, both = count(right, c) > 0;
    if (count(left, c) > 1 || (!out && !both)) return std::nullopt;
    (both ? out ? dims.batch : dims.summed : dims.rows).push_back(c);
  }
  for (const char c : right) {
    if (count(right, c) > 1) return std::nullopt;
    if (count(left, c) > 0) continue;
    if (count(einsum.out, c) == 0) return std::nullopt;
    dims.columns.push_back(c);
  }
  if (dims.columns.size() != 1 || dims.summed.size() > 1) return std::nullopt;
  // One matrix on the right multiplies rows of any rank.
  const bool one_matrix = dims.batch.empty() && !dims.summed.empty() && !dims.rows.empty();
  if (dims.rows.size() != 1 && !one_matrix) return std::nullopt;
  return dims;
}

std::optional<ProductDims> product_dims(const Node& node) {
  if (!node.is("Einsum")) return std::nullopt;
  try {
    return product_dims(parse_einsum(node.get_string("equation", "")));
  } catch (const Error&) {
    return std::nullopt;  // what is wrong, the interpreter says
  }
}

ValueId reordered(NodeWriter& w, ValueId x, const std::string& from, const std::string& to,
                  ValueId out = kNoValue) {
  if (from == to && out == kNoValue) return x;
  std::vector<int64_t> perm;
  for (const char c : to) perm.push_back(static_cast<int64_t>(from.find(c)));
  return w.op("Transpose", {x}, {{"perm", std::move(perm)}}, out);
}

void write_einsum(NodeWriter& w, const Node& node, const ProductDims& dims) {
  const Einsum einsum = parse_einsum(node.get_string("equation", ""));
  const bool sums = !dims.summed.empty();
  ValueId a =
      reordered(w, node.inputs[0], einsum.operands[0], dims.batch + dims.rows + dims.summed);
  ValueId b =
      reordered(w, node.inputs[1], einsum.operands[1], dims.batch + dims.summed + dims.columns);
  if (!sums) {
    a = w.op("Unsqueeze", {a, w.ints({-1})});
    b = w.op("Unsqueeze", {b, w.ints({-2})});
  }
  const std::string made = dims.batch + dims.rows + dims.columns;
  const ValueId y =
      w.op(sums ? "MatMul" : "Mul", {a, b}, {}, made == einsum.out ? node.outputs[0] : kNoValue);
  if (made != einsum.out) reordered(w, y, made, einsum.out, node.outputs[0]);
}

}  // namespace

int expand_operators(Graph& graph, FusionReport& report) {
  const std::vector<Node> before = graph.nodes;  // as they were: Links points into the graph
  const Links links(graph);
  const std::vector<ValueKind> kinds = value_kinds(graph);
  std::vector<Node> nodes;
  int changed = 0;
  for (const Node& node : before) {
    const bool grouped = node.is("GroupQueryAttention", kMicrosoftDomain);
    const bool standard = node.is("Attention");
    const bool product = is_fused_product(graph, node);
    const auto einsum = product_dims(node);
    if (!grouped && !standard && !product && !einsum && !is_skip_norm(node)) {
      nodes.push_back(node);
      continue;
    }
    const std::string reason = grouped ? obstacle(node) : standard ? standard_obstacle(node) : "";
    if (!reason.empty()) {
      report.entries.push_back({layer_of_name(node.name), "attention", false, reason, node.name});
      nodes.push_back(node);
      continue;
    }
    NodeWriter writer(graph, nodes, node.name);
    if (grouped) {
      GroupedAttention(graph, node, writer).write();
    } else if (standard) {
      write_standard(writer, node, kinds);
    } else if (product) {
      write_fused_product(writer, node);
    } else if (einsum) {
      write_einsum(writer, node, *einsum);
    } else {
      write_skip_norm(writer, node, links);
    }
    ++changed;
  }
  graph.nodes = std::move(nodes);
  return changed;
}

}  // namespace nibble::graph
