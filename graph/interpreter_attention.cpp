// Attention of ops.h in double, position by position, as the papers write it. Inputs 5 and 6 and
// outputs 1 and 2, which ops.h does not list, are the cache before and after the call ([B,
// kv_heads, positions, head_dim], keys normalised and rotated): without them a call attends to
// itself alone.
#include <algorithm>
#include <cmath>
#include <limits>

#include "graph/interpreter_nibble.h"
#include "jit/error.h"

namespace nibble::graph {
namespace {

struct AttentionCall {
  int64_t batch = 0, length = 0, past = 0;
  int64_t heads = 0, kv_heads = 0, head_dim = 0, window = 0, rotary = 0;
  double scale = 1, softcap = 0, rope_scale = 1, norm_epsilon = 0;
  bool interleaved = false, norm_last = false;
  const float *inv_freq = nullptr, *slopes = nullptr, *q_norm = nullptr, *k_norm = nullptr;
  int64_t width() const { return (heads + 2 * kv_heads) * head_dim; }
  int64_t total() const { return past + length; }
};

const Array* past_array(const OpCall& call, size_t i, const AttentionCall& a) {
  const Array* past = call.optional(i);
  if (past == nullptr) return nullptr;
  const Shape& s = past->shape;
  if (s.size() != 4 || s[0] != a.batch || s[1] != a.kv_heads || s[3] != a.head_dim) {
    fail("A cache of shape {} does not fit {} sequences, {} heads of {}.", to_string(s), a.batch,
         a.kv_heads, a.head_dim);
  }
  return past;
}

AttentionCall read_attention_call(const OpCall& call) {
  const Node& node = call.node;
  const Array& qkv = call.in(0);
  AttentionCall a;
  a.heads = node.get_int("heads");
  a.kv_heads = node.get_int("kv_heads");
  a.head_dim = node.get_int("head_dim");
  constexpr int64_t kMost = 1 << 20;
  if (a.heads < 1 || a.kv_heads < 1 || a.head_dim < 1 || a.heads > kMost || a.head_dim > kMost ||
      a.heads % a.kv_heads != 0) {
    fail("{} heads of {} cannot share {} key and value heads.", a.heads, a.head_dim, a.kv_heads);
  }
  if (qkv.shape.size() != 3 || qkv.shape[2] != a.width()) {
    fail("Queries, keys and values of shape {} do not fit {} + 2 x {} heads of {}.",
         to_string(qkv.shape), a.heads, a.kv_heads, a.head_dim);
  }
  a.batch = qkv.shape[0], a.length = qkv.shape[1];
  a.scale = node.get_float("scale");
  a.window = node.get_int("window", 0);
  a.softcap = node.get_float("softcap", 0);
  a.rotary = node.get_int("rotary", 0);
  a.interleaved = node.get_int("interleaved", 0) != 0;
  a.rope_scale = node.get_float("rope_scale", 1);
  a.norm_epsilon = node.get_float("norm_epsilon", 0);
  a.norm_last = node.get_int("norm_last", 0) != 0;
  if (a.rotary < 0 || a.rotary > a.head_dim || a.rotary % 2 != 0 || a.window < 0) {
    fail("{} rotated dimensions of {} or a window of {} make no sense.", a.rotary, a.head_dim,
         a.window);
  }
  if (a.rotary > 0) {
    a.inv_freq = weight_floats(call, 1, a.rotary / 2);
    if (a.inv_freq == nullptr)
      fail("The frequencies of {} rotated dimensions are missing.", a.rotary);
  }
  a.slopes = weight_floats(call, 2, a.heads);
  a.q_norm = weight_floats(call, 3, a.head_dim);
  a.k_norm = weight_floats(call, 4, a.head_dim);
  const Array *keys = past_array(call, 5, a), *values = past_array(call, 6, a);
  if ((keys == nullptr) != (values == nullptr) ||
      (keys != nullptr && keys->shape != values->shape)) {
    fail("The caches of keys and values do not fit each other.");
  }
  if (keys != nullptr) a.past = keys->shape[2];
  return a;
}

void normalise(const AttentionCall& a, const float* weight, float* x) {
  double squares = 0;
  for (int64_t d = 0; d < a.head_dim; ++d) squares += static_cast<double>(x[d]) * x[d];
  const double inverse = 1 / std::sqrt(squares / static_cast<double>(a.head_dim) + a.norm_epsilon);
  for (int64_t d = 0; d < a.head_dim; ++d) x[d] = static_cast<float>(x[d] * inverse * weight[d]);
}

void rotate(const AttentionCall& a, int64_t position, float* x) {
  const int64_t half = a.rotary / 2;
  for (int64_t i = 0; i < half; ++i) {
    const double angle = static_cast<float>(position) * a.inv_freq[i];  // fp32, as models have it
    const double cos = std::cos(angle) * a.rope_scale, sin = std::sin(angle) * a.rope_scale;
    float& first = x[a.interleaved ? 2 * i : i];
    float& second = x[a.interleaved ? 2 * i + 1 : i + half];
    const double u = first, v = second;
    first = static_cast<float>(u * cos - v * sin);
    second = static_cast<float>(v * cos + u * sin);
  }
}

// One head row: the norm, if any, and the rotation.
void turn(const AttentionCall& a, const float* norm, int64_t position, float* x) {
  if (norm != nullptr && !a.norm_last) normalise(a, norm, x);
  if (a.rotary > 0) rotate(a, position, x);
  if (norm != nullptr && a.norm_last) normalise(a, norm, x);
}

// The cache after the call: the past, then this call's heads from column `first` of qkv on.
std::vector<float> extend(const AttentionCall& a, const float* qkv, const Array* past,
                          int64_t first, bool keys) {
  std::vector<float> out(
      static_cast<size_t>(array_size({a.batch, a.kv_heads, a.total(), a.head_dim})));
  for (int64_t b = 0; b < a.batch; ++b) {
    for (int64_t h = 0; h < a.kv_heads; ++h) {
      float* to = out.data() + (b * a.kv_heads + h) * a.total() * a.head_dim;
      if (past != nullptr) {
        const float* from = past->floats().data() + (b * a.kv_heads + h) * a.past * a.head_dim;
        to = std::copy(from, from + a.past * a.head_dim, to);
      }
      for (int64_t s = 0; s < a.length; ++s, to += a.head_dim) {
        const float* from = qkv + (b * a.length + s) * a.width() + first + h * a.head_dim;
        std::copy(from, from + a.head_dim, to);
        if (keys) turn(a, a.k_norm, a.past + s, to);
      }
    }
  }
  return out;
}

double score(const AttentionCall& a, const float* q, const float* key, int64_t head,
             int64_t distance) {
  double s = 0;
  for (int64_t d = 0; d < a.head_dim; ++d) s += static_cast<double>(q[d]) * key[d];
  s *= a.scale;
  if (a.softcap != 0) s = a.softcap * std::tanh(s / a.softcap);
  if (a.slopes != nullptr) s -= a.slopes[head] * static_cast<double>(distance);
  return s;
}

// One query row of one head over positions [low, high).
void attend(const AttentionCall& a, const float* q, const float* keys, const float* values,
            int64_t head, int64_t high, std::vector<double>& weights, float* out) {
  const int64_t low = a.window > 0 ? std::max<int64_t>(0, high - a.window) : 0;
  weights.resize(static_cast<size_t>(high - low));
  double top = -std::numeric_limits<double>::infinity(), sum = 0;
  for (int64_t t = low; t < high; ++t) {
    double& weight = weights[static_cast<size_t>(t - low)];
    weight = score(a, q, keys + t * a.head_dim, head, high - 1 - t);
    top = std::max(top, weight);
  }
  for (double& weight : weights) sum += weight = std::exp(weight - top);
  for (int64_t d = 0; d < a.head_dim; ++d) {
    double y = 0;
    for (int64_t t = low; t < high; ++t) {
      y += weights[static_cast<size_t>(t - low)] * values[t * a.head_dim + d];
    }
    out[d] = static_cast<float>(y / sum);
  }
}

}  // namespace

Outputs op_attention(const OpCall& call) {
  const AttentionCall a = read_attention_call(call);
  const float* qkv = call.in(0).floats().data();
  const int64_t k_first = a.heads * a.head_dim, v_first = k_first + a.kv_heads * a.head_dim;
  std::vector<float> keys = extend(a, qkv, call.optional(5), k_first, true);
  std::vector<float> values = extend(a, qkv, call.optional(6), v_first, false);
  Shape shape{a.batch, a.length, a.heads * a.head_dim};
  std::vector<float> out(static_cast<size_t>(array_size(shape)));
  std::vector<float> q(static_cast<size_t>(a.head_dim));
  std::vector<double> weights;
  for (int64_t b = 0; b < a.batch; ++b) {
    for (int64_t s = 0; s < a.length; ++s) {
      for (int64_t h = 0; h < a.heads; ++h) {
        const float* from = qkv + (b * a.length + s) * a.width() + h * a.head_dim;
        std::copy(from, from + a.head_dim, q.begin());
        turn(a, a.q_norm, a.past + s, q.data());
        const int64_t kv = (b * a.kv_heads + h / (a.heads / a.kv_heads)) * a.total() * a.head_dim;
        attend(a, q.data(), keys.data() + kv, values.data() + kv, h, a.past + s + 1, weights,
               out.data() + ((b * a.length + s) * a.heads + h) * a.head_dim);
      }
    }
  }
  const Shape cache{a.batch, a.kv_heads, a.total(), a.head_dim};
  return {Array::of(std::move(shape), std::move(out)), Array::of(cache, std::move(keys)),
          Array::of(cache, std::move(values))};
}

}  // namespace nibble::graph
