#include "frontends/decoder/decoder_builder.h"

#include <fmt/format.h>

#include <algorithm>
#include <string_view>
#include <utility>

#include "frontends/decoder/weights.h"
#include "graph/ops.h"
#include "jit/error.h"

namespace nibble::frontends::decoder {
namespace {

using graph::Graph;
using graph::kNoValue;
using graph::ValueId;
using Attributes = std::map<std::string, graph::Attribute>;

constexpr int64_t kOpset = 17;  // of the ONNX operators among the nodes

class DecoderBuilder {
 public:
  DecoderBuilder(const Description& d, Checkpoint& checkpoint) : d_(d), weights_(d, checkpoint) {
    graph_.origin = checkpoint.path();
    graph_.opset = kOpset;
  }

  Graph build() {
    graph_.io.input_ids = graph_.add_value("input_ids", graph::DType::i64);
    graph_.values.back().shape = graph::Shape{-1, -1};
    graph_.inputs = {graph_.io.input_ids};
    graph_.io.layers.resize(static_cast<size_t>(d_.layers));
    add_rotation();
    ValueId x = embedding();
    if (!d_.names.embedding_norm.empty()) x = norm("embedding_norm", d_.names.embedding_norm, x);
    for (int64_t layer = 0; layer < d_.layers; ++layer) x = add_layer(layer, x);
    add_head(norm("final_norm", d_.names.final_norm, x));
    weights_.refuse_untaken();
    return std::move(graph_);
  }

 private:
  ValueId node(const char* op, std::string_view domain, const std::string& name,
               std::vector<ValueId> inputs, Attributes attributes = {}) {
    const ValueId out = graph_.add_value(name);
    while (inputs.size() > 1 && inputs.back() == kNoValue) inputs.pop_back();
    graph_.nodes.push_back(
        {op, std::string(domain), name, std::move(inputs), {out}, std::move(attributes)});
    return out;
  }

  ValueId fused(const char* op, const std::string& name, std::vector<ValueId> inputs,
                Attributes attributes = {}) {
    return node(op, graph::kNibbleDomain, name, std::move(inputs), std::move(attributes));
  }

  ValueId floats(const std::string& name, std::vector<float> values) {
    const auto count = static_cast<int64_t>(values.size());
    return graph_.add_constant(name, graph::make_f32({count}, std::move(values)));
  }

  ValueId scalar(const std::string& name, float value) {
    return graph_.add_constant(name, graph::make_f32({}, {value}));
  }

  void add_rotation() {
    if (d_.rotation.rotary > 0) inv_freq_ = floats("inv_freq", d_.rotation.inv_freq);
    if (d_.near_rotation.rotary > 0) {
      near_inv_freq_ = floats("near_inv_freq", d_.near_rotation.inv_freq);
    }
    if (!d_.slopes.empty()) slopes_ = floats("slopes", d_.slopes);
  }

  ValueId embedding() {
    table_ = graph_.add_constant(d_.names.embedding + ".weight",
                                 weights_.matrix(d_.names.embedding, d_.vocabulary, d_.hidden));
    Attributes attributes;
    if (d_.embedding_scale != 1) attributes["scale"] = d_.embedding_scale;
    ValueId positions = kNoValue;
    if (!d_.names.positions.empty()) {
      positions =
          graph_.add_constant(d_.names.positions + ".weight",
                              weights_.table(d_.names.positions, d_.position_rows, d_.hidden));
      attributes["position_offset"] = d_.position_offset;
    }
    return fused("Embedding", "embedding", {graph_.io.input_ids, table_, positions},
                 std::move(attributes));
  }

  // Of a norm.
  std::vector<float> factors(int64_t layer, const std::string& tensor, int64_t count) {
    std::vector<float> values = weights_.vector(layer, tensor, ".weight", count);
    if (d_.norm_adds_one) {
      for (float& value : values) value += 1.0F;
    }
    return values;
  }

  ValueId norm(const std::string& name, const std::string& tensor, ValueId x,
               int64_t layer = kOutside) {
    std::vector<float> weight(static_cast<size_t>(d_.hidden), 1.0F);
    if (d_.norm_weight) weight = factors(layer, tensor, d_.hidden);
    const ValueId gamma = floats(name + ".weight", std::move(weight));
    ValueId beta = kNoValue;
    if (d_.norm == Norm::layer && d_.norm_bias) {
      beta = floats(name + ".bias", weights_.vector(layer, tensor, ".bias", d_.hidden));
    }
    return fused(d_.norm == Norm::rms ? "RMSNorm" : "LayerNorm", name, {x, gamma, beta},
                 {{"epsilon", d_.epsilon}});
  }

  ValueId linear(const std::string& name, ValueId x, Projection projection,
                 ValueId residual = kNoValue, Attributes attributes = {}) {
    const ValueId weight = graph_.add_constant(name + ".weight", std::move(projection.weight));
    ValueId bias = kNoValue;
    if (!projection.bias.empty()) bias = floats(name + ".bias", std::move(projection.bias));
    return fused("Linear", name, {x, weight, bias, residual}, std::move(attributes));
  }

  // A value for each column of `heads` heads, from what a layer's norm of Q or K has of them.
  std::vector<float> of_columns(int64_t layer, const std::string& tensor, const char* suffix,
                                int64_t heads) {
    if (d_.qk_norm == QkNorm::rms_whole) return factors(layer, tensor, heads * d_.head_dim);
    if (d_.qk_norm == QkNorm::layer_stacked) {
      return weights_.rows(layer, tensor, suffix, heads, d_.head_dim);
    }
    std::vector<float> all;
    for (int64_t h = 0; h < heads; ++h) {
      const std::string name =
          d_.qk_norm == QkNorm::layer_numbered ? fmt::format("{}.{}", tensor, h) : tensor;
      const auto one = weights_.vector(layer, name, suffix, d_.head_dim);
      all.insert(all.end(), one.begin(), one.end());
    }
    return all;
  }

  // Norms of Q and K that Attention has no operands for.
  ValueId head_norm(int64_t layer, const std::string& prefix, ValueId qkv) {
    const auto operand = [&](const char* suffix) {
      std::vector<float> all = of_columns(layer, d_.names.q_norm, suffix, d_.heads);
      const auto keys = of_columns(layer, d_.names.k_norm, suffix, d_.kv_heads);
      all.insert(all.end(), keys.begin(), keys.end());
      return floats(prefix + "head_norm" + suffix, std::move(all));
    };
    std::vector<ValueId> inputs = {qkv, operand(".weight")};
    if (d_.qk_norm == QkNorm::layer_heads) inputs.push_back(operand(".bias"));
    return fused("HeadNorm", prefix + "head_norm", std::move(inputs),
                 {{"heads", d_.heads},
                  {"kv_heads", d_.kv_heads},
                  {"head_dim", d_.head_dim},
                  {"whole", int64_t{d_.qk_norm == QkNorm::rms_whole}},
                  {"centre", int64_t{d_.qk_norm != QkNorm::rms_whole}},
                  {"epsilon", d_.epsilon}});
  }

  ValueId attention(int64_t layer, const std::string& prefix, ValueId x) {
    ValueId qkv = linear(prefix + "qkv", x, weights_.qkv(layer));
    if (d_.qkv_clip > 0) {
      qkv = fused("Clip", prefix + "clip", {qkv}, {{"limit", d_.qkv_clip}});
    }
    const auto at = static_cast<size_t>(layer);
    int64_t window = 0;
    if (!d_.windows.empty()) window = d_.windows.size() > 1 ? d_.windows[at] : d_.windows[0];
    const bool near = window > 0 && d_.near_rotation.rotary > 0;
    const bool rotates = d_.unrotated.empty() || !d_.unrotated[at];
    const Rotation& rotation = near ? d_.near_rotation : d_.rotation;
    Attributes attributes = {{"layer", layer},
                             {"heads", d_.heads},
                             {"kv_heads", d_.kv_heads},
                             {"head_dim", d_.head_dim},
                             {"scale", d_.scales.size() > 1 ? d_.scales[at] : d_.scales[0]},
                             {"rotary", rotates ? rotation.rotary : 0},
                             {"interleaved", int64_t{rotation.interleaved}},
                             {"softcap", d_.score_cap},
                             {"window", window}};
    if (rotates && rotation.factor != 1) attributes["rope_scale"] = rotation.factor;
    ValueId inv_freq = near ? near_inv_freq_ : inv_freq_;
    if (!rotates) inv_freq = kNoValue;
    ValueId q_norm = kNoValue, k_norm = kNoValue;
    if (!d_.names.q_norm.empty()) {
      if (d_.qk_norm == QkNorm::rms_heads || d_.qk_norm == QkNorm::rms_heads_last) {
        q_norm = floats(prefix + "q_norm", factors(layer, d_.names.q_norm, d_.head_dim));
        k_norm = floats(prefix + "k_norm", factors(layer, d_.names.k_norm, d_.head_dim));
        attributes["norm_epsilon"] = d_.epsilon;
        if (d_.qk_norm == QkNorm::rms_heads_last) attributes["norm_last"] = int64_t{1};
      } else {
        qkv = head_norm(layer, prefix, qkv);
      }
    }
    return fused("Attention", prefix + "attention", {qkv, inv_freq, slopes_, q_norm, k_norm},
                 std::move(attributes));
  }

  // A projection back to the hidden size, added to the stream; normalised before where the family
  // has a norm there.
  ValueId add_to_stream(int64_t layer, const std::string& name, ValueId x, Projection projection,
                        const std::string& norm_after, ValueId stream) {
    if (d_.residual_scale != 1) {
      for (graph::MatrixPart& part : projection.weight.parts) part.factor *= d_.residual_scale;
      for (float& value : projection.bias) value *= d_.residual_scale;
    }
    if (norm_after.empty()) return linear(name, x, std::move(projection), stream);
    const ValueId y = linear(name, x, std::move(projection));
    const ValueId normed = norm(name + "_norm", norm_after, y, layer);
    return fused("Add", name + "_add", {stream, normed});
  }

  ValueId add_layer(int64_t layer, ValueId x) {
    const std::string prefix = fmt::format("layers.{}.", layer);
    const ValueId input = x;
    ValueId normed = x;
    if (!d_.names.attention_norm.empty()) {
      normed = norm(prefix + "attention_norm", d_.names.attention_norm, x, layer);
    }
    const ValueId attended = attention(layer, prefix, normed);
    x = add_to_stream(layer, prefix + "o", attended, weights_.o(layer), d_.names.after_attention,
                      x);
    ValueId mlp_input = d_.residual == Residual::parallel ? normed : x;
    if (!d_.names.mlp_norm.empty()) {
      const ValueId from = d_.residual == Residual::parallel ? input : x;
      mlp_input = norm(prefix + "mlp_norm", d_.names.mlp_norm, from, layer);
    }
    Attributes attributes = {{"activation", d_.activation}};
    if (d_.mlp_layout != MlpLayout::plain) {
      attributes["gate"] = int64_t{1};
      attributes["columns"] = d_.mlp;
    }
    const ValueId inner =
        linear(prefix + "up", mlp_input, weights_.up(layer), kNoValue, std::move(attributes));
    return add_to_stream(layer, prefix + "down", inner, weights_.down(layer), d_.names.after_mlp,
                         x);
  }

  void add_head(ValueId x) {
    std::vector<ValueId> inputs = {x, table_};
    if (!d_.tied) {
      inputs[1] = graph_.add_constant(d_.names.head + ".weight",
                                      weights_.matrix(d_.names.head, d_.vocabulary, d_.hidden));
    }
    if (d_.biases.head) {
      const auto bias = weights_.vector(kOutside, d_.names.head, ".bias", d_.vocabulary);
      inputs.push_back(floats(d_.names.head + ".bias", bias));
    }
    ValueId logits = fused("Linear", "lm_head", std::move(inputs));
    if (d_.logit_scale != 1) {
      logits = node("Mul", "", "logit_scale", {logits, scalar("logit_scale.by", d_.logit_scale)});
    }
    if (d_.logit_cap > 0) {
      const ValueId cap = scalar("logit_cap.by", d_.logit_cap);
      logits = node("Div", "", "logit_cap.div", {logits, cap});
      logits = node("Tanh", "", "logit_cap.tanh", {logits});
      logits = node("Mul", "", "logit_cap", {logits, cap});
    }
    graph_.values[static_cast<size_t>(logits)].name = "logits";
    graph_.io.logits = logits;
    graph_.outputs = {logits};
  }

  const Description& d_;
  Weights weights_;
  Graph graph_;
  ValueId inv_freq_ = kNoValue, near_inv_freq_ = kNoValue, slopes_ = kNoValue, table_ = kNoValue;
};

}  // namespace

Graph build_decoder(const Description& description, Checkpoint& checkpoint) {
  return DecoderBuilder(description, checkpoint).build();
}

}  // namespace nibble::frontends::decoder
