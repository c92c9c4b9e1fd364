// Attention of graph/ops.h as ONNX operators, with the inputs and outputs that Hugging Face
// Optimum's decoders have: attention_mask [B, past + S], position_ids [B, S],
// past_key_values.N.key and .value [B, kv_heads, past, head_dim], present.N.key and .value. What
// layers have in common (masks, angles, distances) is written once. Private to export_graph.cpp.
#pragma once

#include <array>
#include <map>
#include <string>
#include <utility>
#include <vector>

#include "frontends/onnx/model_writer.h"
#include "graph/graph.h"

namespace nibble::frontends::onnx {

// Rows of Q, K and V heads, apart: [B, S, heads * head_dim] each.
using QkvParts = std::array<std::string, 3>;
// Those of a value of all of them, as an Attention or HeadNorm has it.
QkvParts split_qkv(ModelWriter& writer, const graph::Node& node, const std::string& qkv);

class AttentionWriter {
 public:
  AttentionWriter(const graph::Graph& graph, ModelWriter& writer)
      : graph_(graph), writer_(writer) {}

  // [B, S, heads * head_dim] of `node`. Adds the layer's cache to the model's inputs and outputs.
  std::string write(const graph::Node& node, const QkvParts& rows);

 private:
  struct Shape;  // of one attention: heads, kv_heads, ...
  struct Angles {
    std::string cos, sin;  // [B, 1, S, rotary / 2]
  };

  std::string heads_of(const Shape& a, const std::string& rows, int64_t heads,
                       const std::string& name);
  std::string normalised(const Shape& a, const std::string& x, size_t weight,
                         const std::string& name);
  std::string rotated(const Shape& a, const std::string& x, const std::string& name);
  std::string extended(const Shape& a, const std::string& x, const char* part);
  // By query groups: [B, heads, ...] becomes [B, kv_heads, heads / kv_heads, ...], where heads
  // share keys.
  std::string scores(const Shape& a, const std::string& q, const std::string& keys);

  const Angles& angles(const Shape& a);
  std::string positions();           // of the queries, [S, 1], counted from the start of the cache
  std::string distances();           // key less query, [S, past + S]
  std::string mask(int64_t window);  // 0 or the lowest float, [B, 1, S, past + S]
  std::string token_count(const char* input, int64_t axis);

  const graph::Graph& graph_;
  ModelWriter& writer_;
  std::map<std::pair<std::vector<float>, float>, Angles> angles_;  // by frequencies and factor
  std::map<int64_t, std::string> masks_;
  std::string positions_, keys_, distances_;
};

// x / sqrt(mean(x^2) + epsilon) * weight over the last axis, as most exporters spell it.
std::string write_rms_norm(ModelWriter& writer, const std::string& x, const std::string& weight,
                           float epsilon, const std::string& name);
// cap * tanh(x / cap)
std::string write_softcap(ModelWriter& writer, const std::string& x, float cap,
                          const std::string& name);

}  // namespace nibble::frontends::onnx
