// The onnx reader against protobuf's own parser and the schema of libonnx: on every model at hand
// the same nodes, values, attributes and tensor bytes.
#include <google/protobuf/io/coded_stream.h>
#include <google/protobuf/io/zero_copy_stream_impl_lite.h>
#include <gtest/gtest.h>
#include <onnx/onnx_pb.h>

#include <cstring>
#include <filesystem>

#include "frontends/onnx/model_proto.h"
#include "runtime/mapped_file.h"
#include "tests/support/zoo.h"

namespace nibble::frontends::onnx {
namespace {

void expect_same(const TensorProto& ours, const ::onnx::TensorProto& theirs) {
  EXPECT_EQ(ours.name, theirs.name());
  EXPECT_EQ(ours.data_type, theirs.data_type());
  EXPECT_EQ(ours.dims, std::vector<int64_t>(theirs.dims().begin(), theirs.dims().end()));
  EXPECT_EQ(ours.data_location, static_cast<int64_t>(theirs.data_location()));
  ASSERT_EQ(ours.raw_data.has_value(), theirs.has_raw_data()) << ours.name;
  if (ours.raw_data) {
    ASSERT_EQ(ours.raw_data->size(), theirs.raw_data().size()) << ours.name;
    EXPECT_EQ(0,
              std::memcmp(ours.raw_data->data(), theirs.raw_data().data(), ours.raw_data->size()))
        << ours.name;
  }
  ASSERT_EQ(ours.external_data.size(), static_cast<size_t>(theirs.external_data_size()));
  for (size_t i = 0; i < ours.external_data.size(); ++i) {
    EXPECT_EQ(ours.external_data[i].key, theirs.external_data(static_cast<int>(i)).key());
    EXPECT_EQ(ours.external_data[i].value, theirs.external_data(static_cast<int>(i)).value());
  }
}

void expect_same(const AttributeProto& ours, const ::onnx::AttributeProto& theirs) {
  EXPECT_EQ(ours.name, theirs.name());
  EXPECT_EQ(ours.type, static_cast<int64_t>(theirs.type()));
  EXPECT_EQ(ours.i.value_or(0), theirs.i());
  EXPECT_EQ(ours.f.value_or(0.0F), theirs.f());
  EXPECT_EQ(ours.s.value_or(""), theirs.s());
  EXPECT_EQ(ours.ints, std::vector<int64_t>(theirs.ints().begin(), theirs.ints().end()));
  EXPECT_EQ(ours.floats, std::vector<float>(theirs.floats().begin(), theirs.floats().end()));
  ASSERT_EQ(ours.t != nullptr, theirs.has_t());
  if (ours.t) expect_same(*ours.t, theirs.t());
}

void expect_same(const NodeProto& ours, const ::onnx::NodeProto& theirs) {
  EXPECT_EQ(ours.name, theirs.name());
  EXPECT_EQ(ours.op_type, theirs.op_type());
  EXPECT_EQ(ours.domain, theirs.domain());
  EXPECT_TRUE(std::equal(ours.inputs.begin(), ours.inputs.end(), theirs.input().begin(),
                         theirs.input().end()));
  EXPECT_TRUE(std::equal(ours.outputs.begin(), ours.outputs.end(), theirs.output().begin(),
                         theirs.output().end()));
  ASSERT_EQ(ours.attributes.size(), static_cast<size_t>(theirs.attribute_size())) << ours.name;
  for (size_t i = 0; i < ours.attributes.size(); ++i) {
    expect_same(ours.attributes[i], theirs.attribute(static_cast<int>(i)));
  }
}

void expect_same_model(const std::string& path) {
  SCOPED_TRACE(path);
  const auto file = runtime::MappedFile::open(path);
  ::onnx::ModelProto theirs;
  google::protobuf::io::ArrayInputStream stream(file->bytes().data(),
                                                static_cast<int>(file->bytes().size()));
  google::protobuf::io::CodedInputStream coded(&stream);
  ASSERT_TRUE(theirs.ParseFromCodedStream(&coded));
  const ModelProto ours = parse_model({path, file->bytes()});
  EXPECT_EQ(ours.ir_version, theirs.ir_version());
  ASSERT_EQ(ours.opsets.size(), static_cast<size_t>(theirs.opset_import_size()));
  EXPECT_EQ(ours.opsets[0].version, theirs.opset_import(0).version());
  ASSERT_TRUE(ours.graph.has_value());
  const ::onnx::GraphProto& graph = theirs.graph();
  ASSERT_EQ(ours.graph->nodes.size(), static_cast<size_t>(graph.node_size()));
  for (int i = 0; i < graph.node_size(); ++i) {
    expect_same(ours.graph->nodes[static_cast<size_t>(i)], graph.node(i));
  }
  ASSERT_EQ(ours.graph->initializers.size(), static_cast<size_t>(graph.initializer_size()));
  for (int i = 0; i < graph.initializer_size(); ++i) {
    expect_same(ours.graph->initializers[static_cast<size_t>(i)], graph.initializer(i));
  }
  ASSERT_EQ(ours.graph->inputs.size(), static_cast<size_t>(graph.input_size()));
  for (int i = 0; i < graph.input_size(); ++i) {
    EXPECT_EQ(ours.graph->inputs[static_cast<size_t>(i)].name, graph.input(i).name());
  }
}

TEST(OnnxProtobuf, TheBundledModelReadsTheSame) {
  expect_same_model(std::string(NIBBLE_SOURCE_DIR) + "/tools/demo/tale/model.onnx");
}

TEST(OnnxProtobuf, EveryExportReadsTheSame) {
  NIBBLE_NEED_MODELS();
  for (const std::string& family : test::zoo_families()) {
    expect_same_model(test::zoo_folder(family) + "/model.onnx");
  }
}

}  // namespace
}  // namespace nibble::frontends::onnx
