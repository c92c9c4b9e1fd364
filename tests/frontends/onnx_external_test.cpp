// External data: mapped where it lies, and never outside the model's folder or the file's end.
#include <sys/stat.h>

#include <filesystem>

#include "tests/frontends/onnx_fixture.h"

namespace nibble::test {
namespace {

namespace fs = std::filesystem;
using Entries = std::vector<std::pair<std::string, std::string>>;

class OnnxExternalTest : public OnnxTest {
 protected:
  // tiny_decoder with "head" at these entries of external_data.
  static OnnxModel with_head(const Entries& entries) {
    OnnxModel model = tiny_decoder();
    model.initializers[1] = onnx_external("head", kOnnxFloat, {4, 8}, entries);
    return model;
  }
  static std::string numbers(int count) {
    std::vector<float> values(static_cast<size_t>(count));
    for (int i = 0; i < count; ++i) values[static_cast<size_t>(i)] = static_cast<float>(i);
    return floats_as_bytes(values);
  }
  static float first_of_head(const graph::Graph& graph) {
    return graph::to_f32(tensor_named(graph, "head"))[0];
  }
};

TEST_F(OnnxExternalTest, OffsetAndLength) {
  folder_.write("weights.bin", numbers(40));
  EXPECT_EQ(first_of_head(load(
                with_head({{"location", "weights.bin"}, {"offset", "16"}, {"length", "128"}}))),
            4.0F);
  EXPECT_EQ(first_of_head(load(with_head({{"location", "weights.bin"}}))), 0.0F);
  EXPECT_EQ(first_of_head(load(with_head({{"location", "./weights.bin"}, {"offset", "32"}}))),
            8.0F);
}

TEST_F(OnnxExternalTest, SubfoldersAreInside) {
  folder_.write("data/w.bin", numbers(32));
  EXPECT_EQ(first_of_head(load(with_head({{"location", "data/w.bin"}}))), 0.0F);
}

TEST_F(OnnxExternalTest, EachFileIsMappedOnce) {
  folder_.write("w.bin", numbers(64));
  OnnxModel model = with_head({{"location", "w.bin"}});
  model.initializers[0] =
      onnx_external("table", kOnnxFloat, {8, 4}, {{"location", "./w.bin"}, {"offset", "128"}});
  const graph::Graph graph = load(model);
  EXPECT_EQ(tensor_named(graph, "table").owner, tensor_named(graph, "head").owner);
  EXPECT_EQ(tensor_named(graph, "table").data - tensor_named(graph, "head").data, 128);
}

TEST_F(OnnxExternalTest, ConstantNodesToo) {
  folder_.write("w.bin", numbers(4));
  OnnxModel model = tiny_decoder();
  model.nodes.push_back(onnx_node(
      "Constant", {}, {"c"},
      {onnx_tensor_attribute(
          "value", onnx_external("", kOnnxFloat, {2}, {{"location", "w.bin"}, {"offset", "8"}}))}));
  EXPECT_EQ(graph::to_f32(tensor_named(load(model), "c")), (std::vector<float>{2, 3}));
}

TEST_F(OnnxExternalTest, CachesOfSymlinks) {
  folder_.write("blobs/abc", with_head({{"location", "model.onnx_data"}}).bytes());
  folder_.write("blobs/def", numbers(32));
  fs::create_directories(folder_.path("snapshots/1"));
  fs::create_symlink("../../blobs/abc", folder_.path("snapshots/1/model.onnx"));
  fs::create_symlink("../../blobs/def", folder_.path("snapshots/1/model.onnx_data"));
  EXPECT_EQ(first_of_head(frontends::load_onnx(folder_.path("snapshots/1"))), 0.0F);
}

TEST_F(OnnxExternalTest, DataBesideTheRealModel) {
  folder_.write("real/model.onnx", with_head({{"location", "w.bin"}}).bytes());
  folder_.write("real/w.bin", numbers(32));
  fs::create_symlink("real/model.onnx", folder_.path("link.onnx"));
  EXPECT_EQ(first_of_head(frontends::load_onnx(folder_.path("link.onnx"))), 0.0F);
}

TEST_F(OnnxExternalTest, MissingFile) {
  expect_error(with_head({{"location", "gone.bin"}}), {"\"head\"", "gone.bin", "No such file"});
}

TEST_F(OnnxExternalTest, EscapesAreRefused) {
  folder_.write("outside.bin", numbers(32));
  const std::string outside = folder_.path("outside.bin");
  const auto expect = [&](const std::string& location, const char* part) {
    const std::string path =
        folder_.write("inner/model.onnx", with_head({{"location", location}}).bytes());
    expect_error(path, {"\"head\"", part});
  };
  expect_error(with_head({{"location", std::string("w.bin\0", 6)}}), {"value", "UTF-8"});
  expect("../outside.bin", "leave");
  expect("x/../../outside.bin", "leave");
  expect("..", "leave");
  expect(outside, "relative");
  fs::create_symlink(outside, folder_.path("inner/link.bin"));
  expect("link.bin", "outside");
  fs::create_directory_symlink("..", folder_.path("inner/up"));
  expect("up/outside.bin", "outside");
  // A sibling whose name begins like the model's folder is outside, too.
  folder_.write("inner2/w.bin", numbers(32));
  fs::create_symlink("../inner2/w.bin", folder_.path("inner/near.bin"));
  expect("near.bin", "outside");
}

TEST_F(OnnxExternalTest, OnlyRegularFiles) {
  fs::create_directory(folder_.path("folder"));
  ASSERT_EQ(mkfifo(folder_.path("pipe").c_str(), 0600), 0);
  for (const char* location : {"folder", ".", "pipe"}) {
    expect_error(with_head({{"location", location}}), {"\"head\"", "not a regular file"});
  }
}

TEST_F(OnnxExternalTest, SizesMustFit) {
  folder_.write("w.bin", numbers(33));
  const auto expect = [&](Entries entries, const std::vector<std::string>& parts) {
    entries.insert(entries.begin(), {"location", "w.bin"});
    expect_error(with_head(entries), parts);
  };
  expect({{"length", "64"}}, {"\"head\"", "128 bytes", "length 64"});
  expect({{"length", "132"}}, {"128 bytes", "length 132"});
  expect({{"offset", "8"}}, {"\"head\"", "w.bin", "132 bytes"});
  expect({{"offset", "18446744073709551615"}}, {"132 bytes"});
  expect({{"offset", "18446744073709551616"}}, {"offset", "decimal"});
  expect({{"offset", "-4"}}, {"offset", "decimal"});
  expect({{"offset", ""}}, {"offset", "decimal"});
  expect({{"offset", " 4"}}, {"offset", "decimal"});
  expect({{"length", "0x80"}}, {"length", "decimal"});
  folder_.write("w.bin", "");
  expect({}, {"0 bytes"});
}

TEST_F(OnnxExternalTest, EntriesMustMakeSense) {
  folder_.write("w.bin", numbers(32));
  expect_error(with_head({{"offset", "0"}}), {"\"head\"", "without a location"});
  expect_error(with_head({{"location", "w.bin"}, {"offsets", "4"}}), {"\"offsets\""});
  expect_error(with_head({{"location", "w.bin"}, {"offset", "0"}, {"offset", "4"}}),
               {"two entries \"offset\""});
  OnnxModel model = with_head({{"location", "w.bin"}});
  model.initializers[1].text(9, numbers(32));
  expect_error(model, {"\"head\"", "twice"});
}

}  // namespace
}  // namespace nibble::test
