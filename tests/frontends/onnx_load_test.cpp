// What load_onnx makes of sound models: values, constants, attributes, the decoder's parts, the
// documents beside the file, and every export of the zoo.
#include <algorithm>
#include <filesystem>

#include "tests/frontends/onnx_fixture.h"
#include "tests/support/zoo.h"

namespace nibble::test {
namespace {

namespace fs = std::filesystem;
using graph::Graph;
using graph::Shape;

using OnnxLoadTest = OnnxTest;

TEST_F(OnnxLoadTest, TinyDecoderReadsAsWritten) {
  const Graph graph = load(tiny_decoder());
  EXPECT_EQ(graph.opset, 17);
  EXPECT_EQ(graph.origin, folder_.path("model.onnx"));
  EXPECT_EQ(graph::to_text(graph),
            "opset 17\n"
            "input input_ids: i64[?,?]\n"
            "input attention_mask: i64[?,?]\n"
            "input past_key_values.0.key: f32[?,1,?,4]\n"
            "input past_key_values.0.value: f32[?,1,?,4]\n"
            "hidden = Gather(table: f32[8,4], input_ids) axis=0\n"
            "logits = MatMul(hidden, head: f32[4,8])\n"
            "present.0.key = Identity(past_key_values.0.key)\n"
            "present.0.value = Identity(past_key_values.0.value)\n"
            "output logits\n"
            "output present.0.key\n"
            "output present.0.value\n");
  EXPECT_EQ(value_named(graph, "logits").shape, (Shape{-1, -1, 8}));
}

TEST_F(OnnxLoadTest, NodesInAnyOrder) {
  OnnxModel model = tiny_decoder();
  const Graph sorted = load(model);
  std::swap(model.nodes[0], model.nodes[1]);
  EXPECT_EQ(graph::to_text(load(model)), graph::to_text(sorted));
}

TEST_F(OnnxLoadTest, InlineWeightsStayInTheMappedFile) {
  const std::string bytes = tiny_decoder().bytes();
  const Graph graph = load(tiny_decoder());
  const graph::TensorData &table = tensor_named(graph, "table"),
                          &head = tensor_named(graph, "head");
  const auto raw = [](const graph::TensorData& tensor) {
    return std::string_view(reinterpret_cast<const char*>(tensor.data), tensor.bytes);
  };
  EXPECT_EQ(table.owner, head.owner);  // one map
  // The distance in memory is the distance in the file, so nothing was copied.
  EXPECT_EQ(head.data - table.data,
            static_cast<std::ptrdiff_t>(bytes.find(raw(head)) - bytes.find(raw(table))));
}

TEST_F(OnnxLoadTest, WeightsOutliveTheGraph) {
  graph::TensorData table;
  {
    const Graph graph = load(tiny_decoder());
    table = tensor_named(graph, "table");
  }
  EXPECT_FLOAT_EQ(graph::to_f32(table)[31], 7.75F);
}

TEST_F(OnnxLoadTest, TypedDataOfEveryType) {
  OnnxModel model = tiny_decoder();
  const std::string floats = floats_as_bytes({1.5F, -2.0F});
  const double pair[] = {0.1, -0.2};
  const std::string doubles(reinterpret_cast<const char*>(pair), sizeof(pair));
  const auto add = [&](WireMessage tensor) { model.initializers.push_back(std::move(tensor)); };
  add(onnx_tensor("packed", kOnnxFloat, {2}).text(4, floats));
  add(onnx_tensor("single", kOnnxFloat, {2}).real(4, 1.5F).real(4, -2.0F));
  add(onnx_tensor("f64", kOnnxDouble, {2}).text(10, doubles));
  add(onnx_tensor("f16", kOnnxFloat16, {2}).packed_integers(5, {0x3C00, 0xC000}));
  add(onnx_tensor("bf16", kOnnxBfloat16, {2}).packed_integers(5, {0x3F80, 0xC000}));
  add(onnx_tensor("i64", kOnnxInt64, {3}).packed_integers(7, {-1, 1LL << 40, 3}));
  add(onnx_tensor("i64s", kOnnxInt64, {2}).integer(7, -1).integer(7, 300));
  add(onnx_tensor("i32", kOnnxInt32, {2}).packed_integers(5, {-70000, 70000}));
  add(onnx_tensor("i8", kOnnxInt8, {2}).packed_integers(5, {-128, 127}));
  add(onnx_tensor("u8", kOnnxUint8, {2}).packed_integers(5, {0, 255}));
  add(onnx_tensor("bool", kOnnxBool, {2}).packed_integers(5, {1, 0}));
  add(onnx_tensor("u64", kOnnxUint64, {2}).packed_integers(11, {7, 300}));
  add(onnx_tensor("u4", kOnnxUint4, {3}).packed_integers(5, {0x21, 0x0F}));
  add(onnx_tensor("empty", kOnnxFloat, {0, 4}));
  const Graph graph = load(model);
  const auto floats_of = [&](const char* name) { return graph::to_f32(tensor_named(graph, name)); };
  const auto integers_of = [&](const char* name) {
    return graph::to_i64(tensor_named(graph, name));
  };
  using Floats = std::vector<float>;
  using Integers = std::vector<int64_t>;
  EXPECT_EQ(floats_of("packed"), (Floats{1.5F, -2.0F}));
  EXPECT_EQ(floats_of("single"), (Floats{1.5F, -2.0F}));
  EXPECT_EQ(floats_of("f64"), (Floats{0.1F, -0.2F}));
  EXPECT_EQ(floats_of("f16"), (Floats{1.0F, -2.0F}));
  EXPECT_EQ(floats_of("bf16"), (Floats{1.0F, -2.0F}));
  EXPECT_EQ(integers_of("i64"), (Integers{-1, 1LL << 40, 3}));
  EXPECT_EQ(integers_of("i64s"), (Integers{-1, 300}));
  EXPECT_EQ(integers_of("i32"), (Integers{-70000, 70000}));
  EXPECT_EQ(integers_of("i8"), (Integers{-128, 127}));
  EXPECT_EQ(integers_of("u8"), (Integers{0, 255}));
  EXPECT_EQ(integers_of("bool"), (Integers{1, 0}));
  EXPECT_EQ(integers_of("u64"), (Integers{7, 300}));
  EXPECT_EQ(integers_of("u4"), (Integers{1, 2, 15}));
  EXPECT_TRUE(floats_of("empty").empty());
  // Packed floats are the tensor's own bytes and need no copy.
  EXPECT_EQ(tensor_named(graph, "packed").owner, tensor_named(graph, "table").owner);
}

TEST_F(OnnxLoadTest, ConstantNodesBecomeConstants) {
  OnnxModel model = tiny_decoder();
  const auto add = [&](const char* name, const WireMessage& attribute) {
    model.nodes.push_back(onnx_node("Constant", {}, {name}, {attribute}));
  };
  add("c_tensor", onnx_tensor_attribute("value", onnx_integers("", {2}, {3, 4})));
  add("c_float", onnx_real("value_float", 0.5F));
  add("c_int", onnx_int("value_int", -3));
  add("c_floats", onnx_reals("value_floats", {1, 2}));
  add("c_ints", onnx_ints("value_ints", {5, 6, 7}));
  const Graph graph = load(model);
  EXPECT_EQ(graph.nodes.size(), 4U);
  EXPECT_EQ(graph::to_i64(tensor_named(graph, "c_tensor")), (std::vector<int64_t>{3, 4}));
  EXPECT_EQ(tensor_named(graph, "c_float").shape, Shape{});
  EXPECT_EQ(graph::to_f32(tensor_named(graph, "c_float")), std::vector<float>{0.5F});
  EXPECT_EQ(graph::to_i64(tensor_named(graph, "c_int")), std::vector<int64_t>{-3});
  EXPECT_EQ(graph::to_f32(tensor_named(graph, "c_floats")), (std::vector<float>{1, 2}));
  EXPECT_EQ(graph::to_i64(tensor_named(graph, "c_ints")), (std::vector<int64_t>{5, 6, 7}));
}

TEST_F(OnnxLoadTest, AttributesOfEveryKind) {
  OnnxModel model = tiny_decoder();
  model.opsets = {{"ai.onnx", 14}, {"com.example", 1}};
  model.nodes.push_back(onnx_node(
      "Anything", {"hidden", "", "head"}, {"", "extra"},
      {onnx_int("i", -5), onnx_real("f", 0.25F), onnx_text("s", "so"), onnx_ints("is", {1, -1}),
       onnx_reals("fs", {0.5F}), onnx_tensor_attribute("t", onnx_floats("", {1}, {2.0F}))},
      "com.example"));
  const Graph graph = load(model);
  EXPECT_EQ(graph.opset, 14);
  const graph::Node& node = graph.nodes.back();
  EXPECT_TRUE(node.is("Anything", "com.example"));
  EXPECT_EQ(node.name, "/Anything");
  EXPECT_EQ(node.inputs[1], graph::kNoValue);
  EXPECT_EQ(node.outputs[0], graph::kNoValue);
  EXPECT_EQ(node.get_int("i"), -5);
  EXPECT_EQ(node.get_float("f"), 0.25F);
  EXPECT_EQ(node.get_string("s", ""), "so");
  EXPECT_EQ(node.get_ints("is"), (std::vector<int64_t>{1, -1}));
  EXPECT_EQ(std::get<std::vector<float>>(node.attributes.at("fs")), std::vector<float>{0.5F});
  EXPECT_EQ(graph::to_f32(std::get<graph::TensorData>(node.attributes.at("t"))),
            std::vector<float>{2.0F});
}

TEST_F(OnnxLoadTest, InputsThatAreInitializersAreConstants) {
  OnnxModel model = tiny_decoder();
  model.inputs.push_back(onnx_value("table", kOnnxFloat, {8, 4}));
  const Graph graph = load(model);
  EXPECT_EQ(graph.inputs.size(), 4U);
  EXPECT_TRUE(value_named(graph, "table").constant.has_value());
}

TEST_F(OnnxLoadTest, DecoderPartsAreFoundByNameInAnyOrder) {
  OnnxModel model = tiny_decoder();
  const std::vector<int64_t> cache = {-1, 1, -1, 4};
  for (const char* part : {"key", "value"}) {
    const std::string past = std::string("past_key_values.1.") + part;
    const std::string present = std::string("present_key_values.1.") + part;
    model.inputs.insert(model.inputs.begin(), onnx_value(past, kOnnxFloat, cache));
    model.outputs.insert(model.outputs.begin(), onnx_value(present, kOnnxFloat, cache));
    model.nodes.push_back(onnx_node("Identity", {past}, {present}));
  }
  model.inputs.push_back(onnx_value("position_ids", kOnnxInt64, {-1, -1}));
  const Graph graph = load(model);
  const auto name = [&](graph::ValueId id) { return graph.value_name(id); };
  EXPECT_EQ(name(graph.io.input_ids), "input_ids");
  EXPECT_EQ(name(graph.io.attention_mask), "attention_mask");
  EXPECT_EQ(name(graph.io.position_ids), "position_ids");
  EXPECT_EQ(name(graph.io.logits), "logits");
  ASSERT_EQ(graph.io.layers.size(), 2U);
  EXPECT_EQ(name(graph.io.layers[0].past_value), "past_key_values.0.value");
  EXPECT_EQ(name(graph.io.layers[0].present_key), "present.0.key");
  EXPECT_EQ(name(graph.io.layers[1].past_key), "past_key_values.1.key");
  EXPECT_EQ(name(graph.io.layers[1].present_value), "present_key_values.1.value");
}

TEST_F(OnnxLoadTest, DecoderPartsAreFoundByTheirWords) {
  const auto renamed = [&](std::map<std::string, std::string> names) {
    const auto name = [&](const std::string& old) { return names.count(old) ? names[old] : old; };
    const std::vector<int64_t> cache = {-1, 1, -1, 4};
    OnnxModel model;
    model.initializers.push_back(onnx_floats("table", {3, 4}, std::vector<float>(12, 0.5F)));
    model.inputs = {
        onnx_value(name("mask"), kOnnxBool, {-1, -1}), onnx_value(name("value"), kOnnxFloat, cache),
        onnx_value(name("key"), kOnnxFloat, cache), onnx_value(name("ids"), kOnnxInt64, {-1, -1})};
    model.outputs = {onnx_value(name("key out"), kOnnxFloat, cache),
                     onnx_value(name("value out"), kOnnxFloat, cache),
                     onnx_value(name("scores"), kOnnxFloat, {-1, -1, 4})};
    model.nodes = {onnx_node("Gather", {"table", name("ids")}, {name("scores")}),
                   onnx_node("Identity", {name("key")}, {name("key out")}),
                   onnx_node("Identity", {name("value")}, {name("value out")})};
    return load(model);
  };
  const auto expect = [&](const std::map<std::string, std::string>& names) {
    const Graph graph = renamed(names);
    const auto name = [&](graph::ValueId id) { return graph.value_name(id); };
    EXPECT_EQ(name(graph.io.input_ids), names.at("ids"));
    EXPECT_EQ(name(graph.io.attention_mask), names.at("mask"));
    EXPECT_EQ(name(graph.io.logits), names.at("scores"));
    ASSERT_EQ(graph.io.layers.size(), 1U);
    EXPECT_EQ(name(graph.io.layers[0].past_key), names.at("key"));
    EXPECT_EQ(name(graph.io.layers[0].past_value), names.at("value"));
    EXPECT_EQ(name(graph.io.layers[0].present_key), names.at("key out"));
    EXPECT_EQ(name(graph.io.layers[0].present_value), names.at("value out"));
  };
  expect({{"ids", "tokens"},
          {"mask", "padding_mask"},
          {"scores", "lm_logits"},
          {"key", "past_key_0"},
          {"value", "past_value_0"},
          {"key out", "present_key_0"},
          {"value out", "present_value_0"}});
  expect({{"ids", "token_ids"},
          {"mask", "mask"},
          {"scores", "output"},
          {"key", "past_key_values_key_cache_0"},
          {"value", "past_key_values_value_cache_0"},
          {"key out", "out_k0"},
          {"value out", "out_v0"}});
  expect({{"ids", "inputIds_ids"},
          {"mask", "attention.mask"},
          {"scores", "logits"},
          {"key", "kv.0.k"},
          {"value", "kv.0.v"},
          {"key out", "present.0.key"},
          {"value out", "present.0.value"}});
}

TEST_F(OnnxLoadTest, DocumentsGiveContextAndEnds) {
  folder_.write("config.json", R"({"n_positions": 77, "eos_token_id": 3, "bos_token_id": 4})");
  folder_.write("tokenizer.json", "not looked into here");
  Graph graph = load(tiny_decoder());
  EXPECT_EQ(graph.context_length, 77);
  EXPECT_EQ(graph.eos_ids, std::vector<int64_t>{3});
  EXPECT_EQ(graph.bos_id, 4);
  EXPECT_EQ(graph.documents.at("tokenizer.json"), "not looked into here");
  EXPECT_EQ(graph.documents.size(), 2U);

  folder_.write("generation_config.json", R"({"eos_token_id": [5, 6], "bos_token_id": null})");
  graph = load(tiny_decoder());
  EXPECT_EQ(graph.eos_ids, (std::vector<int64_t>{5, 6}));
  EXPECT_EQ(graph.bos_id, 4);
}

TEST_F(OnnxLoadTest, WithoutDocumentsNothingIsKnown) {
  const Graph graph = load(tiny_decoder());
  EXPECT_EQ(graph.context_length, 0);
  EXPECT_TRUE(graph.eos_ids.empty());
  EXPECT_EQ(graph.bos_id, -1);
  EXPECT_TRUE(graph.documents.empty());
}

TEST_F(OnnxLoadTest, BrokenDocumentsAreNamed) {
  const std::string model = write(tiny_decoder());
  const auto expect = [&](const char* name, const char* text, const char* part) {
    folder_.write(name, text);
    expect_error(model, {name, part});
    fs::remove(folder_.path(name));
  };
  expect("config.json", "{\"n_ctx\": 5", "JSON");
  expect("config.json", "", "JSON");
  expect("config.json", "[1]", "object");
  expect("config.json", R"({"max_position_embeddings": 0})", "max_position_embeddings");
  expect("config.json", R"({"n_ctx": "many"})", "n_ctx");
  expect("config.json", R"({"n_ctx": 18446744073709551615})", "n_ctx");
  expect("generation_config.json", R"({"eos_token_id": [1, 2.5]})", "eos_token_id");
  expect("generation_config.json", R"({"bos_token_id": -2})", "bos_token_id");
}

TEST_F(OnnxLoadTest, FolderWithOneModel) {
  write(tiny_decoder(), "decoder.onnx");
  EXPECT_EQ(frontends::load_onnx(folder_.folder()).nodes.size(), 4U);
  write(tiny_decoder(), "other.onnx");
  expect_error(folder_.folder(), {"decoder.onnx, other.onnx"});
  write(tiny_decoder(), "model.onnx");
  EXPECT_EQ(frontends::load_onnx(folder_.folder()).origin, folder_.path("model.onnx"));
}

TEST_F(OnnxLoadTest, MissingModels) {
  expect_error(folder_.folder(), {"no .onnx file"});
  expect_error(folder_.path("absent.onnx"), {"absent.onnx", "No such file"});
  fs::create_directory(folder_.path("model.onnx"));
  expect_error(folder_.folder(), {"model.onnx", "no regular file"});
}

TEST_F(OnnxLoadTest, EveryZooExportLoads) {
  NIBBLE_NEED_MODELS();
  for (const std::string& family : zoo_families()) {
    SCOPED_TRACE(family);
    const Graph graph = frontends::load_onnx(zoo_folder(family));
    EXPECT_EQ(graph.io.layers.size(), 2U);
    EXPECT_FALSE(graph.nodes.empty());
    EXPECT_EQ(graph.eos_ids.size(), 1U);
    EXPECT_TRUE(std::none_of(graph.nodes.begin(), graph.nodes.end(),
                             [](const graph::Node& node) { return node.is("Constant"); }));
  }
}

TEST_F(OnnxLoadTest, TaleLoadsWithItsExternalData) {
  NIBBLE_NEED_MODELS();
  for (const char* variant : {"onnx-fp16", "onnx-fp32"}) {
    const Graph graph = frontends::load_onnx(tale_folder(variant));
    EXPECT_EQ(graph.io.layers.size(), 6U);
    EXPECT_EQ(graph.context_length, 1024);
    EXPECT_EQ(graph.eos_ids, std::vector<int64_t>{0});
    EXPECT_EQ(graph.documents.count("tokenizer.json"), 1U);
  }
}

}  // namespace
}  // namespace nibble::test
