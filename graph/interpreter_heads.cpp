// Attention, RotaryEmbedding (opset 23 on) and com.microsoft GroupQueryAttention and
// RotaryEmbedding, in double, as their specifications write them.
#include <algorithm>
#include <cmath>
#include <functional>
#include <limits>
#include <optional>

#include "graph/interpreter_nibble.h"
#include "graph/ops.h"
#include "jit/error.h"

namespace nibble::graph {
namespace {

constexpr int64_t kMostHeads = 1 << 20;
constexpr double kHidden = -std::numeric_limits<double>::infinity();

// Heads [batch, heads, length, dim] of rows [batch, length, heads * dim] from column `first` on.
Array split_heads(const Array& x, int64_t heads, int64_t dim, int64_t first) {
  const int64_t batch = x.shape[0], length = x.shape[1], width = x.shape[2];
  std::vector<float> out(static_cast<size_t>(array_size({batch, heads, length, dim})));
  float* to = out.data();
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t s = 0; s < length; ++s, to += dim) {
        const float* from = x.floats().data() + (b * length + s) * width + first + h * dim;
        std::copy(from, from + dim, to);
      }
    }
  }
  return Array::of({batch, heads, length, dim}, std::move(out));
}

Array merge_heads(const Array& x) {
  const int64_t batch = x.shape[0], heads = x.shape[1], length = x.shape[2], dim = x.shape[3];
  std::vector<float> out(static_cast<size_t>(x.size()));
  const float* from = x.floats().data();
  for (int64_t b = 0; b < batch; ++b) {
    for (int64_t h = 0; h < heads; ++h) {
      for (int64_t s = 0; s < length; ++s, from += dim) {
        std::copy(from, from + dim, out.data() + ((b * length + s) * heads + h) * dim);
      }
    }
  }
  return Array::of({batch, length, heads * dim}, std::move(out));
}

// past and x one after another along the positions.
Array append(const Array* past, const Array& x) {
  if (past == nullptr) return x;
  const Shape &p = past->shape, &s = x.shape;
  if (p.size() != 4 || p[0] != s[0] || p[1] != s[1] || p[3] != s[3]) {
    fail("A cache of shape {} does not fit heads of shape {}.", to_string(p), to_string(s));
  }
  const int64_t before = p[2] * p[3], added = s[2] * s[3];
  std::vector<float> out;
  out.reserve(static_cast<size_t>(past->size() + x.size()));
  for (int64_t i = 0; i < s[0] * s[1]; ++i) {
    const auto old =
        past->floats().subspan(static_cast<size_t>(i * before), static_cast<size_t>(before));
    const auto now = x.floats().subspan(static_cast<size_t>(i * added), static_cast<size_t>(added));
    out.insert(out.end(), old.begin(), old.end());
    out.insert(out.end(), now.begin(), now.end());
  }
  return Array::of({s[0], s[1], p[2] + s[2], s[3]}, std::move(out));
}

// --- rotation ---

struct RotaryCall {
  const Array* cos = nullptr;  // [positions, half], or one row a token: [batch, length, half]
  const Array* sin = nullptr;
  std::function<int64_t(int64_t b, int64_t s)> position;  // unused with a row a token
  int64_t rotary = 0;                                     // 0: whole heads
  bool interleaved = false;
};

// Rotates heads [batch, heads, length, dim].
Array rotated(const Array& x, const RotaryCall& call) {
  const int64_t length = x.shape[2], dim = x.shape[3];
  const int64_t half = call.cos->shape.back();
  const int64_t rotary = call.rotary > 0 ? call.rotary : dim;
  const bool by_token = call.cos->shape.size() == 3;
  if (call.cos->shape != call.sin->shape || rotary != 2 * half || rotary > dim) {
    fail("Cosines of shape {} and sines of shape {} do not rotate {} of {} dimensions.",
         to_string(call.cos->shape), to_string(call.sin->shape), rotary, dim);
  }
  const int64_t rows = half == 0 ? 0 : call.cos->size() / half;
  std::vector<float> out(x.floats().begin(), x.floats().end());
  for (int64_t r = 0; r < static_cast<int64_t>(out.size()) / std::max<int64_t>(1, dim); ++r) {
    const int64_t s = r % length, b = r / (length * x.shape[1]);
    int64_t row = by_token ? (call.cos->shape[0] == 1 ? 0 : b) * length + s : call.position(b, s);
    if (row < 0 || row >= rows) {
      fail("The position {} is outside tables of {} positions.", row, rows);
    }
    const float* cos = call.cos->floats().data() + row * half;
    const float* sin = call.sin->floats().data() + row * half;
    for (int64_t i = 0; i < half; ++i) {
      float& first = out[static_cast<size_t>(r * dim + (call.interleaved ? 2 * i : i))];
      float& second = out[static_cast<size_t>(r * dim + (call.interleaved ? 2 * i + 1 : i + half))];
      const double u = first, v = second;
      first = static_cast<float>(u * cos[i] - v * sin[i]);
      second = static_cast<float>(v * cos[i] + u * sin[i]);
    }
  }
  return Array::of(x.shape, std::move(out));
}

// One position a token, or the position of the first.
std::function<int64_t(int64_t, int64_t)> positions_of(const Array& ids, int64_t length) {
  return [&ids, length](int64_t b, int64_t s) {
    if (ids.size() == 1 && length != 1) return ids.ints()[0] + s;
    const int64_t rows = std::max<int64_t>(1, ids.size() / std::max<int64_t>(1, length));
    const auto at = static_cast<size_t>((b % rows) * length + s);
    if (at >= ids.ints().size()) {
      fail("Positions of shape {} do not fit {} tokens.", to_string(ids.shape), length);
    }
    return ids.ints()[at];
  };
}

// RotaryEmbedding of either domain: x is [batch, length, heads * dim] or [batch, heads, length,
// dim].
Outputs rotary_embedding(const OpCall& call, const Array* ids, const Array& cos, const Array& sin) {
  const Array& x = call.in(0);
  const Node& node = call.node;
  RotaryCall rotary{
      &cos, &sin, {}, node.get_int("rotary_embedding_dim", 0), node.get_int("interleaved", 0) != 0};
  if (x.shape.size() != 3 && x.shape.size() != 4) {
    fail("An array of shape {} is no sequence of heads.", to_string(x.shape));
  }
  const bool rows = x.shape.size() == 3;
  const int64_t length = rows ? x.shape[1] : x.shape[2];
  if (cos.shape.size() != 3 && ids == nullptr) fail("The positions are missing.");
  if (cos.shape.empty()) fail("The cosines are a scalar.");
  if (ids != nullptr) rotary.position = positions_of(*ids, length);
  if (!rows) return {rotated(x, rotary)};
  int64_t heads = node.get_int("num_heads", 0);
  if (heads <= 0 && rotary.rotary == 0 && cos.shape.back() > 0) {
    heads = x.shape[2] / (2 * cos.shape.back());
  }
  if (heads < 1 || x.shape[2] % heads != 0) {
    fail("Rows of {} do not divide into {} heads.", x.shape[2], heads);
  }
  return {merge_heads(rotated(split_heads(x, heads, x.shape[2] / heads, 0), rotary))};
}

Outputs op_rotary_embedding(const OpCall& call) {
  return rotary_embedding(call, call.optional(3), call.in(1), call.in(2));
}

Outputs op_rotary_embedding_microsoft(const OpCall& call) {
  if (call.node.get_int("is_packed_batching", 0) != 0) {
    fail("Packed batches (is_packed_batching) are not supported.");
  }
  const float scale = call.node.get_float("scale", 1);
  if (scale != 1) fail("A scale of {} is not supported.", scale);
  return rotary_embedding(call, &call.in(1), call.in(2), call.in(3));
}

// --- attention ---

struct HeadsCall {
  Array q, k, v;  // [batch, heads, length, dim]
  double scale = 1, softcap = 0;
  // Added to the score of token s and position t; kHidden hides it.
  std::function<double(int64_t b, int64_t h, int64_t s, int64_t t)> bias;
  // One more score, of no value, in each head's softmax.
  std::function<std::optional<double>(int64_t h)> sink = [](int64_t) { return std::nullopt; };
};

// One token of one head; rows whose every position is hidden give zeros.
void attend_row(const HeadsCall& a, int64_t b, int64_t h, int64_t s, float* out) {
  const int64_t heads = a.q.shape[1], kv_heads = a.k.shape[1], total = a.k.shape[2];
  const int64_t dim = a.q.shape[3], value_dim = a.v.shape[3];
  const int64_t kv = b * kv_heads + h * kv_heads / heads;
  const float* q = a.q.floats().data() + ((b * heads + h) * a.q.shape[2] + s) * dim;
  const float* k = a.k.floats().data() + kv * total * dim;
  const float* v = a.v.floats().data() + kv * total * value_dim;
  const std::optional<double> sink = a.sink(h);
  double largest = sink.value_or(kHidden), sum = 0;
  std::vector<double> weights(static_cast<size_t>(total));
  for (int64_t t = 0; t < total; ++t) {
    double score = 0;
    for (int64_t d = 0; d < dim; ++d) score += static_cast<double>(q[d]) * k[t * dim + d];
    score *= a.scale;
    if (a.softcap > 0) score = a.softcap * std::tanh(score / a.softcap);
    weights[static_cast<size_t>(t)] = score + a.bias(b, h, s, t);
    largest = std::max(largest, weights[static_cast<size_t>(t)]);
  }
  std::vector<double> mixed(static_cast<size_t>(value_dim), 0.0);
  if (largest > kHidden) {
    if (sink) sum = std::exp(*sink - largest);
    for (int64_t t = 0; t < total; ++t) {
      const double weight = std::exp(weights[static_cast<size_t>(t)] - largest);
      sum += weight;
      for (int64_t d = 0; d < value_dim; ++d) {
        mixed[static_cast<size_t>(d)] += weight * v[t * value_dim + d];
      }
    }
  }
  for (int64_t d = 0; d < value_dim; ++d) {
    out[d] = sum > 0 ? static_cast<float>(mixed[static_cast<size_t>(d)] / sum) : 0.0F;
  }
}

Array attend(const HeadsCall& a) {
  const Shape &q = a.q.shape, &k = a.k.shape, &v = a.v.shape;
  if (q.size() != 4 || k.size() != 4 || v.size() != 4 || k[0] != q[0] || v[0] != q[0] ||
      k[3] != q[3] || v[1] != k[1] || v[2] != k[2] || k[1] < 1 || q[1] % k[1] != 0) {
    fail("Queries of shape {}, keys of {} and values of {} do not fit each other.", to_string(q),
         to_string(k), to_string(v));
  }
  const Shape shape{q[0], q[1], q[2], v[3]};
  std::vector<float> out(static_cast<size_t>(array_size(shape)));
  spend(array_size({q[0], q[1], q[2], k[2]}) * std::max<int64_t>(1, q[3] + v[3]));
  float* to = out.data();
  for (int64_t b = 0; b < q[0]; ++b) {
    for (int64_t h = 0; h < q[1]; ++h) {
      for (int64_t s = 0; s < q[2]; ++s, to += v[3]) attend_row(a, b, h, s, to);
    }
  }
  return Array::of(shape, std::move(out));
}

// Element of a mask or bias that broadcasts to [batch, heads, length, total]; positions past its
// end are hidden.
double bias_at(const Array& mask, int64_t b, int64_t h, int64_t s, int64_t t) {
  const int64_t index[] = {b, h, s, t};
  int64_t at = 0;
  const size_t rank = mask.shape.size();
  if (rank > 4) fail("A mask of shape {} has more than four dimensions.", to_string(mask.shape));
  for (size_t d = 0; d < rank; ++d) {
    const int64_t i = mask.shape[d] == 1 ? 0 : index[4 - rank + d];
    if (d + 1 == rank && i >= mask.shape[d]) return kHidden;
    if (i >= mask.shape[d]) {
      fail("A mask of shape {} does not fit the scores.", to_string(mask.shape));
    }
    at = at * mask.shape[d] + i;
  }
  if (mask.kind == Array::Kind::f32) return mask.floats()[static_cast<size_t>(at)];
  return mask.ints()[static_cast<size_t>(at)] != 0 ? 0 : kHidden;
}

Array heads_of(const OpCall& call, size_t i, const char* attribute) {
  const Array& x = call.in(i);
  if (x.shape.size() == 4) return x;
  const int64_t heads = call.node.get_int(attribute, 0);
  if (x.shape.size() != 3 || heads < 1 || x.shape[2] % heads != 0) {
    fail("An array of shape {} does not divide into {} heads ({}).", to_string(x.shape), heads,
         attribute);
  }
  return split_heads(x, heads, x.shape[2] / heads, 0);
}

Outputs op_standard_attention(const OpCall& call) {
  const Node& node = call.node;
  HeadsCall a;
  a.q = heads_of(call, 0, "q_num_heads");
  const Array k = heads_of(call, 1, "kv_num_heads"), v = heads_of(call, 2, "kv_num_heads");
  a.k = append(call.optional(4), k);
  a.v = append(call.optional(5), v);
  const auto dim = static_cast<double>(a.q.shape[3]);
  a.scale = node.has("scale") ? static_cast<double>(node.get_float("scale")) : 1 / std::sqrt(dim);
  a.softcap = node.get_float("softcap", 0);
  const bool causal = node.get_int("is_causal", 0) != 0;
  const int64_t offset = a.k.shape[2] - a.q.shape[2];  // the mask ends at the last position
  const Array *mask = call.optional(3), *lengths = call.optional(6);
  if (lengths != nullptr && lengths->size() != a.q.shape[0]) {
    fail("Lengths of shape {} do not fit {} sequences.", to_string(lengths->shape), a.q.shape[0]);
  }
  a.bias = [&](int64_t b, int64_t h, int64_t s, int64_t t) {
    const int64_t valid =
        lengths != nullptr ? lengths->ints()[static_cast<size_t>(b)] : a.k.shape[2];
    const int64_t past = lengths != nullptr ? valid - a.q.shape[2] : offset;
    if (t >= valid || (causal && t > s + past)) return kHidden;
    return mask != nullptr ? bias_at(*mask, b, h, s, t) : 0.0;
  };
  Array out = attend(a);
  if (call.in(0).shape.size() == 3) out = merge_heads(out);
  return {out, a.k, a.v};
}

// --- GroupQueryAttention ---

struct GroupedHeads {
  int64_t heads = 0, kv_heads = 0, dim = 0;
};

GroupedHeads grouped_of(const OpCall& call) {
  GroupedHeads g{call.node.get_int("num_heads"), call.node.get_int("kv_num_heads"), 0};
  const Array& query = call.in(0);
  if (query.shape.size() != 3 || g.heads < 1 || g.kv_heads < 1 || g.heads > kMostHeads ||
      g.kv_heads > kMostHeads || g.heads % g.kv_heads != 0) {
    fail("Queries of shape {} do not fit {} heads that share {} key and value heads.",
         to_string(query.shape), g.heads, g.kv_heads);
  }
  const bool packed = call.optional(1) == nullptr;
  const int64_t share = packed ? g.heads + 2 * g.kv_heads : g.heads;
  if (query.shape[2] % share != 0) {
    fail("Rows of {} do not divide into {} heads.", query.shape[2], share);
  }
  g.dim = query.shape[2] / share;
  return g;
}

void refuse_unsupported(const OpCall& call) {
  for (const auto& [input, name] :
       {std::pair<size_t, const char*>{12, "k_scale"}, {13, "v_scale"}}) {
    if (call.node.input(input) != kNoValue) {
      fail("A quantized KV cache ({}) is not supported.", name);
    }
  }
  for (const char* name : {"k_quant_type", "v_quant_type"}) {
    const std::string type = call.node.get_string(name, "NONE");
    if (type != "NONE") fail("A quantized KV cache ({} = {}) is not supported.", name, type);
  }
  if (call.node.get_int("kv_cache_bit_width", 0) != 0) {
    fail("A quantized KV cache (kv_cache_bit_width) is not supported.");
  }
}

// RMSNorm of every head.
Array head_norm(const OpCall& call, size_t input, const Array& x) {
  const int64_t dim = x.shape[3];
  const float* weight = weight_floats(call, input, dim);
  if (weight == nullptr) return x;
  const double epsilon = call.node.get_float("qk_norm_epsilon", 1e-6F);
  std::vector<float> out(x.floats().begin(), x.floats().end());
  for (size_t base = 0; base < out.size(); base += static_cast<size_t>(dim)) {
    double squares = 0;
    for (int64_t d = 0; d < dim; ++d)
      squares += static_cast<double>(out[base + static_cast<size_t>(d)]) *
                 out[base + static_cast<size_t>(d)];
    const double inverse = 1 / std::sqrt(squares / static_cast<double>(dim) + epsilon);
    for (int64_t d = 0; d < dim; ++d) {
      float& value = out[base + static_cast<size_t>(d)];
      value = static_cast<float>(value * inverse * weight[d]);
    }
  }
  return Array::of(x.shape, std::move(out));
}

Outputs op_group_query_attention(const OpCall& call) {
  refuse_unsupported(call);
  const Node& node = call.node;
  const GroupedHeads g = grouped_of(call);
  const Array& query = call.in(0);
  const bool packed = call.optional(1) == nullptr;
  const Array& key = packed ? query : call.in(1);
  const Array& value = packed ? query : call.in(2);
  const int64_t key_column = packed ? g.heads * g.dim : 0;
  const int64_t value_column = packed ? (g.heads + g.kv_heads) * g.dim : 0;
  if (!packed &&
      (key.shape.size() != 3 || key.shape[2] != g.kv_heads * g.dim || value.shape != key.shape)) {
    fail("Keys of shape {} and values of shape {} do not fit {} heads of {}.", to_string(key.shape),
         to_string(value.shape), g.kv_heads, g.dim);
  }
  HeadsCall a;
  a.q = head_norm(call, 14, split_heads(query, g.heads, g.dim, 0));
  Array k = head_norm(call, 15, split_heads(key, g.kv_heads, g.dim, key_column));
  const Array v = split_heads(value, g.kv_heads, g.dim, value_column);
  const int64_t length = query.shape[1];
  const auto last = call.in(5).ints();  // of every sequence: its positions after this call, less 1
  if (static_cast<int64_t>(last.size()) < query.shape[0]) {
    fail("seqlens_k has {} lengths for {} sequences.", last.size(), query.shape[0]);
  }
  const Array* past = call.optional(3);
  const int64_t cached = past != nullptr ? past->shape.at(2) : 0;
  // Sequences of a first call begin at 0 and may be padded on the right.
  const auto first = [&](int64_t b) {
    return cached == 0 ? 0 : last[static_cast<size_t>(b)] + 1 - length;
  };
  if (node.get_int("do_rotary", 0) != 0) {
    RotaryCall rotary{&call.in(7),
                      &call.in(8),
                      {},
                      2 * call.in(7).shape.back(),
                      node.get_int("rotary_interleaved", 0) != 0};
    rotary.position = [&](int64_t b, int64_t s) { return first(b) + s; };
    if (const Array* ids = call.optional(9)) rotary.position = positions_of(*ids, length);
    a.q = rotated(a.q, rotary);
    k = rotated(k, rotary);
  }
  a.k = append(past, k);
  a.v = append(call.optional(4), v);
  const float scale = node.get_float("scale", 0);
  a.scale = scale != 0 ? scale : 1 / std::sqrt(static_cast<double>(g.dim));
  a.softcap = node.get_float("softcap", 0);
  const int64_t window = node.get_int("local_window_size", -1);
  const Array *bias = call.optional(10), *sinks = call.optional(11);
  a.bias = [&](int64_t b, int64_t h, int64_t s, int64_t t) {
    const int64_t here = cached + s, behind = here - t;
    if (behind < 0 || (window > 0 && behind >= window)) return kHidden;
    return bias != nullptr ? bias_at(*bias, b, h, s, t) : 0.0;
  };
  const bool smooth = node.get_int("smooth_softmax", 0) == 1;
  a.sink = [&](int64_t h) -> std::optional<double> {
    if (sinks != nullptr) return sinks->floats()[static_cast<size_t>(h % sinks->size())];
    return smooth ? std::optional<double>(0.0) : std::nullopt;
  };
  return {merge_heads(attend(a)), a.k, a.v};
}

constexpr OpEntry kStandardAttentionOps[] = {
    {"", "Attention", op_standard_attention},
    {"", "RotaryEmbedding", op_rotary_embedding},
    {kMicrosoftDomain, "RotaryEmbedding", op_rotary_embedding_microsoft},
    {kMicrosoftDomain, "GroupQueryAttention", op_group_query_attention},
};

}  // namespace

std::span<const OpEntry> standard_attention_ops() { return kStandardAttentionOps; }

}  // namespace nibble::graph
