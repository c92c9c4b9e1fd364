// Models in .nib files: what is written is what is read, and nothing damaged, newer or
// inconsistent is read at all.
#include "graph/nib_model.h"

#include <gtest/gtest.h>

#include <algorithm>
#include <bit>
#include <cstring>
#include <functional>
#include <limits>
#include <nlohmann/json.hpp>

#include "frontends/onnx/onnx.h"
#include "jit/error.h"
#include "runtime/nib_file.h"
#include "tests/runtime/temporary_folder.h"
#include "tests/support/zoo.h"

namespace nibble::graph {
namespace {

using nlohmann::json;
using runtime::PackedMatrix;

// A packed matrix whose bytes all differ from zero and from their neighbours.
PackedMatrix filled_matrix(const jit::WeightFormat& format, int64_t n, int64_t k) {
  runtime::PackedBuffer buffer = runtime::allocate_packed(format, n, k);
  const jit::PackedShape shape = jit::packed_shape(format, n, k);
  const auto fill = [](void* data, int64_t bytes, int seed) {
    for (int64_t i = 0; i < bytes; ++i) {
      static_cast<uint8_t*>(data)[i] = static_cast<uint8_t>(1 + (i * 7 + seed) % 255);
    }
  };
  fill(buffer.data, shape.data_bytes, 3);
  fill(buffer.scales, shape.scale_bytes, 5);
  fill(buffer.zeros, shape.zero_bytes, 9);
  return buffer.matrix;
}

// A graph with a value of every kind: it computes nothing sensible.
Graph sample_graph() {
  Graph graph;
  graph.origin = "memory";
  graph.opset = 17;
  graph.context_length = 256;
  graph.eos_ids = {2, 5};
  graph.bos_id = 1;
  graph.documents = {{"tokenizer.json", "{\"a\": \"\xc3\xa9\"}"}, {"empty.json", ""}};

  const ValueId ids = graph.add_value("input_ids", DType::i64);
  const ValueId key = graph.add_value("past.key"), value = graph.add_value("past.value");
  graph.values[static_cast<size_t>(ids)].shape = Shape{-1, -1};
  graph.inputs = {ids, key, value};
  const ValueId table = graph.add_constant("table", make_f32({2, 2}, {1, 2, 3, 4}));
  const ValueId empty = graph.add_constant("empty", make_f32({0, 3}, {}));
  const jit::WeightFormat asym{.group = 16, .asym = true, .scale = jit::ScaleType::f32};
  const jit::WeightFormat minimums{
      .group = 16, .asym = true, .scale = jit::ScaleType::bf16, .minimum = true};
  const ValueId u4 = graph.add_constant("w.u4", filled_matrix(asym, 20, 40));
  const ValueId u8 =
      graph.add_constant("w.u8", filled_matrix({.type = jit::WeightType::u8, .group = 0}, 16, 24));
  const ValueId f32 =
      graph.add_constant("w.f32", filled_matrix({.type = jit::WeightType::f32}, 16, 3));
  graph.add_constant("unused", make_f32({2}, {1, 2}));

  const ValueId hidden = graph.add_value("hidden"), logits = graph.add_value("logits");
  const ValueId u4_min = graph.add_constant("w.u4.min", filled_matrix(minimums, 20, 40));
  const jit::WeightFormat nested{
      .group = 32, .asym = true, .scale = jit::ScaleType::q8, .minimum = true};
  const ValueId u4_q8 = graph.add_constant("w.u4.q8", filled_matrix(nested, 20, 512));
  Node node;
  node.op = "Linear";
  node.domain = "nibble";
  node.name = "/layer/0";
  node.inputs = {ids, u4, kNoValue, table, u8, f32, empty, u4_min, u4_q8};
  node.outputs = {hidden, kNoValue};
  const float infinity = std::numeric_limits<float>::infinity();
  node.attributes = {{"i", int64_t{-7}},
                     {"big", std::numeric_limits<int64_t>::min()},
                     {"f", 0.1F},
                     {"tiny", std::numeric_limits<float>::denorm_min()},
                     {"inf", -infinity},
                     {"s", std::string("gelu")},
                     {"is", std::vector<int64_t>{1, -1}},
                     {"fs", std::vector<float>{0.5F, infinity, -0.0F}},
                     {"t", make_i64({2}, {8, 9})}};
  graph.nodes.push_back(node);
  graph.nodes.push_back({.op = "Relu",
                         .domain = "",
                         .name = "/relu",
                         .inputs = {hidden},
                         .outputs = {logits},
                         .attributes = {}});
  graph.outputs = {logits};
  graph.io = {.input_ids = ids, .logits = logits, .layers = {{key, value, key, value}}};
  return graph;
}

// Hands out what is packed already.
PackWeight already_packed(const Graph& graph) {
  return [&graph](ValueId id) {
    return std::get<PackedMatrix>(graph.values[static_cast<size_t>(id)].constant.value());
  };
}

void expect_same_bytes(const void* a, const void* b, int64_t bytes) {
  ASSERT_TRUE((a == nullptr) == (b == nullptr) || bytes == 0);
  if (bytes > 0) {
    EXPECT_EQ(std::memcmp(a, b, static_cast<size_t>(bytes)), 0);
  }
}

void expect_same_constant(const Constant& a, const Constant& b) {
  ASSERT_EQ(a.index(), b.index());
  if (const auto* tensor = std::get_if<TensorData>(&a)) {
    const auto& other = std::get<TensorData>(b);
    ASSERT_EQ(tensor->dtype, other.dtype);
    ASSERT_EQ(tensor->shape, other.shape);
    ASSERT_EQ(tensor->bytes, other.bytes);
    return expect_same_bytes(tensor->data, other.data, static_cast<int64_t>(tensor->bytes));
  }
  const jit::PackedView &x = std::get<PackedMatrix>(a).view, &y = std::get<PackedMatrix>(b).view;
  ASSERT_EQ(x.format, y.format);
  ASSERT_EQ(x.n, y.n);
  ASSERT_EQ(x.k, y.k);
  const jit::PackedShape shape = jit::packed_shape(x.format, x.n, x.k);
  expect_same_bytes(x.data, y.data, shape.data_bytes);
  expect_same_bytes(x.scales, y.scales, shape.scale_bytes);
  expect_same_bytes(x.zeros, y.zeros, shape.zero_bytes);
}

void expect_same_graph(const Graph& a, const Graph& b) {
  EXPECT_EQ(to_text(a), to_text(b));
  EXPECT_EQ(a.context_length, b.context_length);
  EXPECT_EQ(a.eos_ids, b.eos_ids);
  EXPECT_EQ(a.bos_id, b.bos_id);
  EXPECT_EQ(a.documents, b.documents);
  EXPECT_EQ(a.inputs, b.inputs);
  EXPECT_EQ(a.io.input_ids, b.io.input_ids);
  EXPECT_EQ(a.io.attention_mask, b.io.attention_mask);
  EXPECT_EQ(a.io.position_ids, b.io.position_ids);
  EXPECT_EQ(a.io.logits, b.io.logits);
  ASSERT_EQ(a.io.layers.size(), b.io.layers.size());
  for (size_t i = 0; i < a.io.layers.size(); ++i) {
    EXPECT_EQ(a.io.layers[i].past_key, b.io.layers[i].past_key);
    EXPECT_EQ(a.io.layers[i].past_value, b.io.layers[i].past_value);
    EXPECT_EQ(a.io.layers[i].present_key, b.io.layers[i].present_key);
    EXPECT_EQ(a.io.layers[i].present_value, b.io.layers[i].present_value);
  }
  ASSERT_EQ(a.values.size(), b.values.size());
  const auto users = consumers(a);
  for (size_t i = 0; i < a.values.size(); ++i) {
    SCOPED_TRACE(a.values[i].name);
    EXPECT_EQ(a.values[i].name, b.values[i].name);
    EXPECT_EQ(a.values[i].dtype, b.values[i].dtype);
    EXPECT_EQ(a.values[i].shape, b.values[i].shape);
    if (users[i].empty()) continue;  // constants that nothing uses are not stored
    ASSERT_EQ(a.values[i].constant.has_value(), b.values[i].constant.has_value());
    if (a.values[i].constant) expect_same_constant(*a.values[i].constant, *b.values[i].constant);
  }
  ASSERT_EQ(a.nodes.size(), b.nodes.size());
  for (size_t i = 0; i < a.nodes.size(); ++i) {
    EXPECT_EQ(a.nodes[i].name, b.nodes[i].name);
    EXPECT_EQ(a.nodes[i].outputs, b.nodes[i].outputs);
    for (const auto& [key, attribute] : a.nodes[i].attributes) {
      SCOPED_TRACE(key);
      const Attribute& other = b.nodes[i].attributes.at(key);
      ASSERT_EQ(attribute.index(), other.index());
      if (const auto* tensor = std::get_if<TensorData>(&attribute)) {
        expect_same_constant(*tensor, std::get<TensorData>(other));
      } else if (const auto* real = std::get_if<float>(&attribute)) {
        EXPECT_EQ(std::bit_cast<uint32_t>(*real), std::bit_cast<uint32_t>(std::get<float>(other)));
      }
    }
  }
}

class NibModelTest : public testing::Test {
 protected:
  std::string write(const Graph& graph, std::string_view name = "model.nib") const {
    std::string path = folder_.path(name);
    write_nib_model(graph, path, already_packed(graph));
    return path;
  }

  void expect_error(const std::string& path, const std::vector<std::string>& parts) {
    try {
      read_nib_model(path, &pool_);
      FAIL() << "expected an error with \"" << parts.front() << "\"";
    } catch (const Error& error) {
      const std::string message = error.what();
      EXPECT_NE(message.find(path), std::string::npos) << message;
      for (const std::string& part : parts) {
        EXPECT_NE(message.find(part), std::string::npos)
            << "expected " << part << " in " << message;
      }
    }
  }

  // Writes the sample, edits its graph section (or drops sections) and writes that as a sound file.
  std::string edited(const std::function<void(json&)>& edit, const std::string& drop = "") {
    const std::string path = write(sample_graph(), "sound.nib");
    const auto file = runtime::NibFile::open(path, nullptr);
    std::string result = folder_.path("edited.nib");
    runtime::NibWriter writer(result);
    for (const auto& section : file->sections()) {
      if (section.name == drop) continue;
      if (section.name != "graph") {
        writer.add(section.name, section.bytes);
        continue;
      }
      const auto* text = reinterpret_cast<const char*>(section.bytes.data());
      json graph = json::parse(text, text + section.bytes.size());
      edit(graph);
      const std::string changed = graph.dump();
      writer.add("graph", std::as_bytes(std::span(changed)));
    }
    writer.commit();
    return result;
  }

  runtime::TemporaryFolder folder_;
  runtime::ThreadPool pool_{2};
};

TEST_F(NibModelTest, EverythingComesBack) {
  const Graph graph = sample_graph();
  const std::string path = write(graph);
  for (runtime::ThreadPool* pool : {&pool_, static_cast<runtime::ThreadPool*>(nullptr)}) {
    const Graph read = read_nib_model(path, pool);
    EXPECT_EQ(read.origin, path);
    expect_same_graph(graph, read);
  }
}

TEST_F(NibModelTest, WeightsAreMappedAndAligned) {
  const Graph read = read_nib_model(write(sample_graph()), &pool_);
  int weights = 0;
  for (const Value& value : read.values) {
    if (!value.constant) continue;
    if (const auto* packed = std::get_if<PackedMatrix>(&*value.constant)) {
      ++weights;
      EXPECT_EQ(reinterpret_cast<uintptr_t>(packed->view.data) % 4096, 0U) << value.name;
    }
  }
  EXPECT_EQ(weights, 5);
}

TEST_F(NibModelTest, WeightsAreCopiedForThreadsOnTwoNodes) {
  // Two nodes that are both node 0.
  const runtime::CpuTopology cpus{
      .cores = {{.pus = {0}, .node = 0}, {.pus = {1}, .node = 1}}, .nodes = {0, 0}, .kinds = {{}}};
  runtime::ThreadPool pool(runtime::plan_placement(cpus, 2));
  ASSERT_EQ(pool.placement().nodes.size(), 2U);
  const Graph graph = sample_graph();
  const std::string path = write(graph);
  expect_same_graph(graph, read_nib_model(path, &pool));
  std::shared_ptr<const void> mapped;  // owns what is not a weight
  const Graph read = read_nib_model(path, &pool);
  for (const Value& value : read.values) {
    if (!value.constant) continue;
    if (const auto* tensor = std::get_if<TensorData>(&*value.constant)) mapped = tensor->owner;
  }
  ASSERT_TRUE(mapped);
  for (const Value& value : read.values) {
    if (!value.constant) continue;
    if (const auto* packed = std::get_if<PackedMatrix>(&*value.constant)) {
      EXPECT_NE(packed->owner, mapped) << value.name;
    }
  }
}

TEST_F(NibModelTest, WeightsOutliveTheGraph) {
  PackedMatrix packed;
  {
    const Graph read = read_nib_model(write(sample_graph()), nullptr);
    for (const Value& value : read.values) {
      if (value.name == "w.u4") packed = std::get<PackedMatrix>(value.constant.value());
    }
  }
  EXPECT_EQ(packed.view.data[0], 4);
  EXPECT_EQ(packed.view.zeros[0], 10);
}

TEST_F(NibModelTest, ConstantsThatNothingUsesAreLeftOut) {
  const Graph read = read_nib_model(write(sample_graph()), nullptr);
  for (const Value& value : read.values) {
    if (value.name == "unused") {
      EXPECT_FALSE(value.constant.has_value());
    }
  }
}

TEST_F(NibModelTest, SourcesArePackedOnceInOrder) {
  Graph graph = sample_graph();
  const Graph original = graph;
  std::vector<ValueId> order;
  for (size_t i = 0; i < graph.values.size(); ++i) {
    Value& value = graph.values[i];
    if (value.name != "w.u4" && value.name != "w.u8") continue;
    const auto& view = std::get<PackedMatrix>(value.constant.value()).view;
    std::vector<float> weights(static_cast<size_t>(view.n * view.k), 1.0F);
    value.constant = MatrixSource::whole(make_f32({view.n, view.k}, weights), false);
  }
  const std::string path = folder_.path("m.nib");
  write_nib_model(graph, path, [&](ValueId id) {
    order.push_back(id);
    return std::get<PackedMatrix>(original.values[static_cast<size_t>(id)].constant.value());
  });
  EXPECT_EQ(order.size(), 5U);
  EXPECT_TRUE(std::is_sorted(order.begin(), order.end()));
  expect_same_graph(original, read_nib_model(path, &pool_));
}

TEST_F(NibModelTest, FailedWritesLeaveWhatWasThere) {
  const Graph graph = sample_graph();
  const std::string path = write(graph);
  const std::string before = runtime::read_file(path);
  const int entries = folder_.entries();
  const auto no_memory = [](ValueId) -> PackedMatrix { throw Error("no memory"); };
  EXPECT_THROW(write_nib_model(graph, path, no_memory), Error);
  EXPECT_THROW(write_nib_model(graph, folder_.path("new.nib"), no_memory), Error);
  Graph other_size = graph;
  for (Value& value : other_size.values) {
    if (value.name == "w.u4") {
      value.constant = MatrixSource::whole(make_f32({2, 8}, std::vector<float>(16)), false);
    }
  }
  EXPECT_THROW(write_nib_model(other_size, path, already_packed(graph)), Error);
  Graph not_text = graph;
  not_text.nodes[0].name = "\xff";
  EXPECT_THROW(write_nib_model(not_text, path, already_packed(graph)), Error);
  Graph unsound = graph;
  unsound.nodes[0].inputs[0] = 4711;
  EXPECT_THROW(write_nib_model(unsound, path, already_packed(graph)), Error);
  EXPECT_THROW(write_nib_model(graph, folder_.path("absent/m.nib"), already_packed(graph)), Error);
  EXPECT_EQ(runtime::read_file(path), before);
  EXPECT_EQ(folder_.entries(), entries);
}

TEST_F(NibModelTest, TruncatedAnywhere) {
  const std::string bytes = runtime::read_file(write(sample_graph()));
  for (size_t cut = 0; cut < bytes.size(); cut += 1 + cut / 64) {
    const std::string path = folder_.write("cut.nib", std::string_view(bytes).substr(0, cut));
    EXPECT_THROW(read_nib_model(path, &pool_), Error) << "cut to " << cut << " bytes";
    EXPECT_THROW(read_nib_model(path, nullptr), Error) << "cut to " << cut << " bytes";
  }
}

TEST_F(NibModelTest, FlippedBitsAreRefused) {
  const std::string bytes = runtime::read_file(write(sample_graph()));
  const std::string path = folder_.path("flipped.nib");
  folder_.write("flipped.nib", bytes);
  std::fstream file(path, std::ios::binary | std::ios::in | std::ios::out);
  const auto put = [&](size_t at, char byte) {
    file.seekp(static_cast<std::streamoff>(at));
    file.put(byte);
    file.flush();
  };
  for (size_t i = 0; i < bytes.size(); i += i < 64 ? 1 : 5) {
    put(i, static_cast<char>(bytes[i] ^ (1 << (i % 8))));
    EXPECT_THROW(read_nib_model(path, &pool_), Error) << "byte " << i;
    try {
      verify(read_nib_model(path, nullptr));  // unchecked, it may load, but soundly
    } catch (const Error&) {
    }
    put(i, bytes[i]);
  }
  expect_same_graph(sample_graph(), read_nib_model(path, &pool_));
}

TEST_F(NibModelTest, NewerGraphsAreRefused) {
  expect_error(edited([](json& graph) { graph["version"] = 2; }), {"version 2", "newer"});
}

TEST_F(NibModelTest, MissingSectionsAreNamed) {
  const auto nothing = [](json&) {};
  expect_error(edited(nothing, "weight/5/data"), {"weight/5/data", "\"w.u4\"", "missing"});
  expect_error(edited(nothing, "weight/5/zeros"), {"weight/5/zeros", "\"w.u4\""});
  expect_error(edited(nothing, "const/3"), {"const/3", "\"table\""});
  expect_error(edited(nothing, "attribute/0/t"), {"attribute/0/t", "\"/layer/0\""});
  expect_error(edited(nothing, "doc/tokenizer.json"), {"doc/tokenizer.json"});
  expect_error(edited(nothing, "graph"), {"graph"});
}

// One edit of the graph section, and what the message must say.
struct BadGraph {
  const char* pointer;
  json value;
  std::vector<std::string> parts;
};

TEST_F(NibModelTest, EveryFieldIsChecked) {
  const std::vector<BadGraph> cases = {
      {"/version", 0, {"version"}},
      {"/version", "1", {"version"}},
      {"/opset", 1e9, {"opset"}},
      {"/context_length", -1, {"context_length"}},
      {"/eos_ids/0", -1, {"eos_ids[0]"}},
      {"/bos_id", 18446744073709551615U, {"bos_id"}},
      {"/values", 3, {"values", "an array"}},
      {"/values/0", 3, {"values[0]", "an object"}},
      {"/values/0/dtype", "f99", {"values[0].dtype", "f99"}},
      {"/values/0/shape/0", -2, {"values[0].shape[0]"}},
      {"/values/0/weight", json::object(), {"values[0].weight"}},
      {"/values/3/tensor/shape/0", 3, {"const/3", "\"table\"", "24 bytes", "16"}},
      {"/values/3/tensor/dtype", "f16", {"const/3", "\"table\"", "8 bytes", "16"}},
      {"/values/3/tensor/shape/0", int64_t{1} << 62, {"values[3].tensor.shape"}},
      {"/values/3/tensor/shape/0", -1, {"values[3].tensor.shape[0]"}},
      {"/values/3/weight", json::object(), {"values[3]", "not both"}},
      {"/values/5/weight/n", 33, {"weight/5/data", "\"w.u4\"", "expected"}},
      {"/values/5/weight/k", 41, {"weight/5/data", "\"w.u4\""}},
      {"/values/5/weight/n", int64_t{1} << 60, {"\"w.u4\""}},
      {"/values/5/weight/n", 0, {"values[5].weight.n"}},
      {"/values/5/weight/group", 12, {"\"w.u4\"", "12"}},
      {"/values/5/weight/group", 8, {"weight/5/scales", "\"w.u4\""}},
      {"/values/5/weight/scale", "f16", {"weight/5/scales", "\"w.u4\""}},
      {"/values/5/weight/scale", "f64", {"values[5].weight.scale"}},
      {"/values/5/weight/type", "u5", {"values[5].weight.type", "u5"}},
      {"/values/5/weight/asym", 1, {"values[5].weight.asym"}},
      {"/values/5/weight/minimum", 1, {"values[5].weight.minimum"}},
      {"/values/5/weight/minimum", true, {"weight/5/zeros", "\"w.u4\""}},
      {"/values/6/weight/asym", true, {"weight/6/zeros", "\"w.u8\""}},
      {"/values/6/weight/minimum", true, {"\"w.u8\"", "asymmetric"}},
      {"/nodes/0/op", nullptr, {"nodes[0].op"}},
      {"/nodes/0/inputs/0", 4711, {"nodes[0].inputs[0]", "4711"}},
      {"/nodes/0/inputs/0", -2, {"nodes[0].inputs[0]"}},
      {"/nodes/0/outputs/0", 0, {"/layer/0", "input_ids"}},
      {"/nodes/0/attributes/i", json::object(), {"attributes.i"}},
      {"/nodes/0/attributes/i", {{"what", 1}}, {"attributes.i"}},
      {"/nodes/0/attributes/f", {{"float", 1e300}}, {"attributes.f.float"}},
      {"/nodes/0/attributes/t/tensor/shape", {3}, {"attribute/0/t", "24", "16"}},
      {"/inputs/0", -1, {"inputs[0]"}},
      {"/outputs/0", 4711, {"outputs[0]"}},
      {"/io/logits", 4711, {"io.logits"}},
      {"/io/layers/0", {1, 2, 3}, {"io.layers[0]", "four ids"}},
      {"/documents/1/bytes", 3, {"doc/tokenizer.json"}},
  };
  for (const BadGraph& bad : cases) {
    SCOPED_TRACE(bad.pointer);
    expect_error(edited([&](json& graph) { graph[json::json_pointer(bad.pointer)] = bad.value; }),
                 bad.parts);
  }
  for (const char* key : {"opset", "values", "nodes", "inputs", "outputs", "io", "documents"}) {
    expect_error(edited([&](json& graph) { graph.erase(key); }), {key});
  }
}

TEST_F(NibModelTest, GraphsThatAreNoJson) {
  for (const std::string text : {"", "{", "[]", "{\"version\": 1}", "\xff\xfe"}) {
    const std::string path = folder_.path("text.nib");
    runtime::NibWriter writer(path);
    writer.add("graph", std::as_bytes(std::span(text)));
    writer.commit();
    expect_error(path, {"graph"});
  }
}

TEST_F(NibModelTest, NestingWithoutEnd) {
  for (const std::string& text :
       {"{\"version\":" + std::string(500000, '['),
        "{\"version\":" + std::string(500000, '[') + std::string(500000, ']') + "}"}) {
    const std::string path = folder_.path("deep.nib");
    runtime::NibWriter writer(path);
    writer.add("graph", std::as_bytes(std::span(text)));
    writer.commit();
    expect_error(path, {"graph", "deep"});
  }
}

TEST_F(NibModelTest, DocumentsTwice) {
  expect_error(edited([](json& graph) { graph["documents"].push_back(graph["documents"][0]); }),
               {"documents", "twice"});
}

TEST_F(NibModelTest, ExportsComeBackWhole) {
  NIBBLE_NEED_MODELS();
  for (const char* family : {"llama", "gptj", "bloom"}) {
    const Graph graph = frontends::load_onnx(test::zoo_folder(family));
    const Graph read = read_nib_model(write(graph), &pool_);
    expect_same_graph(graph, read);
  }
}

}  // namespace
}  // namespace nibble::graph
