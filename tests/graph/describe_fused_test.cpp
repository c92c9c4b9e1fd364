#include "graph/describe_fused.h"

#include <gtest/gtest.h>

#include "graph/model_shapes.h"
#include "graph/ops.h"
#include "graph/rewrite.h"
#include "tests/graph/pass_fixture.h"

namespace nibble::test {
namespace {

using namespace graph;  // NOLINT(google-build-using-namespace)

TEST(LayersOfNodes, AreThoseOfTheNamesOfAShape) {
  const Graph graph = shape_graph("tinyllama-1.1b");  // names its nodes layers.N.*
  const std::vector<int64_t> layers = layers_of_nodes(graph);
  ASSERT_EQ(layers.size(), graph.nodes.size());
  for (size_t i = 0; i < layers.size(); ++i) {
    EXPECT_EQ(layers[i], layer_of_name(graph.nodes[i].name)) << graph.nodes[i].name;
  }
}

// Fused operators, named by letters.
class FusedMaker : public GraphMaker {
 public:
  ValueId fused(const std::string& op, const std::string& out, std::vector<ValueId> inputs,
                std::map<std::string, Attribute> attributes = {}) {
    return node(op, out, std::move(inputs), std::move(attributes), std::string(kNibbleDomain));
  }
  ValueId norm(const std::string& out, ValueId x) {
    return fused("LayerNorm", out, {x, weight_, kNoValue}, {{"epsilon", 1e-5F}});
  }
  ValueId linear(const std::string& out, ValueId x, ValueId residual = kNoValue,
                 std::map<std::string, Attribute> attributes = {}) {
    return fused("Linear", out, {x, matrix(out + "/w", 4, 4), kNoValue, residual},
                 std::move(attributes));
  }
  ValueId attention(const std::string& out, ValueId qkv, int64_t layer) {
    return fused("Attention", out, {qkv, kNoValue, kNoValue},
                 {{"layer", layer},
                  {"heads", int64_t{4}},
                  {"kv_heads", int64_t{2}},
                  {"head_dim", int64_t{16}},
                  {"window", int64_t{8}}});
  }
  std::map<std::string, int64_t> layers(ValueId logits) {
    graph.io.logits = logits;
    graph.outputs = {logits};
    const std::vector<int64_t> all = layers_of_nodes(graph);
    std::map<std::string, int64_t> out;
    for (size_t i = 0; i < all.size(); ++i) out[graph.nodes[i].name] = all[i];
    return out;
  }

 private:
  ValueId weight_ = constant("ones", {4}, {1, 1, 1, 1});
};

// Attention and MLP side by side, each with a norm of its own, whichever is added first; a norm
// after the embedding and one at the end.
TEST(LayersOfNodes, ParallelBranchesBelongToOneLayer) {
  for (const bool mlp_first : {true, false}) {
    FusedMaker m;
    ValueId x = m.norm("after_embedding", m.fused("Embedding", "e", {m.graph.io.input_ids}));
    std::map<std::string, int64_t> wanted = {{"e", -1}, {"after_embedding", -1}};
    for (int64_t layer = 0; layer < 3; ++layer) {
      const auto name = [&](std::string text) {
        text += std::string(1, static_cast<char>('a' + layer));
        wanted[text] = layer;
        return text;
      };
      const ValueId qkv = m.linear(name("qkv"), m.norm(name("norm"), x));
      const ValueId up = m.linear(name("up"), m.norm(name("mlp_norm"), x));
      const ValueId attended = m.attention(name("attention"), qkv, layer);
      if (mlp_first) {
        x = m.linear(name("o"), attended, m.linear(name("down"), up, x));
      } else {
        x = m.linear(name("down"), up, m.linear(name("o"), attended, x));
      }
    }
    wanted["last_norm"] = wanted["head"] = -1;
    EXPECT_EQ(m.layers(m.linear("head", m.norm("last_norm", x))), wanted) << mlp_first;
  }
}

// Norms after the branches, added by an operator of its own, and no MLP in the last layer.
TEST(LayersOfNodes, NormsAfterABranchBelongToIt) {
  FusedMaker m;
  ValueId x = m.fused("Embedding", "e", {m.graph.io.input_ids});
  for (const std::string layer : {"a", "b"}) {
    const int64_t number = layer == "a" ? 0 : 1;
    const ValueId attended = m.attention(
        "attention_" + layer, m.linear("qkv_" + layer, m.norm("norm_" + layer, x)), number);
    x = m.fused("Add", "sum_" + layer,
                {x, m.norm("after_" + layer, m.linear("o_" + layer, attended))});
    if (number == 1) continue;
    const ValueId up = m.linear("up_a", m.norm("mlp_norm_a", x));
    x = m.fused("Add", "mlp_sum_a", {x, m.norm("mlp_after_a", m.linear("down_a", up))});
  }
  for (const auto& [name, layer] : m.layers(m.linear("head", m.norm("last_norm", x)))) {
    const int64_t wanted = name.ends_with("_a") ? 0 : name.ends_with("_b") ? 1 : -1;
    EXPECT_EQ(layer, wanted) << name;
  }
}

TEST(DescribeFused, SaysWhatEachOperatorIs) {
  FusedMaker m;
  const ValueId positions = m.matrix("positions", 9, 4);
  const ValueId x =
      m.fused("Embedding", "e", {m.graph.io.input_ids, m.matrix("table", 8, 4), positions},
              {{"scale", 2.0F}});
  const ValueId o =
      m.linear("o", m.attention("attention", m.linear("qkv", m.norm("norm", x)), 0), x);
  const ValueId up =
      m.linear("up", o, kNoValue, {{"activation", std::string("silu")}, {"gate", int64_t{1}}});
  m.layers(m.fused("LogitScale", "logits", {m.linear("head", m.linear("down", up, o))},
                   {{"softcap", 30.0F}}));
  std::vector<std::string> found;
  for (const FusionEntry& entry : describe_fused(m.graph)) {
    EXPECT_TRUE(entry.fused);
    found.push_back(std::to_string(entry.layer) + " " + entry.what + ": " + entry.detail + " (" +
                    entry.node + ")");
  }
  EXPECT_EQ(found, (std::vector<std::string>{
                       "-1 embedding: tokens and learned positions, times 2 (e)",
                       "0 norm: LayerNorm (norm)", "0 qkv: in one matmul (qkv)",
                       "0 attention: 4 heads of 16, 2 KV heads, window 8 (attention)",
                       "0 residual: added by the matmul before it (o)",
                       "0 mlp: silu gate and up in one matmul (up)",
                       "0 residual: added by the matmul before it (down)",
                       "-1 logits: softcap 30 (logits)"}));
}

}  // namespace
}  // namespace nibble::test
