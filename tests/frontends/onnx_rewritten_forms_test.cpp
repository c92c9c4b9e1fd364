// One layer as exporters write it, with Einsum, and as it comes out of onnxruntime's optimizer, its
// dynamic quantization and exporters that fold the batch into the heads: all compute the same, and
// all are fused in full.
#include <cmath>
#include <functional>

#include "graph/interpreted_decoder.h"
#include "tests/frontends/onnx_fixture.h"
#include "tests/support/fused_model.h"
#include "tests/support/zoo.h"

namespace nibble::test {
namespace {

constexpr int64_t kFormVocab = 24, kFormHeads = 3, kFormDim = 4, kFormWidth = kFormHeads * kFormDim,
                  kFormContext = 40;
constexpr float kScale = 0.5F;

struct Form {
  const char* name = "";
  bool fused_products = false;  // FusedMatMul, FusedGemm
  bool einsums = false;
  bool gelu = false;             // in the MLP, which else has Relu; fused: with its bias
  bool half_in_weights = false;  // the factor 0.5 of gelu is the next product's
  bool softmax_in_pieces = false;
  bool rows = false;                 // matmuls on [tokens, width], the way back by Shape(start=0)
  bool flat_heads = false;           // attention on [heads, tokens, dim]; its mask asks the keys
  bool quantized_positions = false;  // looked up as uint8, then DequantizeLinear
};

class FormBuilder {
 public:
  explicit FormBuilder(const Form& form) : form_(form) {}

  OnnxModel build() {
    model_.opsets = {{"", 17}, {"com.microsoft", 1}};
    signature();
    lengths();
    embedding();
    for (const char* name : {"q", "k", "v"}) heads(name);
    for (const std::string kv : {"key", "value"}) {
      add("Concat", {"past_key_values.0." + kv, kv == "key" ? "k" : "v"}, "present.0." + kv,
          {onnx_int("axis", 2)});
    }
    form_.flat_heads ? flat_attention() : attention();
    output();
    return std::move(model_);
  }

 private:
  void add(const char* op, const std::vector<std::string>& inputs, const std::string& out,
           const std::vector<WireMessage>& attributes = {}, const char* domain = "") {
    model_.nodes.push_back(onnx_node(op, inputs, {out}, attributes, domain));
  }
  void list(const std::string& name, const std::vector<int64_t>& values) {
    model_.initializers.push_back(
        onnx_integers(name, {static_cast<int64_t>(values.size())}, values));
  }
  void weight(const std::string& name, const std::vector<int64_t>& shape) {
    model_.initializers.push_back(onnx_waves(name, shape, 0.5F));
  }

  void signature() {
    const std::vector<int64_t> cache = {-1, kFormHeads, -1, kFormDim};
    model_.inputs = {onnx_value("input_ids", kOnnxInt64, {-1, -1}),
                     onnx_value("past_key_values.0.key", kOnnxFloat, cache),
                     onnx_value("past_key_values.0.value", kOnnxFloat, cache)};
    model_.outputs = {onnx_value("logits", kOnnxFloat, {-1, -1, kFormVocab}),
                      onnx_value("present.0.key", kOnnxFloat, cache),
                      onnx_value("present.0.value", kOnnxFloat, cache)};
  }

  void lengths() {
    for (const auto& [name, value] :
         {std::pair<const char*, int64_t>{"zero", 0}, {"one", 1}, {"two", 2}}) {
      model_.initializers.push_back(onnx_integers(name, {}, {value}));
    }
    list("axis0", {0});
    list("axis1", {1});
    add("Shape", {"input_ids"}, "ids_shape");
    add("Gather", {"ids_shape", "one"}, "tokens");
    add("Shape", {"past_key_values.0.key"}, "past_shape");
    add("Gather", {"past_shape", "two"}, "past");
    add("Add", {"past", "tokens"}, "total");
    add("Range", {"past", "total", "one"}, "positions");
  }

  void embedding() {
    weight("table", {kFormVocab, kFormWidth});
    add("Gather", {"table", "input_ids"}, "words");
    std::vector<float> values;
    std::string bytes;
    for (int64_t i = 0; i < kFormContext * kFormWidth; ++i) {
      const int64_t q = i * 37 % 251;
      bytes.push_back(static_cast<char>(q));
      values.push_back(static_cast<float>(q - 128) * 0x1p-8F);
    }
    if (form_.quantized_positions) {
      WireMessage table = onnx_tensor("places", kOnnxUint8, {kFormContext, kFormWidth});
      WireMessage zero = onnx_tensor("places_zero", kOnnxUint8, {});
      model_.initializers.push_back(table.text(9, bytes));
      model_.initializers.push_back(zero.text(9, std::string(1, static_cast<char>(128))));
      model_.initializers.push_back(onnx_floats("places_scale", {}, {0x1p-8F}));
      add("Gather", {"places", "positions"}, "place_bytes");
      add("DequantizeLinear", {"place_bytes", "places_scale", "places_zero"}, "place");
    } else {
      model_.initializers.push_back(onnx_floats("places", {kFormContext, kFormWidth}, values));
      add("Gather", {"places", "positions"}, "place");
    }
    if (form_.flat_heads) {
      list("one_batch", {1, -1, kFormWidth});
      add("Reshape", {"place", "one_batch"}, "place_rows");
    }
    add("Add", {"words", form_.flat_heads ? "place_rows" : "place"}, "x");
  }

  void heads(const std::string& name) {
    if (name == "q") list("to_heads", {0, 0, kFormHeads, kFormDim});
    weight("w_" + name, {kFormWidth, kFormWidth});
    add("MatMul", {"x", "w_" + name}, name + "_columns");
    add("Reshape", {name + "_columns", "to_heads"}, name + "_tokens");
    add("Transpose", {name + "_tokens"}, name, {onnx_ints("perm", {0, 2, 1, 3})});
  }

  // 0 where a token sees a position, else the lowest number.
  void mask(const std::string& total) {
    model_.initializers.push_back(onnx_floats("shown", {}, {0}));
    model_.initializers.push_back(onnx_floats("hidden", {}, {-3.4028235e38F}));
    add("Unsqueeze", {"positions", "axis1"}, "here");
    add("Range", {"zero", total, "one"}, "there");
    add("LessOrEqual", {"there", "here"}, "visible");
    add("Where", {"visible", "shown", "hidden"}, "mask");
  }

  void attention() {
    mask("total");
    if (form_.fused_products) {
      add("FusedMatMul", {"q", "present.0.key"}, "scaled",
          {onnx_int("transB", 1), onnx_real("alpha", kScale)}, "com.microsoft");
    } else if (form_.einsums) {
      model_.initializers.push_back(onnx_floats("scale", {}, {kScale}));
      add("Einsum", {"q", "present.0.key"}, "raw", {onnx_text("equation", "bhqd,bhkd->bhqk")});
      add("Mul", {"raw", "scale"}, "scaled");
    } else {
      model_.initializers.push_back(onnx_floats("scale", {}, {kScale}));
      add("Transpose", {"present.0.key"}, "k_turned", {onnx_ints("perm", {0, 1, 3, 2})});
      add("MatMul", {"q", "k_turned"}, "raw");
      add("Mul", {"raw", "scale"}, "scaled");
    }
    add("Add", {"scaled", "mask"}, "scores");
    softmax();
    if (form_.einsums) {
      add("Einsum", {"weights", "present.0.value"}, "mixed_tokens",
          {onnx_text("equation", "bhqk,bhkd->bqhd")});
      return;
    }
    add("MatMul", {"weights", "present.0.value"}, "mixed");
  }

  void softmax() {
    if (!form_.softmax_in_pieces) {
      return add("Softmax", {"scores"}, "weights", {onnx_int("axis", -1)});
    }
    list("last_axis", {-1});
    add("ReduceMax", {"scores"}, "largest", {onnx_ints("axes", {-1})});
    add("Sub", {"scores", "largest"}, "below");
    add("Exp", {"below"}, "exponentials");
    add("ReduceSum", {"exponentials", "last_axis"}, "sum_of_them");
    add("Div", {"exponentials", "sum_of_them"}, "weights");
  }

  void flat_attention() {
    list("flat", {kFormHeads, -1, kFormDim});
    list("one_row", {1});
    list("head_count", {kFormHeads});
    list("head_size", {kFormDim});
    model_.initializers.push_back(onnx_floats("scale", {}, {kScale}));
    add("Mul", {"q", "scale"}, "q_scaled");
    add("Reshape", {"q_scaled", "flat"}, "q_flat");
    add("Reshape", {"present.0.key", "flat"}, "k_flat");
    add("Reshape", {"present.0.value", "flat"}, "v_flat");
    add("Shape", {"k_flat"}, "k_shape");
    add("Gather", {"k_shape", "one"}, "length");
    mask("length");
    add("Unsqueeze", {"tokens", "axis0"}, "tokens_list");
    add("Unsqueeze", {"length", "axis0"}, "length_list");
    add("Transpose", {"k_flat"}, "k_turned", {onnx_ints("perm", {0, 2, 1})});
    add("MatMul", {"q_flat", "k_turned"}, "raw");
    const WireMessage axis = onnx_int("axis", 0);
    add("Concat", {"one_row", "head_count", "tokens_list", "length_list"}, "whole", {axis});
    add("Concat", {"head_count", "tokens_list", "length_list"}, "part", {axis});
    add("Concat", {"one_row", "head_count", "tokens_list", "head_size"}, "mixed_shape", {axis});
    add("Reshape", {"raw", "whole"}, "raw_whole");
    add("Add", {"raw_whole", "mask"}, "masked");
    add("Reshape", {"masked", "part"}, "scores");
    softmax();
    add("MatMul", {"weights", "v_flat"}, "mixed_flat");
    add("Reshape", {"mixed_flat", "mixed_shape"}, "mixed");
  }

  void output() {
    list("from_heads", {0, 0, kFormWidth});
    weight("w_o", {kFormWidth, kFormWidth});
    weight("b_o", {kFormWidth});
    weight("w_up", {kFormWidth, 2 * kFormWidth});
    weight("b_up", {2 * kFormWidth});
    weight("w_down", {2 * kFormWidth, kFormWidth});
    weight("head", {kFormWidth, kFormVocab});
    if (!form_.einsums) {
      add("Transpose", {"mixed"}, "mixed_tokens", {onnx_ints("perm", {0, 2, 1, 3})});
    }
    add("Reshape", {"mixed_tokens", "from_heads"}, "mixed_columns");
    linear("mixed_columns", "w_o", "b_o", kFormWidth, "attended");
    add("Add", {"x", "attended"}, "sum");
    if (form_.gelu) {
      gelu();
    } else {
      linear("sum", "w_up", "b_up", 2 * kFormWidth, "up", true);
      add("MatMul", {"up", "w_down"}, "down");
    }
    add("Add", {"sum", "down"}, "last");
    add("MatMul", {"last", "head"}, "logits");
  }

  void gelu() {
    if (form_.fused_products) {
      add("MatMul", {"sum", "w_up"}, "up_product");
      add("FastGelu", {"up_product", "b_up"}, "up", {}, "com.microsoft");
      return add("MatMul", {"up", "w_down"}, "down");
    }
    linear("sum", "w_up", "b_up", 2 * kFormWidth, "u");
    for (const auto& [name, value] :
         {std::pair{"bend", 0.044715F}, {"root", 0.79788456F}, {"whole", 1.0F}, {"half", 0.5F}}) {
      model_.initializers.push_back(onnx_floats(name, {}, {value}));
    }
    add("Mul", {"u", "u"}, "u2");
    add("Mul", {"u2", "u"}, "u3");
    add("Mul", {"u3", "bend"}, "bent");
    add("Add", {"u", "bent"}, "u_bent");
    add("Mul", {"u_bent", "root"}, "angle");
    add("Tanh", {"angle"}, "tanh");
    add("Add", {"tanh", "whole"}, "share");
    add("Mul", {"u", "share"}, "twice");
    if (form_.half_in_weights) {
      return add("FusedMatMul", {"twice", "w_down"}, "down", {onnx_real("alpha", 0.5F)},
                 "com.microsoft");
    }
    add("Mul", {"twice", "half"}, "up");
    add("MatMul", {"up", "w_down"}, "down");
  }

  void linear(const std::string& x, const std::string& w, const std::string& b, int64_t columns,
              const std::string& out, bool relu = false) {
    if (!form_.rows) {
      if (form_.einsums) {
        add("Einsum", {x, w}, out + "_product", {onnx_text("equation", "bsi,io->bso")});
      } else {
        add("MatMul", {x, w}, out + "_product");
      }
      add("Add", {out + "_product", b}, relu ? out + "_sum" : out);
      if (relu) add("Relu", {out + "_sum"}, out);
      return;
    }
    list(out + "_rows", {-1, kFormWidth});
    list(out + "_columns", {columns});
    add("Shape", {x}, out + "_shape", {onnx_int("start", 0), onnx_int("end", 2)});
    add("Concat", {out + "_shape", out + "_columns"}, out + "_whole", {onnx_int("axis", 0)});
    add("Reshape", {x, out + "_rows"}, out + "_x");
    const std::string y = out + "_y";
    if (relu && form_.fused_products) {
      add("FusedGemm", {out + "_x", w, b}, y, {onnx_text("activation", "Relu")}, "com.microsoft");
    } else {
      add("Gemm", {out + "_x", w, b}, relu ? out + "_sum" : y);
      if (relu) add("Relu", {out + "_sum"}, y);
    }
    add("Reshape", {y, out + "_whole"}, out);
  }

  Form form_;
  OnnxModel model_;
};

class OnnxRewrittenForms : public OnnxTest, public testing::WithParamInterface<Form> {
 protected:
  std::string write_form(const Form& form) const {
    folder_.write("config.json", R"({"max_position_embeddings": 40})");
    return write(FormBuilder(form).build(), std::string(form.name) + ".onnx");
  }
};

TEST_P(OnnxRewrittenForms, ComputesAndFusesAsThePlainOne) {
  graph::InterpretedDecoder plain(std::make_shared<const graph::Graph>(frontends::load_onnx(
                                      write_form({.name = "plain", .gelu = GetParam().gelu}))),
                                  kFormContext);
  const auto wanted = all_logits(plain, kSomeIds);
  const std::string path = write_form(GetParam());
  graph::InterpretedDecoder operators(
      std::make_shared<const graph::Graph>(frontends::load_onnx(path)), kFormContext);
  EXPECT_LE(max_abs_difference(all_logits(operators, kSomeIds), wanted), 1e-5F * max_abs(wanted));

  FusedOptions options;
  graph::FusionReport report;
  const graph::Graph graph = fused_graph(path, options, &report);
  ASSERT_TRUE(report.complete()) << graph::to_text(graph);
  const auto found = logits_of_two_passes(*session_of(graph, options), kSomeIds, 6);
  EXPECT_LE(max_abs_difference(found, wanted), 1e-5F * max_abs(wanted));
}

INSTANTIATE_TEST_SUITE_P(
    Forms, OnnxRewrittenForms,
    testing::Values(Form{.name = "plain"}, Form{.name = "rows", .rows = true},
                    Form{.name = "fused_products", .fused_products = true},
                    Form{.name = "fused_products_of_rows", .fused_products = true, .rows = true},
                    Form{.name = "einsums", .einsums = true}, Form{.name = "gelu", .gelu = true},
                    Form{.name = "gelu_with_bias", .fused_products = true, .gelu = true},
                    Form{.name = "half_in_weights", .gelu = true, .half_in_weights = true},
                    Form{.name = "softmax_in_pieces", .softmax_in_pieces = true},
                    Form{.name = "flat_heads", .flat_heads = true},
                    Form{.name = "quantized_positions", .quantized_positions = true}),
    [](const auto& info) { return std::string(info.param.name); });

}  // namespace
}  // namespace nibble::test
