// One layer whose Q and K are normalised, or whose Q, K and V are clipped, in the ways of
// exporters: fused in full, computing what the operators do, and again when it was exported and
// read back.
#include <cmath>
#include <functional>

#include "frontends/onnx/export_onnx.h"
#include "graph/interpreted_decoder.h"
#include "tests/frontends/onnx_fixture.h"
#include "tests/support/fused_model.h"
#include "tests/support/zoo.h"

namespace nibble::test {
namespace {

constexpr int64_t kNormVocab = 24, kNormWidth = 32, kNormDim = 8, kNormHeads = 4, kNormKvHeads = 2,
                  kNormContext = 48;

enum class Norm {
  none,
  whole,       // RMSNorm of all columns (OLMo 2)
  heads,       // RMSNorm of heads (Qwen 3)
  heads_last,  // the same behind the rotation (Hunyuan)
  layer,       // LayerNorm of heads, with a bias (Persimmon)
  by_head,     // LayerNorm of heads, factors of their own (Command-R)
  one_a_head,  // a LayerNorm node a head (StableLM 2 12B)
};

struct NormVariant {
  const char* name = "";
  Norm norm = Norm::none;
  const char* clip = "";  // the operator: Clip, or Min for Min and Max
  bool clip_behind_norm = false;
  const char* fused = "";  // the operator that it becomes, beside or within the attention
};

class NormBuilder {
 public:
  explicit NormBuilder(const NormVariant& v) : v_(v) {}

  OnnxModel build() {
    model_.opsets = {{"", 23}};
    signature();
    tables();
    weight("table", {kNormVocab, kNormWidth}, 1);
    add("Gather", {"table", "input_ids"}, "x", {onnx_int("axis", 0)});
    const std::string q = heads("q", kNormHeads), k = heads("k", kNormKvHeads);
    const std::string v =
        transposed(split_heads(clipped(projected("v", kNormKvHeads), false), kNormKvHeads));
    model_.nodes.push_back(
        onnx_node("Attention", {q, k, v, "", "past_key_values.0.key", "past_key_values.0.value"},
                  {"mixed", "present.0.key", "present.0.value"}, {onnx_int("is_causal", 1)}));
    add("Transpose", {"mixed"}, "tokens", {onnx_ints("perm", {0, 2, 1, 3})});
    list("flat", {0, 0, kNormHeads * kNormDim});
    add("Reshape", {"tokens", "flat"}, "rows");
    weight("wo", {kNormHeads * kNormDim, kNormWidth});
    add("MatMul", {"rows", "wo"}, "out");
    add("Add", {"x", "out"}, "sum");
    weight("head", {kNormWidth, kNormVocab});
    add("MatMul", {"sum", "head"}, "logits");
    return std::move(model_);
  }

 private:
  std::string add(const char* op, const std::vector<std::string>& inputs, const std::string& out,
                  const std::vector<WireMessage>& attributes = {}) {
    model_.nodes.push_back(onnx_node(op, inputs, {out}, attributes));
    return out;
  }
  void list(const std::string& name, const std::vector<int64_t>& values) {
    model_.initializers.push_back(
        onnx_integers(name, {static_cast<int64_t>(values.size())}, values));
  }
  std::string weight(const std::string& name, const std::vector<int64_t>& shape,
                     float amplitude = 0.4F, float middle = 0) {
    model_.initializers.push_back(onnx_waves(name, shape, amplitude, middle));
    return name;
  }

  void signature() {
    const std::vector<int64_t> cache = {-1, kNormKvHeads, -1, kNormDim};
    model_.inputs = {onnx_value("input_ids", kOnnxInt64, {-1, -1}),
                     onnx_value("position_ids", kOnnxInt64, {-1, -1}),
                     onnx_value("past_key_values.0.key", kOnnxFloat, cache),
                     onnx_value("past_key_values.0.value", kOnnxFloat, cache)};
    model_.outputs = {onnx_value("logits", kOnnxFloat, {-1, -1, kNormVocab}),
                      onnx_value("present.0.key", kOnnxFloat, cache),
                      onnx_value("present.0.value", kOnnxFloat, cache)};
  }

  void tables() {
    std::vector<float> cos, sin;
    for (int64_t p = 0; p < kNormContext; ++p) {
      for (int64_t i = 0; i < kNormDim / 2; ++i) {
        const double angle =
            static_cast<double>(p) * std::pow(100.0, -2.0 * static_cast<double>(i) / kNormDim);
        cos.push_back(static_cast<float>(std::cos(angle)));
        sin.push_back(static_cast<float>(std::sin(angle)));
      }
    }
    model_.initializers.push_back(onnx_floats("cos", {kNormContext, kNormDim / 2}, cos));
    model_.initializers.push_back(onnx_floats("sin", {kNormContext, kNormDim / 2}, sin));
    model_.initializers.push_back(onnx_floats("limit", {}, {0.5F}));
    model_.initializers.push_back(onnx_floats("low", {}, {-0.5F}));
  }

  std::string projected(const std::string& name, int64_t heads) {
    weight("w" + name, {kNormWidth, heads * kNormDim});
    return add("MatMul", {"x", "w" + name}, name);
  }

  std::string clipped(const std::string& x, bool behind) {
    if (*v_.clip == 0 ||
        (v_.norm != Norm::none && !x.starts_with("v") && behind != v_.clip_behind_norm)) {
      return x;
    }
    if (std::string(v_.clip) == "Clip") return add("Clip", {x, "low", "limit"}, x + "_clipped");
    return add("Max", {add("Min", {"limit", x}, x + "_min"), "low"}, x + "_clipped");
  }

  std::string split_heads(const std::string& x, int64_t heads) {
    list(x + "_shape", {0, 0, heads, kNormDim});
    return add("Reshape", {x, x + "_shape"}, x + "_heads");
  }
  std::string transposed(const std::string& x) {
    return add("Transpose", {x}, x + "_turned", {onnx_ints("perm", {0, 2, 1, 3})});
  }

  std::string norm(const char* op, const std::string& x, std::vector<std::string> factors) {
    factors.insert(factors.begin(), x);
    return add(op, factors, x + "_norm", {onnx_int("axis", -1), onnx_real("epsilon", 1e-3F)});
  }
  std::string rms(const std::string& x, int64_t width) {
    return norm("RMSNormalization", x, {weight(x + "_gamma", {width}, 0.5F, 1)});
  }

  // [B, heads, S, head_dim], normalised, clipped and rotated.
  std::string heads(const std::string& name, int64_t heads) {
    std::string x = clipped(projected(name, heads), false);
    if (v_.norm == Norm::whole) x = clipped(rms(x, heads * kNormDim), true);
    x = split_heads(x, heads);
    if (v_.norm == Norm::heads) x = rms(x, kNormDim);
    if (v_.norm == Norm::layer) {
      x = norm("LayerNormalization", x,
               {weight(x + "_gamma", {kNormDim}, 0.5F, 1), weight(x + "_beta", {kNormDim})});
    }
    if (v_.norm == Norm::by_head) x = spelled_out(x, heads);
    x = transposed(x);
    if (v_.norm == Norm::one_a_head) x = one_by_one(x, heads);
    x = add("RotaryEmbedding", {x, "cos", "sin", "position_ids"}, x + "_rotated");
    return v_.norm == Norm::heads_last ? rms(x, kNormDim) : x;
  }

  // The chain of operators, and factors [heads, head_dim].
  std::string spelled_out(const std::string& x, int64_t heads) {
    list(x + "_axes", {-1});
    model_.initializers.push_back(onnx_floats(x + "_two", {}, {2}));
    model_.initializers.push_back(onnx_floats(x + "_eps", {}, {1e-3F}));
    add("ReduceMean", {x, x + "_axes"}, x + "_mean");
    add("Sub", {x, x + "_mean"}, x + "_centred");
    add("Pow", {x + "_centred", x + "_two"}, x + "_square");
    add("ReduceMean", {x + "_square", x + "_axes"}, x + "_variance");
    add("Add", {x + "_variance", x + "_eps"}, x + "_above");
    add("Sqrt", {x + "_above"}, x + "_root");
    add("Div", {x + "_centred", x + "_root"}, x + "_unit");
    return add("Mul", {x + "_unit", weight(x + "_gamma", {heads, kNormDim}, 0.5F, 1)},
               x + "_scaled");
  }

  std::string one_by_one(const std::string& x, int64_t heads) {
    std::vector<std::string> parts, normed;
    for (int64_t h = 0; h < heads; ++h) parts.push_back(x + "_part" + std::to_string(h));
    model_.nodes.push_back(
        onnx_node("Split", {x}, parts, {onnx_int("axis", 1), onnx_int("num_outputs", heads)}));
    for (const std::string& part : parts) {
      normed.push_back(
          norm("LayerNormalization", part, {weight(part + "_gamma", {kNormDim}, 0.5F, 1)}));
    }
    return add("Concat", normed, x + "_whole", {onnx_int("axis", 1)});
  }

  NormVariant v_;
  OnnxModel model_;
};

class OnnxQkNorms : public OnnxTest, public testing::WithParamInterface<NormVariant> {};

std::vector<float> compiled(const graph::Graph& graph, const FusedOptions& options) {
  return logits_of_two_passes(*session_of(graph, options), kSomeIds, 6);
}

TEST_P(OnnxQkNorms, FuseAndComputeAsTheOperators) {
  folder_.write("config.json", R"({"max_position_embeddings": 48})");
  const std::string path = write(NormBuilder(GetParam()).build());
  graph::InterpretedDecoder operators(
      std::make_shared<const graph::Graph>(frontends::load_onnx(path)), kNormContext);
  const auto wanted = all_logits(operators, kSomeIds);

  FusedOptions options;
  options.compute = graph::Compute::f32;
  graph::FusionReport report;
  const graph::Graph graph = fused_graph(path, options, &report);
  ASSERT_TRUE(report.complete()) << graph::to_text(graph);
  const bool there = std::any_of(graph.nodes.begin(), graph.nodes.end(), [](const auto& node) {
    return node.op == GetParam().fused || node.has(GetParam().fused);
  });
  EXPECT_TRUE(there) << graph::to_text(graph);
  const auto found = compiled(graph, options);
  EXPECT_LE(max_abs_difference(found, wanted), 1e-5F * max_abs(wanted));

  const std::string folder = folder_.path("exported");
  frontends::write_onnx(graph, folder);
  graph::FusionReport again;
  const graph::Graph back = fused_graph(folder + "/model.onnx", options, &again);
  ASSERT_TRUE(again.complete()) << graph::to_text(back);
  EXPECT_LE(max_abs_difference(compiled(back, options), wanted), 1e-5F * max_abs(wanted));
}

INSTANTIATE_TEST_SUITE_P(
    Variants, OnnxQkNorms,
    testing::Values(
        NormVariant{.name = "whole", .norm = Norm::whole, .fused = "HeadNorm"},
        NormVariant{.name = "heads", .norm = Norm::heads, .fused = "norm_epsilon"},
        NormVariant{.name = "heads_last", .norm = Norm::heads_last, .fused = "norm_last"},
        NormVariant{.name = "layer", .norm = Norm::layer, .fused = "HeadNorm"},
        NormVariant{.name = "by_head", .norm = Norm::by_head, .fused = "HeadNorm"},
        NormVariant{.name = "one_a_head", .norm = Norm::one_a_head, .fused = "HeadNorm"},
        NormVariant{.name = "clip", .clip = "Clip", .fused = "Clip"},
        NormVariant{.name = "min_and_max", .clip = "Min", .fused = "Clip"},
        NormVariant{.name = "clip_then_norm", .norm = Norm::whole, .clip = "Clip", .fused = "Clip"},
        NormVariant{.name = "norm_then_clip",
                    .norm = Norm::whole,
                    .clip = "Min",
                    .clip_behind_norm = true,
                    .fused = "Clip"}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace nibble::test
