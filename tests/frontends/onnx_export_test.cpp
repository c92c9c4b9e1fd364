// Models written as ONNX and read back: the same packed weights bit for bit, and the same logits.
#include <gtest/gtest.h>
#include <onnx/onnx_pb.h>

#include <algorithm>
#include <filesystem>
#include <fstream>
#include <map>
#include <set>

#include "frontends/onnx/export_onnx.h"
#include "frontends/onnx/export_weights.h"
#include "frontends/onnx/onnx.h"
#include "graph/ops.h"
#include "graph/passes.h"
#include "jit/error.h"
#include "tests/runtime/temporary_folder.h"
#include "tests/support/fused_model.h"
#include "tests/support/same_weights.h"
#include "tests/support/zoo.h"

namespace nibble::frontends {
namespace {

using test::FusedOptions;

::onnx::ModelProto parsed(const std::string& path) {
  ::onnx::ModelProto model;
  std::ifstream file(path, std::ios::binary);
  EXPECT_TRUE(model.ParseFromIstream(&file)) << path;
  return model;
}

class OnnxExport : public testing::TestWithParam<std::string> {
 protected:
  // Exports the family's model, reads it back and compares.
  void round_trip(FusedOptions options) const {
    SCOPED_TRACE(options.weights + " in groups of " + std::to_string(options.group) +
                 (options.asym ? ", asymmetric" : ""));
    options.isa = jit::selected_isa();
    const std::string family = GetParam();
    const graph::Graph graph = test::fused_graph(test::zoo_folder(family), options, nullptr);
    const runtime::TemporaryFolder folder;
    write_onnx(graph, folder.folder());
    graph::FusionReport report;
    const graph::Graph again = test::fused_graph(folder.folder(), options, &report);
    ASSERT_TRUE(report.complete()) << report.nodes_unfused << " nodes are not fused";
    EXPECT_EQ(test::packed_difference(graph, again), "");
    EXPECT_EQ(again.context_length, graph.context_length);
    EXPECT_EQ(again.eos_ids, graph.eos_ids);
    EXPECT_EQ(again.bos_id, graph.bos_id);
    const test::Reference reference = test::zoo_reference(family);
    const auto wanted = test::all_logits(*test::session_of(graph, options), reference.ids(0));
    const auto found = test::all_logits(*test::session_of(again, options), reference.ids(0));
    EXPECT_LE(test::max_abs_difference(found, wanted), 1e-5F * test::max_abs(wanted));
  }
};

TEST_P(OnnxExport, Int4) {
  NIBBLE_NEED_MODELS();
  round_trip({.weights = "int4"});
  round_trip({.weights = "int4", .asym = true});
}

INSTANTIATE_TEST_SUITE_P(Families, OnnxExport, testing::ValuesIn(test::zoo_families()),
                         test::zoo_test_name);

class OnnxExportForms : public OnnxExport {};

TEST_P(OnnxExportForms, OtherFormats) {
  NIBBLE_NEED_MODELS();
  for (const int64_t group : {16, 128, 0}) {
    round_trip({.weights = "int4", .group = group, .asym = group == 0});
  }
  round_trip({.weights = "int8"});
  round_trip({.weights = "int8", .group = 0, .asym = true});
  round_trip({.weights = "f32"});
}

// Tied, with gates, with learned positions.
INSTANTIATE_TEST_SUITE_P(Families, OnnxExportForms, testing::Values("llama", "gemma2", "gpt2"),
                         test::zoo_test_name);

TEST(OnnxExportBlocks, GroupsBecomeBlocksThatOnnxruntimeMultiplies) {
  EXPECT_EQ(onnx::block_of_group(32, 128, "w"), 32);
  EXPECT_EQ(onnx::block_of_group(256, 4096, "w"), 256);
  EXPECT_EQ(onnx::block_of_group(1024, 4096, "w"), 256);
  EXPECT_EQ(onnx::block_of_group(1024, 100, "w"), 128);
  EXPECT_EQ(onnx::block_of_group(96, 192, "w"), 32);
  EXPECT_EQ(onnx::block_of_group(0, 4096, "w"), 256);
  EXPECT_EQ(onnx::block_of_group(0, 5, "w"), 16);
  try {
    onnx::block_of_group(24, 96, "layers.0.up");
    FAIL() << "groups of 24 were accepted";
  } catch (const Error& error) {
    EXPECT_NE(std::string(error.what()).find("layers.0.up"), std::string::npos) << error.what();
  }
}

graph::Graph zoo_graph(const std::string& family, const FusedOptions& options) {
  return test::fused_graph(test::zoo_folder(family), options, nullptr);
}

// What protobuf's own parser and onnx.proto's rules say of the file.
TEST(OnnxExportFile, IsWellFormed) {
  NIBBLE_NEED_MODELS();
  const graph::Graph graph = zoo_graph("llama", {.weights = "int4", .group = 0, .asym = true});
  const runtime::TemporaryFolder folder;
  write_onnx(graph, folder.folder());
  const ::onnx::ModelProto model = parsed(folder.path("model.onnx"));
  EXPECT_EQ(model.producer_name(), "nibble");
  std::set<std::string> names, nodes;
  const auto add = [](std::set<std::string>& to, const std::string& name) {
    EXPECT_TRUE(!name.empty() && to.insert(name).second) << "twice: " << name;
  };
  for (const auto& input : model.graph().input()) add(names, input.name());
  const auto bytes = std::filesystem::file_size(folder.path("model.onnx_data"));
  uint64_t end = 0;
  for (const auto& tensor : model.graph().initializer()) {
    add(names, tensor.name());
    if (tensor.data_location() != ::onnx::TensorProto::EXTERNAL) continue;
    std::map<std::string, std::string> where;
    for (const auto& entry : tensor.external_data()) where[entry.key()] = entry.value();
    EXPECT_EQ(where["location"], "model.onnx_data");
    const uint64_t offset = std::stoull(where["offset"]), length = std::stoull(where["length"]);
    EXPECT_EQ(offset % 4096, 0U) << tensor.name();
    EXPECT_GE(offset, end) << tensor.name();
    end = offset + length;
    EXPECT_LE(end, bytes) << tensor.name();
  }
  int products = 0;
  for (const auto& node : model.graph().node()) {
    for (const std::string& input : node.input()) {
      EXPECT_TRUE(input.empty() || names.contains(input)) << input << " is used before it is made";
    }
    for (const std::string& output : node.output()) add(names, output);
    add(nodes, node.name());
    if (node.op_type() != "MatMulNBits") continue;
    ++products;
    EXPECT_EQ(node.domain(), "com.microsoft");
    for (const auto& attribute : node.attribute()) {
      if (attribute.name() == "block_size") {
        EXPECT_EQ(attribute.i() & -attribute.i(), attribute.i());
      }
      if (attribute.name() == "block_size") {
        EXPECT_LE(attribute.i(), 256);
      }
      if (attribute.name() == "accuracy_level") {
        EXPECT_EQ(attribute.i(), 4);
      }
    }
  }
  EXPECT_EQ(products, 2 * 5 + 1);  // qkv, o, gate, up, down; the head
  for (const auto& output : model.graph().output()) {
    EXPECT_TRUE(names.contains(output.name())) << output.name();
  }
}

const runtime::PackedMatrix& weight_of(const graph::Graph& graph, const graph::Node& node) {
  return std::get<runtime::PackedMatrix>(
      *graph.values[static_cast<size_t>(node.inputs[1])].constant);
}

// A table that is tied to the output matrix is there once, in the file and after it.
struct Ends {
  graph::Node *table = nullptr, *head = nullptr;
};

Ends ends_of(graph::Graph& graph) {
  Ends ends;
  for (graph::Node& node : graph.nodes) {
    if (node.is("Embedding", graph::kNibbleDomain)) ends.table = &node;
    if (node.is("Linear", graph::kNibbleDomain)) ends.head = &node;  // the last one
  }
  return ends;
}

TEST(OnnxExportFile, TiedTablesStayOne) {
  NIBBLE_NEED_MODELS();
  for (const char* weights : {"int4", "f32"}) {
    graph::Graph graph = zoo_graph("llama-gqa-rope3", {.weights = weights});
    const runtime::TemporaryFolder apart, together;
    write_onnx(graph, apart.folder());
    const Ends ends = ends_of(graph);
    ASSERT_TRUE(ends.table != nullptr && ends.head != nullptr);
    // The exporter of the zoo wrote the table twice.
    const int64_t bytes = runtime::stored_bytes(weight_of(graph, *ends.table).view);
    ends.head->inputs[1] = ends.table->inputs[1];
    write_onnx(graph, together.folder());
    const auto size = [](const runtime::TemporaryFolder& folder) {
      return static_cast<int64_t>(std::filesystem::file_size(folder.path("model.onnx_data")));
    };
    EXPECT_LE(size(together) + bytes, size(apart)) << weights;
    graph::Graph again = test::fused_graph(together.folder(), {.weights = weights}, nullptr);
    const Ends found = ends_of(again);
    ASSERT_TRUE(found.table != nullptr && found.head != nullptr);
    EXPECT_EQ(weight_of(again, *found.table).view.data, weight_of(again, *found.head).view.data)
        << weights;
  }
}

TEST(OnnxExportFile, WhatCannotBeWrittenIsRefusedAndNothingIsLeft) {
  NIBBLE_NEED_MODELS();
  const runtime::TemporaryFolder folder;
  const auto refused = [&](const graph::Graph& graph, const std::string& word) {
    try {
      write_onnx(graph, folder.folder());
      FAIL() << "no error, but one with " << word << " is expected";
    } catch (const Error& error) {
      EXPECT_NE(std::string(error.what()).find(word), std::string::npos) << error.what();
    }
    EXPECT_EQ(folder.entries(), 0);
  };
  graph::Graph graph = load_onnx(test::zoo_folder("llama"));
  refused(graph, "is not fused");
  graph::fuse(graph);
  refused(graph, "is not packed yet");
  graph = zoo_graph("llama", {.weights = "int4"});
  graph.documents["../config.json"] = "{}";
  refused(graph, "'../config.json'");
}

// Context length, eos and bos, where no document says them.
TEST(OnnxExportFile, TheConfigurationSaysWhatTheGraphKnows) {
  NIBBLE_NEED_MODELS();
  graph::Graph graph = zoo_graph("llama", {.weights = "int4"});
  for (const bool with_document : {true, false}) {
    if (!with_document) graph.documents.clear();
    graph.context_length = 100;
    graph.eos_ids = {3, 4};
    graph.bos_id = 7;
    const runtime::TemporaryFolder folder;
    write_onnx(graph, folder.folder());
    const graph::Graph again = load_onnx(folder.folder());
    EXPECT_EQ(again.context_length, 100);
    EXPECT_EQ(again.eos_ids, graph.eos_ids);
    EXPECT_EQ(again.bos_id, 7);
  }
}

}  // namespace
}  // namespace nibble::frontends
