// One layer of attention as whole operators, in every variant that the fused operator has: fused
// and compiled it computes what the operators themselves do, which their own tests hold to values
// worked out by hand.
#include <cmath>
#include <functional>

#include "graph/interpreted_decoder.h"
#include "graph/ops.h"
#include "tests/frontends/onnx_fixture.h"
#include "tests/support/fused_model.h"
#include "tests/support/zoo.h"

namespace nibble::test {
namespace {

constexpr int64_t kVocab = 24, kWidth = 32, kDim = 16, kContext = 48;

struct Variant {
  const char* name = "";
  bool standard = false;  // Attention and RotaryEmbedding of opset 23
  bool packed = true;
  int64_t heads = 4, kv_heads = 2, rotary = kDim;  // rotary 0: none
  int64_t window = -1;
  float softcap = 0, scale = 0;
  bool interleaved = false, bias = false, norms = false, sink = false;
};

WireMessage matrix(const std::string& name, int64_t rows, int64_t columns, float amplitude = 0.4F) {
  using Sides = std::vector<int64_t>;
  return onnx_waves(name, rows > 1 ? Sides{rows, columns} : Sides{columns}, amplitude);
}

class Builder {
 public:
  explicit Builder(const Variant& v) : v_(v) {}

  OnnxModel build() {
    model_.opsets = {{"", 23}, {"com.microsoft", 1}};
    inputs();
    tables();
    model_.initializers.push_back(matrix("table", kVocab, kWidth, 1));
    model_.nodes.push_back(
        onnx_node("Gather", {"table", "input_ids"}, {"x"}, {onnx_int("axis", 0)}));
    lengths();
    if (v_.standard) {
      standard();
    } else {
      grouped();
    }
    finish();
    return std::move(model_);
  }

 private:
  void add(WireMessage node) { model_.nodes.push_back(std::move(node)); }

  void inputs() {
    const std::vector<int64_t> cache = {-1, v_.kv_heads, -1, v_.standard ? -1 : kDim};
    model_.inputs = {onnx_value("input_ids", kOnnxInt64, {-1, -1}),
                     onnx_value("attention_mask", kOnnxInt64, {-1, -1}),
                     onnx_value("position_ids", kOnnxInt64, {-1, -1}),
                     onnx_value("past_key_values.0.key", kOnnxFloat, cache),
                     onnx_value("past_key_values.0.value", kOnnxFloat, cache)};
    model_.outputs = {onnx_value("logits", kOnnxFloat, {-1, -1, kVocab}),
                      onnx_value("present.0.key", kOnnxFloat, cache),
                      onnx_value("present.0.value", kOnnxFloat, cache)};
  }

  void tables() {
    const int64_t half = v_.rotary / 2;
    std::vector<float> cos, sin;
    for (int64_t p = 0; p < kContext; ++p) {
      for (int64_t i = 0; i < half; ++i) {
        const double frequency =
            std::pow(10000.0, -static_cast<double>(i) / static_cast<double>(half));
        cos.push_back(static_cast<float>(std::cos(frequency * static_cast<double>(p))));
        sin.push_back(static_cast<float>(std::sin(frequency * static_cast<double>(p))));
      }
    }
    if (half == 0) return;
    model_.initializers.push_back(onnx_floats("cos", {kContext, half}, cos));
    model_.initializers.push_back(onnx_floats("sin", {kContext, half}, sin));
  }

  void lengths() {
    model_.initializers.push_back(onnx_integers("one", {1}, {1}));
    add(onnx_node("ReduceSum", {"attention_mask", "one"}, {"sum"}, {onnx_int("keepdims", 0)}));
    add(onnx_node("Sub", {"sum", "one"}, {"seqlens_k"}));
    add(onnx_node("Shape", {"attention_mask"}, {"shape"}));
    add(onnx_node("Gather", {"shape", "one"}, {"total"}, {onnx_int("axis", 0)}));
  }

  std::string projected(const std::string& name, int64_t columns) {
    model_.initializers.push_back(matrix("w" + name, kWidth, columns));
    add(onnx_node("MatMul", {"x", "w" + name}, {name}));
    if (!v_.bias) return name;
    model_.initializers.push_back(matrix("b" + name, 1, columns));
    add(onnx_node("Add", {name, "b" + name}, {name + "_biased"}));
    return name + "_biased";
  }

  void grouped() {
    std::vector<std::string> operands;
    if (v_.packed) {
      operands = {projected("qkv", (v_.heads + 2 * v_.kv_heads) * kDim), "", ""};
    } else {
      operands = {projected("q", v_.heads * kDim), projected("k", v_.kv_heads * kDim),
                  projected("v", v_.kv_heads * kDim)};
    }
    for (const char* name :
         {"past_key_values.0.key", "past_key_values.0.value", "seqlens_k", "total"}) {
      operands.emplace_back(name);
    }
    operands.insert(operands.end(), {v_.rotary > 0 ? "cos" : "", v_.rotary > 0 ? "sin" : ""});
    if (v_.norms) {
      operands.resize(14);
      model_.initializers.push_back(matrix("q_norm", 1, kDim, 1.5F));
      model_.initializers.push_back(matrix("k_norm", 1, kDim, 1.5F));
      operands.insert(operands.end(), {"q_norm", "k_norm"});
    }
    if (v_.sink) {
      operands.resize(11);
      model_.initializers.push_back(matrix("sink", 1, v_.heads));
      operands.emplace_back("sink");
    }
    std::vector<WireMessage> attributes = {onnx_int("num_heads", v_.heads),
                                           onnx_int("kv_num_heads", v_.kv_heads),
                                           onnx_int("do_rotary", v_.rotary > 0 ? 1 : 0),
                                           onnx_int("rotary_interleaved", v_.interleaved ? 1 : 0),
                                           onnx_int("local_window_size", v_.window)};
    if (v_.softcap > 0) attributes.push_back(onnx_real("softcap", v_.softcap));
    if (v_.scale > 0) attributes.push_back(onnx_real("scale", v_.scale));
    add(onnx_node("GroupQueryAttention", operands, {"mixed", "present.0.key", "present.0.value"},
                  attributes, "com.microsoft"));
  }

  std::string turned(const std::string& name, int64_t heads) {
    if (v_.rotary == 0) return name;
    add(onnx_node("RotaryEmbedding", {name, "cos", "sin", "position_ids"}, {name + "_turned"},
                  {onnx_int("num_heads", heads), onnx_int("interleaved", v_.interleaved ? 1 : 0),
                   onnx_int("rotary_embedding_dim", v_.rotary)}));
    return name + "_turned";
  }

  void standard() {
    const std::string q = turned(projected("q", v_.heads * kDim), v_.heads);
    const std::string k = turned(projected("k", v_.kv_heads * kDim), v_.kv_heads);
    const std::string v = projected("v", v_.kv_heads * kDim);
    std::vector<WireMessage> attributes = {onnx_int("q_num_heads", v_.heads),
                                           onnx_int("kv_num_heads", v_.kv_heads),
                                           onnx_int("is_causal", 1)};
    if (v_.softcap > 0) attributes.push_back(onnx_real("softcap", v_.softcap));
    if (v_.scale > 0) attributes.push_back(onnx_real("scale", v_.scale));
    add(onnx_node("Attention", {q, k, v, "", "past_key_values.0.key", "past_key_values.0.value"},
                  {"mixed", "present.0.key", "present.0.value"}, attributes));
  }

  // The output projection, a residual with a norm, and the head with a softcap.
  void finish() {
    model_.initializers.push_back(matrix("wo", v_.heads * kDim, kWidth));
    model_.initializers.push_back(matrix("gamma", 1, kWidth, 1.5F));
    model_.initializers.push_back(matrix("bo", 1, kWidth));
    model_.initializers.push_back(matrix("head", kWidth, kVocab));
    model_.initializers.push_back(onnx_floats("cap", {}, {3}));
    add(onnx_node("MatMul", {"mixed", "wo"}, {"out"}));
    add(onnx_node("SkipSimplifiedLayerNormalization", {"x", "out", "gamma", "bo"},
                  {"normed", "", "", "sum_out"}, {onnx_real("epsilon", 1e-5F)}, "com.microsoft"));
    add(onnx_node("MatMul", {"normed", "head"}, {"raw"}));
    add(onnx_node("Div", {"raw", "cap"}, {"divided"}));
    add(onnx_node("Tanh", {"divided"}, {"bent"}));
    add(onnx_node("Mul", {"bent", "cap"}, {"logits"}));
  }

  Variant v_;
  OnnxModel model_;
};

std::vector<Variant> variants() {
  return {{.name = "packed"},
          {.name = "separate", .packed = false},
          {.name = "one_kv_head", .kv_heads = 1},
          {.name = "as_many_kv_heads", .kv_heads = 4},
          {.name = "partial", .rotary = 8},
          {.name = "interleaved", .rotary = 8, .interleaved = true},
          {.name = "no_rotation", .rotary = 0},
          {.name = "window", .window = 5},
          {.name = "softcap", .softcap = 1.5F},
          {.name = "scale", .scale = 0.7F},
          {.name = "bias", .bias = true},
          {.name = "norms", .packed = false, .norms = true},
          {.name = "packed_norms", .norms = true},
          {.name = "standard", .standard = true},
          {.name = "standard_partial", .standard = true, .rotary = 8, .interleaved = true},
          {.name = "standard_softcap", .standard = true, .softcap = 1.5F, .scale = 0.7F}};
}

class OnnxAttentionForms : public OnnxTest, public testing::WithParamInterface<Variant> {};

TEST_P(OnnxAttentionForms, FusedEqualsTheOperator) {
  const std::string path = write(Builder(GetParam()).build());
  graph::InterpretedDecoder operators(
      std::make_shared<const graph::Graph>(frontends::load_onnx(path)), kContext);
  const auto wanted = all_logits(operators, kSomeIds);
  FusedOptions options;
  graph::FusionReport report;
  const graph::Graph graph = fused_graph(path, options, &report);
  ASSERT_TRUE(report.complete()) << graph::to_text(graph);
  const auto found = logits_of_two_passes(*session_of(graph, options), kSomeIds, 6);
  EXPECT_LE(max_abs_difference(found, wanted), 1e-5F * max_abs(wanted));
}

TEST_P(OnnxAttentionForms, TheOperatorsCacheContinues) {
  const std::string path = write(Builder(GetParam()).build());
  graph::InterpretedDecoder operators(
      std::make_shared<const graph::Graph>(frontends::load_onnx(path)), kContext);
  const auto wanted = all_logits(operators, kSomeIds);
  operators.reset();
  std::vector<float> found;
  for (const int32_t id : kSomeIds) {
    const auto logits = operators.forward(std::span(&id, 1));
    found.insert(found.end(), logits.begin(), logits.end());
  }
  EXPECT_LE(max_abs_difference(found, wanted), 1e-5F * max_abs(wanted));
}

INSTANTIATE_TEST_SUITE_P(Variants, OnnxAttentionForms, testing::ValuesIn(variants()),
                         [](const auto& info) { return std::string(info.param.name); });

using OnnxAttentionLeft = OnnxTest;

// Sinks have no fused operator: the model runs all the same, and the report says why.
TEST_F(OnnxAttentionLeft, SinksRunAsTheyAre) {
  const std::string path = write(Builder({.name = "sink", .sink = true}).build());
  graph::Graph graph = frontends::load_onnx(path);
  graph::InterpretedDecoder operators(std::make_shared<const graph::Graph>(graph), kContext);
  const auto wanted = all_logits(operators, kSomeIds);
  const graph::FusionReport report = graph::fuse(graph);
  EXPECT_FALSE(report.complete());
  bool told = false;
  for (const auto& entry : report.entries) {
    told = told || entry.detail.find("head_sink") != std::string::npos;
  }
  EXPECT_TRUE(told);
  graph::InterpretedDecoder fused(std::make_shared<const graph::Graph>(graph), kContext);
  EXPECT_LE(max_abs_difference(all_logits(fused, kSomeIds), wanted), 1e-5F * max_abs(wanted));
}

}  // namespace
}  // namespace nibble::test
