#include "graph/model_shapes.h"

#include <fmt/format.h>
#include <fmt/ranges.h>

#include <cmath>

#include "graph/ops.h"
#include "jit/error.h"
#include "jit/packed_layout.h"

namespace nibble::graph {
namespace {

// From the models' published config.json files.
struct LlamaShape {
  const char* name;
  int64_t layers, hidden, mlp, heads, kv_heads, vocab, context;
  double rope_base;
};
constexpr LlamaShape kShapes[] = {
    {"llama2-7b", 32, 4096, 11008, 32, 32, 32000, 4096, 1e4},
    {"llama3-8b", 32, 4096, 14336, 32, 8, 128256, 8192, 5e5},
    {"tinyllama-1.1b", 22, 2048, 5632, 32, 4, 32000, 2048, 1e4},
};

class ShapeBuilder {
 public:
  explicit ShapeBuilder(const LlamaShape& shape) : shape_(shape) {
    graph_.origin = fmt::format("shape {}", shape.name);
    graph_.opset = 17;
    graph_.context_length = shape.context;
  }

  Graph build() {
    graph_.io.input_ids = graph_.add_value("input_ids", DType::i64);
    graph_.inputs = {graph_.io.input_ids};
    graph_.io.layers.resize(static_cast<size_t>(shape_.layers));
    ValueId x = node("Embedding", "embedding",
                     {graph_.io.input_ids, weight("embedding", shape_.vocab, shape_.hidden)});
    for (int64_t layer = 0; layer < shape_.layers; ++layer) x = add_layer(layer, x);
    x = norm("norm", x);
    graph_.io.logits = linear("lm_head", x, shape_.vocab, shape_.hidden);
    graph_.outputs = {graph_.io.logits};
    return std::move(graph_);
  }

 private:
  ValueId weight(const std::string& name, int64_t n, int64_t k) {
    MatrixSource source;
    source.n = n;
    source.k = k;
    return graph_.add_constant(name + ".weight", Constant(std::move(source)));
  }

  ValueId node(const char* op, const std::string& name, std::vector<ValueId> inputs,
               std::map<std::string, Attribute> attributes = {}) {
    const ValueId out = graph_.add_value(name);
    graph_.nodes.push_back(
        {op, std::string(kNibbleDomain), name, std::move(inputs), {out}, std::move(attributes)});
    return out;
  }

  ValueId norm(const std::string& name, ValueId x) {
    std::vector<float> ones(static_cast<size_t>(shape_.hidden), 1.0F);
    const ValueId gamma =
        graph_.add_constant(name + ".weight", make_f32({shape_.hidden}, std::move(ones)));
    return node("RMSNorm", name, {x, gamma}, {{"epsilon", 1e-5F}});
  }

  ValueId linear(const std::string& name, ValueId x, int64_t n, int64_t k,
                 ValueId residual = kNoValue, std::map<std::string, Attribute> attributes = {}) {
    std::vector<ValueId> inputs = {x, weight(name, n, k), kNoValue};
    if (residual != kNoValue) inputs.push_back(residual);
    return node("Linear", name, std::move(inputs), std::move(attributes));
  }

  ValueId add_layer(int64_t layer, ValueId x) {
    const std::string prefix = fmt::format("layers.{}.", layer);
    const int64_t head_dim = shape_.hidden / shape_.heads;
    const int64_t qkv_columns = (shape_.heads + 2 * shape_.kv_heads) * head_dim;
    const ValueId qkv =
        linear(prefix + "qkv", norm(prefix + "input_norm", x), qkv_columns, shape_.hidden);
    const ValueId attended =
        node("Attention", prefix + "attention", {qkv, frequencies(head_dim), kNoValue},
             {{"layer", layer},
              {"heads", shape_.heads},
              {"kv_heads", shape_.kv_heads},
              {"head_dim", head_dim},
              {"scale", static_cast<float>(1 / std::sqrt(static_cast<double>(head_dim)))},
              {"rotary", head_dim}});
    x = linear(prefix + "o", attended, shape_.hidden, shape_.hidden, x);
    const ValueId normed = norm(prefix + "post_norm", x);
    const ValueId gated = linear(
        prefix + "gate_up", normed, 2 * shape_.mlp, shape_.hidden, kNoValue,
        {{"activation", std::string("silu")}, {"gate", int64_t{1}}, {"columns", shape_.mlp}});
    return linear(prefix + "down", gated, shape_.hidden, shape_.mlp, x);
  }

  ValueId frequencies(int64_t head_dim) {
    if (frequencies_ != kNoValue) return frequencies_;
    std::vector<float> values;
    for (int64_t i = 0; i < head_dim / 2; ++i) {
      const double exponent = 2.0 * static_cast<double>(i) / static_cast<double>(head_dim);
      values.push_back(static_cast<float>(std::pow(shape_.rope_base, -exponent)));
    }
    frequencies_ = graph_.add_constant("inv_freq", make_f32({head_dim / 2}, std::move(values)));
    return frequencies_;
  }

  const LlamaShape& shape_;
  Graph graph_;
  ValueId frequencies_ = kNoValue;
};

}  // namespace

std::vector<std::string> shape_names() {
  std::vector<std::string> names;
  for (const LlamaShape& shape : kShapes) names.emplace_back(shape.name);
  return names;
}

Graph shape_graph(const std::string& name) {
  for (const LlamaShape& shape : kShapes) {
    if (name == shape.name) return ShapeBuilder(shape).build();
  }
  fail("Shape '{}' is not known. Known shapes: {}.", name, fmt::join(shape_names(), ", "));
}

}  // namespace nibble::graph
