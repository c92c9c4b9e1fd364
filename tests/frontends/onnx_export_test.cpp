// Models written as ONNX and read back: the same packed weights bit for bit, and the same logits.
#include <gtest/gtest.h>
#include <onnx/onnx_pb.h>

#include <algorithm>
#include <fstream>
#include <set>

#include "frontends/onnx/export_onnx.h"
#include "frontends/onnx/export_weights.h"
#include "frontends/onnx/onnx.h"
#include "graph/ops.h"
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

std::string test_name(const testing::TestParamInfo<std::string>& info) {
  std::string name = info.param;
  std::replace(name.begin(), name.end(), '-', '_');
  return name;
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

INSTANTIATE_TEST_SUITE_P(Families, OnnxExport, testing::ValuesIn(test::zoo_families()), test_name);

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
                         test_name);

}  // namespace
}  // namespace nibble::frontends
