// Damaged and hostile models: each ends in one sentence, or loads as a sound graph; never in a
// crash, and never in a graph that breaks its own rules.
#include <fcntl.h>
#include <unistd.h>

#include <cstdint>
#include <filesystem>

#include "tests/frontends/onnx_fixture.h"
#include "tests/support/zoo.h"

namespace nibble::test {
namespace {

namespace fs = std::filesystem;
using graph::Graph;

class OnnxBadInputTest : public OnnxTest {
 protected:
  // A model with most of what the reader reads.
  static OnnxModel rich_decoder() {
    OnnxModel model = tiny_decoder();
    model.opsets.emplace_back("com.example", 1);
    model.initializers.push_back(
        onnx_tensor("typed", kOnnxInt64, {3}).packed_integers(7, {1, -2, 300}));
    model.initializers.push_back(onnx_external(
        "outer", kOnnxFloat, {2}, {{"location", "w.bin"}, {"offset", "4"}, {"length", "8"}}));
    model.nodes.push_back(onnx_node(
        "Thing", {"hidden", "", "typed", "outer"}, {"thing"},
        {onnx_real("f", 0.5F), onnx_text("s", "text"), onnx_ints("is", {4, 5}),
         onnx_reals("fs", {1.0F}), onnx_tensor_attribute("t", onnx_floats("", {2}, {1.0F, 2.0F}))},
        "com.example"));
    model.nodes.push_back(onnx_node("Constant", {}, {"c"}, {onnx_ints("value_ints", {9})}));
    model.value_infos.push_back(onnx_value("hidden", kOnnxFloat, {-1, -1, 4}));
    return model;
  }

  // True when it loads; whatever loads must be sound to its last byte.
  static bool loads(const std::string& path) {
    Graph graph;
    try {
      graph = frontends::load_onnx(path);
    } catch (const Error&) {
      return false;
    }
    graph::verify(graph);
    graph::to_text(graph);
    unsigned sum = 0;
    for (const graph::Value& value : graph.values) {
      if (!value.constant) continue;
      const auto& tensor = std::get<graph::TensorData>(*value.constant);
      for (size_t i = 0; i < tensor.bytes; ++i) sum += std::to_integer<unsigned>(tensor.data[i]);
    }
    volatile unsigned sink = sum;
    static_cast<void>(sink);
    return true;
  }

  // Flips one bit in place, loads, and flips it back.
  static bool loads_with_flip(int fd, const std::string& path, int64_t offset, int bit) {
    uint8_t byte = 0;
    EXPECT_EQ(pread(fd, &byte, 1, offset), 1);
    const auto flipped = static_cast<uint8_t>(byte ^ (1U << bit));
    EXPECT_EQ(pwrite(fd, &flipped, 1, offset), 1);
    const bool result = loads(path);
    EXPECT_EQ(pwrite(fd, &byte, 1, offset), 1);
    return result;
  }
};

TEST_F(OnnxBadInputTest, TruncatedAnywhere) {
  folder_.write("w.bin", floats_as_bytes({1, 2, 3}));
  const std::string bytes = rich_decoder().bytes();
  ASSERT_TRUE(loads(folder_.write("model.onnx", bytes)));
  // The last field imports com.example, so every cut loses something that is needed.
  for (size_t cut = 0; cut < bytes.size(); ++cut) {
    const std::string path = folder_.write("model.onnx", bytes.substr(0, cut));
    EXPECT_FALSE(loads(path)) << "cut to " << cut << " of " << bytes.size() << " bytes";
  }
  expect_error(folder_.write("model.onnx", bytes.substr(0, bytes.size() / 2)), {"truncated"});
}

TEST_F(OnnxBadInputTest, EveryBitFlipped) {
  folder_.write("w.bin", floats_as_bytes({1, 2, 3}));
  const std::string bytes = rich_decoder().bytes();
  const std::string path = folder_.write("model.onnx", bytes);
  const int fd = open(path.c_str(), O_RDWR);
  ASSERT_GE(fd, 0);
  int refused = 0;
  for (size_t i = 0; i < bytes.size(); ++i) {
    for (int bit = 0; bit < 8; ++bit) {
      refused += loads_with_flip(fd, path, static_cast<int64_t>(i), bit) ? 0 : 1;
    }
  }
  close(fd);
  // Bits of weights, names and numbers cannot be told from sound ones; structure can.
  EXPECT_GT(refused, static_cast<int>(bytes.size()) * 8 / 3);
  EXPECT_TRUE(loads(path));
}

TEST_F(OnnxBadInputTest, BitsOfARealExportFlipped) {
  NIBBLE_NEED_MODELS();
  const std::string path = folder_.path("model.onnx");
  fs::copy_file(zoo_folder("opt") + "/model.onnx", path);
  fs::permissions(path, fs::perms::owner_read | fs::perms::owner_write);
  const int fd = open(path.c_str(), O_RDWR);
  ASSERT_GE(fd, 0);
  const auto size = static_cast<int64_t>(fs::file_size(path));
  uint64_t state = 12345;
  for (int i = 0; i < 400; ++i) {
    state = state * 6364136223846793005ULL + 1442695040888963407ULL;
    // The nodes stand first in the file: half of the flips go there.
    const int64_t range = i % 2 == 0 ? size : size / 20;
    loads_with_flip(fd, path, static_cast<int64_t>((state >> 33) % static_cast<uint64_t>(range)),
                    static_cast<int>(state >> 61));
  }
  close(fd);
  EXPECT_TRUE(loads(path));
}

TEST_F(OnnxBadInputTest, NotOnnxAtAll) {
  expect_error(folder_.write("a.onnx", ""), {"no ONNX model"});
  expect_error(folder_.write("a.onnx", "# A text\n"), {"byte 0"});
  expect_error(folder_.write("a.onnx", std::string(4096, '\0')), {"byte 0"});
  expect_error(folder_.write("a.onnx", std::string(4096, '\xff')), {"byte 0"});
}

TEST_F(OnnxBadInputTest, WireFormat) {
  OnnxModel model = tiny_decoder();
  model.more_of_graph.text(77, "?");
  expect_error(model, {"unknown field 77", "GraphProto"});
  model = tiny_decoder();
  model.more_of_graph.integer(5, 1);  // initializer as a number
  expect_error(model, {"GraphProto.initializer", "length-delimited", "varint"});
  model = tiny_decoder();
  model.more_of_model.message(7, WireMessage());
  expect_error(model, {"ModelProto.graph", "twice"});
  model = tiny_decoder();
  model.more_of_graph.raw("\x7a\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01");  // length 2^64 - 1
  expect_error(model, {"GraphProto", "sparse_initializer", "18446744073709551615"});
  model = tiny_decoder();
  model.more_of_graph.raw("\x7a\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01");  // 71 bits
  expect_error(model, {"64 bits"});
  model = tiny_decoder();
  model.more_of_graph.raw("\x7b\x7c");  // a group
  expect_error(model, {"group"});
  model = tiny_decoder();
  model.more_of_graph.message(1, WireMessage().text(4, "Bad\xc0\x80"));
  expect_error(model, {"NodeProto.op_type", "UTF-8"});
}

TEST_F(OnnxBadInputTest, Versions) {
  for (const int64_t opset : {1, 12, 25, 99, -1}) {
    OnnxModel model = tiny_decoder();
    model.opsets = {{"", opset}};
    expect_error(model, {"opset is " + std::to_string(opset), "13 to 24"});
  }
  OnnxModel model = tiny_decoder();
  model.opsets = {};
  expect_error(model, {"opset"});
  model.opsets = {{"", 17}, {"ai.onnx", 18}};
  expect_error(model, {"imported twice", "17", "18"});
  model = tiny_decoder();
  model.ir_version = 2;
  expect_error(model, {"IR version is 2"});
}

TEST_F(OnnxBadInputTest, WeightsOfTheWrongSize) {
  const auto expect = [&](WireMessage head, const std::vector<std::string>& parts) {
    OnnxModel model = tiny_decoder();
    model.initializers[1] = std::move(head);
    expect_error(model, parts);
  };
  const std::string data(128, '\0');
  expect(onnx_tensor("head", kOnnxFloat, {4, 9}).text(9, data), {"\"head\"", "144", "128"});
  expect(onnx_tensor("head", kOnnxFloat16, {4, 8}).text(9, data), {"\"head\"", "f16", "64", "128"});
  expect(onnx_tensor("head", kOnnxFloat, {4, 8}), {"\"head\"", "128", "0 bytes"});
  expect(onnx_tensor("head", kOnnxFloat, {-4, 8}).text(9, data), {"\"head\"", "negative"});
  expect(onnx_tensor("head", kOnnxFloat, {1LL << 40, 1LL << 40}).text(9, data),
         {"\"head\"", "no possible size"});
  expect(onnx_tensor("head", kOnnxString, {1}).text(6, "x"), {"\"head\"", "STRING"});
  expect(onnx_tensor("head", 99, {1}).text(9, data), {"\"head\"", "99"});
  expect(onnx_tensor("head", kOnnxFloat, {32}).text(3, "").text(9, data), {"\"head\"", "segment"});
  expect(onnx_tensor("head", kOnnxFloat, {32}).text(9, data).integer(14, 2), {"data location 2"});
}

TEST_F(OnnxBadInputTest, TypedDataThatDoesNotFit) {
  const auto expect = [&](WireMessage head, const std::vector<std::string>& parts) {
    OnnxModel model = tiny_decoder();
    model.initializers[1] = std::move(head);
    expect_error(model, parts);
  };
  expect(onnx_tensor("head", kOnnxFloat, {2}).real(4, 1), {"\"head\"", "8 bytes", "4 bytes"});
  expect(onnx_tensor("head", kOnnxFloat, {1}).text(4, "abcdef"), {"\"head\"", "6 bytes"});
  expect(onnx_tensor("head", kOnnxInt8, {1}).packed_integers(5, {128}), {"128", "-128 to 127"});
  expect(onnx_tensor("head", kOnnxUint8, {1}).packed_integers(5, {-1}), {"-1", "0 to 255"});
  expect(onnx_tensor("head", kOnnxInt64, {2}).packed_integers(7, {1}), {"\"head\"", "16 bytes"});
  expect(onnx_tensor("head", kOnnxInt64, {1}).packed_integers(7, {1, 2}), {"\"head\"", "or more"});
  expect(onnx_tensor("head", kOnnxInt64, {1LL << 50}).packed_integers(7, {1}), {"\"head\""});
  expect(onnx_tensor("head", kOnnxInt64, {1}).text(7, "\xff"), {"\"head\"", "does not end"});
  expect(onnx_tensor("head", kOnnxInt64, {1}).integer(5, 1), {"int64_data", "int32_data"});
  expect(onnx_tensor("head", kOnnxFloat, {1}).real(4, 1).text(9, "abcd"), {"\"head\"", "twice"});
}

TEST_F(OnnxBadInputTest, NamesTwiceOrUnknown) {
  OnnxModel model = tiny_decoder();
  model.initializers.push_back(model.initializers[0]);
  expect_error(model, {"initializer \"table\"", "taken"});
  model = tiny_decoder();
  model.inputs.push_back(model.inputs[0]);
  expect_error(model, {"graph input \"input_ids\"", "taken"});
  model = tiny_decoder();
  model.nodes.push_back(onnx_node("Relu", {"hidden"}, {"hidden"}));
  expect_error(model, {"/Relu", "\"hidden\"", "taken"});
  model = tiny_decoder();
  model.nodes.push_back(onnx_node("Relu", {"nothing"}, {"x"}));
  expect_error(model, {"/Relu", "\"nothing\"", "nothing in the model makes"});
  model = tiny_decoder();
  model.nodes.push_back(onnx_node("Add", {"hidden", "second"}, {"first"}));
  model.nodes.push_back(onnx_node("Relu", {"first"}, {"second"}));
  expect_error(model, {"/Add", "\"second\"", "no order of the nodes makes before"});
  model = tiny_decoder();
  model.outputs.push_back(onnx_value("nowhere", kOnnxFloat, {1}));
  expect_error(model, {"graph output \"nowhere\""});
  model = tiny_decoder();
  model.outputs.push_back(model.outputs[0]);
  expect_error(model, {"graph output \"logits\"", "twice"});
  model = tiny_decoder();
  model.inputs.push_back(onnx_value("table", kOnnxFloat, {8, 5}));
  expect_error(model, {"\"table\"", "[8,5]", "[8,4]"});
  model = tiny_decoder();
  model.inputs.push_back(onnx_value("head", kOnnxInt64, {4, 8}));
  expect_error(model, {"\"head\"", "i64", "f32"});
}

TEST_F(OnnxBadInputTest, WhatADecoderCannotHave) {
  const auto with_node = [](const WireMessage& node) {
    OnnxModel model = tiny_decoder();
    model.nodes.push_back(node);
    return model;
  };
  expect_error(with_node(onnx_node("If", {"hidden"}, {"x"}, {onnx_subgraph("then_branch")})),
               {"/If", "subgraph", "\"hidden\"", "computed"});
  expect_error(with_node(onnx_node("Foo", {"hidden"}, {"x"}, {}, "com.foo")),
               {"/Foo", "com.foo.Foo", "domain"});
  expect_error(with_node(onnx_node("Linear", {"hidden"}, {"x"}, {}, "nibble")),
               {"/Linear", "\"nibble\""});
  expect_error(with_node(onnx_node("", {"hidden"}, {"x"})), {"no operator"});
  expect_error(with_node(onnx_node("A", {"hidden"}, {"x"}, {onnx_int("k", 1), onnx_int("k", 2)})),
               {"/A", "\"k\" twice"});
  expect_error(with_node(onnx_node("A", {"hidden"}, {"x"}, {onnx_int("k", 1).text(4, "also")})),
               {"/A", "\"k\"", "type 2"});
  expect_error(with_node(onnx_node("A", {"hidden"}, {"x"},
                                   {WireMessage().text(1, "k").integer(20, 8).text(9, "strings")})),
               {"/A", "\"k\"", "strings"});
  expect_error(
      with_node(onnx_node("A", {"hidden"}, {"x"}, {WireMessage().text(1, "k").integer(3, 1)})),
      {"/A", "\"k\""});
  expect_error(with_node(onnx_node("Constant", {}, {"x"}, {onnx_text("value_string", "s")})),
               {"/Constant", "value_string"});
  expect_error(with_node(onnx_node("Constant", {}, {"x"})), {"/Constant", "0 attributes"});
  OnnxModel model = tiny_decoder();
  model.more_of_graph.message(15, WireMessage());
  expect_error(model, {"sparse"});
  model = tiny_decoder();
  model.more_of_model.message(25, WireMessage());
  expect_error(model, {"functions"});
}

TEST_F(OnnxBadInputTest, PartsOfDecodingThatAreMissing) {
  OnnxModel model = tiny_decoder();
  model.inputs.push_back(onnx_value("use_cache_branch", kOnnxBool, {1}));
  expect_error(model, {"\"use_cache_branch\""});
  model = tiny_decoder();
  model.inputs.push_back(onnx_value("past_key_values.2.key", kOnnxFloat, {1}));
  model.inputs.push_back(onnx_value("past_key_values.2.value", kOnnxFloat, {1}));
  expect_error(model, {"layer 2", "layer 1 is missing"});
  model = tiny_decoder();
  model.outputs.pop_back();
  expect_error(model, {"present.0.value"});
  model = tiny_decoder();
  model.outputs.erase(model.outputs.begin());
  expect_error(model, {"logits"});
  model = tiny_decoder();
  model.inputs[0] = onnx_value("input_ids", kOnnxFloat, {-1, -1});
  expect_error(model, {"\"input_ids\"", "f32", "i64"});
  model = tiny_decoder();
  model.inputs.pop_back();
  model.nodes.pop_back();
  model.outputs.pop_back();
  expect_error(model, {"no input past_key_values.0.value"});
}

// Two bytes of file each, and hundreds of memory.
TEST_F(OnnxBadInputTest, MoreMessagesThanAnyModelHas) {
  const auto expect = [&](uint32_t field, int count, const char* part) {
    OnnxModel model = tiny_decoder();
    for (int i = 0; i < count; ++i) model.more_of_graph.message(field, WireMessage());
    expect_error(model, {part, "which no model has"});
  };
  constexpr int kMany = (1 << 17) + 1;
  expect(1, kMany, "131072 nodes");
  expect(5, kMany, "131072 initializers");
  expect(11, kMany, "131072 inputs");
  expect(12, kMany, "131072 outputs");
  expect(13, 2 * kMany, "declared values");
  WireMessage attributes, operands;
  for (int i = 0; i <= 1 << 18; ++i) attributes.message(5, WireMessage());
  for (int i = 0; i <= 1 << 20; ++i) operands.text(1, "");
  OnnxModel model = tiny_decoder();
  model.nodes.push_back(attributes);
  expect_error(model, {"262144 attributes"});
  model.nodes.back() = operands;
  expect_error(model, {"1048576"});
  model = tiny_decoder();
  model.nodes.push_back(
      onnx_node("A", {"hidden"}, {"x"}, {onnx_ints("k", std::vector<int64_t>((1 << 20) + 1, 1))}));
  expect_error(model, {"1048576 integers"});
  model = tiny_decoder();
  model.initializers[0] = onnx_tensor("table", kOnnxFloat, std::vector<int64_t>(65, 1));
  expect_error(model, {"64 dimensions"});
  model = tiny_decoder();
  model.initializers[0] = onnx_external("table", kOnnxFloat, {8, 4},
                                        std::vector<std::pair<std::string, std::string>>(65));
  expect_error(model, {"64 entries"});
}

// Varints of one byte become integers of eight.
TEST_F(OnnxBadInputTest, VarintsThatGrow) {
  constexpr int64_t kCount = (1 << 21) + 1;  // two of them are too many, one is not
  const std::vector<int64_t> ones(kCount, 1);
  OnnxModel model = tiny_decoder();
  model.initializers.push_back(onnx_tensor("a", kOnnxInt64, {kCount}).packed_integers(7, ones));
  EXPECT_NO_THROW(load(model));
  model.initializers.push_back(onnx_tensor("b", kOnnxInt64, {kCount}).packed_integers(7, ones));
  expect_error(model, {"\"b\"", "varints", "raw_data"});
}

TEST_F(OnnxBadInputTest, BranchesWithinBranches) {
  const auto nested = [&](int depth) {
    WireMessage branch = WireMessage()
                             .message(1, onnx_node("Identity", {"hidden"}, {"inner0"}))
                             .message(12, onnx_value("inner0", kOnnxFloat, {}));
    for (int i = 1; i < depth; ++i) {
      const std::string name = "inner" + std::to_string(i);
      const WireMessage taken =
          WireMessage().text(1, "then_branch").integer(20, 5).message(6, branch);
      branch = WireMessage()
                   .message(1, onnx_node("If", {"true"}, {name}, {taken}))
                   .message(12, onnx_value(name, kOnnxFloat, {}));
    }
    OnnxModel model = tiny_decoder();
    model.initializers.push_back(onnx_tensor("true", kOnnxBool, {}).text(9, "\1"));
    model.nodes.push_back(
        onnx_node("If", {"true"}, {"all"},
                  {WireMessage().text(1, "then_branch").integer(20, 5).message(6, branch)}));
    return model;
  };
  EXPECT_NO_THROW(load(nested(3)));
  expect_error(nested(5), {"/If", "nested more than 4 deep"});
  expect_error(nested(1000), {"/If", "nested more than 4 deep"});
}

TEST_F(OnnxBadInputTest, ConfigurationsThatLie) {
  const std::string path = write(tiny_decoder());
  const auto expect = [&](const std::string& text, const char* part) {
    folder_.write("config.json", text);
    expect_error(path, {"config.json", part});
  };
  expect("", "not valid JSON");
  expect("[]", "a JSON object is expected");
  expect("{\"a\":" + std::string(100000, '['), "more than 16 deep");
  expect("{\"a\":\"" + std::string(5 << 20, 'a') + "\"}", "larger than");
  expect(R"({"max_position_embeddings": 18446744073709551615})", "max_position_embeddings");
  expect(R"({"max_position_embeddings": 0})", "at least 1");
  expect(R"({"max_position_embeddings": 1e9})", "an integer");
  expect(R"({"eos_token_id": [1, "two"]})", "eos_token_id");
}

}  // namespace
}  // namespace nibble::test
