// Small graphs of fused operators with seeded weights, to calibrate without a model file.
#pragma once

#include <cmath>
#include <random>
#include <string>
#include <utility>
#include <vector>

#include "graph/interpreter.h"
#include "quant/blocks/node_forward.h"
#include "tests/graph/pass_fixture.h"

namespace nibble::test {

inline std::vector<float> normal_values(int64_t count, float deviation, uint32_t seed) {
  std::mt19937 random(seed);
  std::normal_distribution<float> normal(0.0F, deviation);
  std::vector<float> values(static_cast<size_t>(count));
  for (float& value : values) value = normal(random);
  return values;
}

// Adds fused operators to a GraphMaker's graph. Weights are drawn in the order of the calls.
class FusedMaker : public GraphMaker {
 public:
  using Attributes = std::map<std::string, graph::Attribute>;

  graph::ValueId fused(const std::string& op, const std::string& name,
                       std::vector<graph::ValueId> inputs, Attributes attributes = {}) {
    return node(op, name, std::move(inputs), std::move(attributes), "nibble");
  }
  graph::ValueId vector(const std::string& name, int64_t count, float mean, float deviation) {
    std::vector<float> values = normal_values(count, deviation, ++seed_);
    for (float& value : values) value += mean;
    return constant(name, {count}, std::move(values));
  }
  // [n][k], for outputs of about the variance of the inputs.
  graph::ValueId weight(const std::string& name, int64_t n, int64_t k) {
    const float deviation = 1 / std::sqrt(static_cast<float>(k));
    return graph.add_constant(
        name, graph::MatrixSource::whole(
                  graph::make_f32({n, k}, normal_values(n * k, deviation, ++seed_)), false));
  }
  graph::ValueId linear(const std::string& name, graph::ValueId x, int64_t n, int64_t k,
                        graph::ValueId bias = graph::kNoValue,
                        graph::ValueId residual = graph::kNoValue, Attributes attributes = {}) {
    return fused("Linear", name, {x, weight(name + ".weight", n, k), bias, residual},
                 std::move(attributes));
  }
  graph::ValueId rms_norm(const std::string& name, graph::ValueId x, int64_t width) {
    return fused("RMSNorm", name, {x, vector(name + ".weight", width, 1, 0.2F)},
                 {{"epsilon", 1e-5F}});
  }
  graph::ValueId table(int64_t vocabulary, int64_t width) {
    return fused("Embedding", "x", {graph.io.input_ids, weight("table", vocabulary, width)},
                 {{"scale", std::sqrt(static_cast<float>(width))}});
  }
  // Rotary attention of a head_dim of 8 with inv_freq.
  graph::ValueId attention(const std::string& name, graph::ValueId qkv, int64_t heads,
                           int64_t kv_heads) {
    return fused("Attention", name,
                 {qkv, constant(name + ".inv_freq", {4}, {1, 0.3F, 0.1F, 0.03F})},
                 {{"heads", heads},
                  {"kv_heads", kv_heads},
                  {"head_dim", int64_t{8}},
                  {"scale", 0.35355339F},
                  {"rotary", int64_t{8}}});
  }

 private:
  uint32_t seed_ = 0;
};

// A serial layer as Llama has it: grouped heads, RMSNorm, gated SiLU.
inline graph::ValueId input(FusedMaker& maker, const std::string& name) {
  const graph::ValueId id = maker.graph.add_value(name);
  maker.graph.inputs.push_back(id);
  return id;
}

inline graph::ValueId add_llama_layer(FusedMaker& maker, const std::string& name, graph::ValueId x,
                                      int64_t width, int64_t mlp) {
  const int64_t heads = width / 8, kv_heads = heads / 2;
  const graph::ValueId qkv = maker.linear(name + ".qkv", maker.rms_norm(name + ".norm1", x, width),
                                          (heads + 2 * kv_heads) * 8, width);
  x = maker.linear(name + ".o", maker.attention(name + ".attention", qkv, heads, kv_heads), width,
                   width, graph::kNoValue, x);
  const graph::ValueId gated =
      maker.linear(name + ".gate_up", maker.rms_norm(name + ".norm2", x, width), 2 * mlp, width,
                   graph::kNoValue, graph::kNoValue,
                   {{"activation", std::string("silu")}, {"gate", int64_t{1}}, {"columns", mlp}});
  return maker.linear(name + ".down", gated, width, mlp, graph::kNoValue, x);
}

inline graph::Graph llama_graph(int64_t layers, int64_t width, int64_t mlp, int64_t vocabulary) {
  FusedMaker maker;
  graph::ValueId x = maker.table(vocabulary, width);
  for (int64_t layer = 0; layer < layers; ++layer) {
    x = add_llama_layer(maker, "layers." + std::to_string(layer), x, width, mlp);
  }
  x = maker.linear("head", maker.rms_norm("norm", x, width), vocabulary, width);
  return maker.finish(x);
}

inline std::vector<int32_t> random_ids(int64_t count, int64_t vocabulary, uint32_t seed) {
  std::mt19937 random(seed);
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % static_cast<uint32_t>(vocabulary));
  return ids;
}

inline std::shared_ptr<const quant::Activation> activation(int64_t rows, int64_t width,
                                                           uint32_t seed, float deviation = 1) {
  return std::make_shared<const quant::Activation>(
      quant::Activation{width, normal_values(rows * width, deviation, seed)});
}

}  // namespace nibble::test
