// Models written as folders with GPTQ's layout and read back: the same packed layers bit for bit,
// the same numbers elsewhere; and what the layout cannot hold refused.
#include "frontends/safetensors/gptq_export.h"

#include <fmt/format.h>
#include <gtest/gtest.h>

#include <algorithm>
#include <cstring>
#include <nlohmann/json.hpp>

#include "frontends/safetensors/tensor_file.h"
#include "graph/ops.h"
#include "jit/error.h"
#include "tests/runtime/temporary_folder.h"
#include "tests/support/fused_model.h"
#include "tests/support/same_weights.h"
#include "tests/support/zoo.h"

namespace nibble::frontends {
namespace {

using test::FusedOptions;

// Every packed u4 matrix of a Linear with zero points 0 to 15 in turn.
void set_all_zero_points(graph::Graph& graph) {
  for (const graph::Node& node : graph.nodes) {
    if (!node.is("Linear", graph::kNibbleDomain)) continue;
    auto& constant = graph.values[static_cast<size_t>(node.inputs[1])].constant;
    const jit::PackedView view = std::get<runtime::PackedMatrix>(*constant).view;
    if (view.format.type != jit::WeightType::u4) continue;
    const jit::PackedShape shape = jit::packed_shape(view.format, view.n, view.k);
    ASSERT_TRUE(view.format.asym && view.n % 16 == 0 && view.k % 8 == 0);
    runtime::PackedBuffer copy = runtime::allocate_packed(view.format, view.n, view.k);
    std::copy_n(view.data, shape.data_bytes, copy.data);
    std::copy_n(static_cast<const std::byte*>(view.scales), shape.scale_bytes,
                static_cast<std::byte*>(copy.scales));
    for (int64_t i = 0; i < shape.zero_bytes; ++i) copy.zeros[i] = static_cast<uint8_t>(i % 16);
    constant = std::move(copy.matrix);
  }
}

class GptqExport : public testing::TestWithParam<std::string> {
 protected:
  // GPTQ leaves the head in floats, which are quantized when they are read: symmetric numbers are
  // found again by that, asymmetric ones need not be.
  static graph::Graph fused(FusedOptions options) {
    options.symmetric_ends = true;
    return test::fused_graph(test::zoo_folder(GetParam()), options, nullptr);
  }

  // Exports, reads back and compares; the folder stays for more questions.
  void round_trip(const graph::Graph& graph, FusedOptions options, bool v2) {
    SCOPED_TRACE(fmt::format("groups of {}{}{}", options.group, options.asym ? ", asymmetric" : "",
                             v2 ? ", v2" : ""));
    write_gptq(graph, folder_.folder(), {.v2 = v2});
    options.isa = jit::selected_isa();
    options.symmetric_ends = true;
    graph::FusionReport report;
    const graph::Graph again =
        test::fused_graph(folder_.path("model.safetensors"), options, &report);
    ASSERT_TRUE(report.complete()) << report.nodes_unfused << " nodes are not fused";
    EXPECT_EQ(test::packed_difference(graph, again), "");
    EXPECT_EQ(again.context_length, graph.context_length);
    EXPECT_EQ(again.eos_ids, graph.eos_ids);
    const std::vector<int32_t> ids = test::zoo_reference(GetParam()).ids(0);
    const auto wanted = test::all_logits(*test::session_of(graph, options), ids);
    const auto found = test::all_logits(*test::session_of(again, options), ids);
    EXPECT_LE(test::max_abs_difference(found, wanted), 1e-5F * test::max_abs(wanted));
  }

  runtime::TemporaryFolder folder_;
};

TEST_P(GptqExport, RoundTrip) {
  NIBBLE_NEED_MODELS();
  FusedOptions options{.weights = "int4"};
  round_trip(fused(options), options, false);
  options.asym = true;
  round_trip(fused(options), options, true);
}

TEST_P(GptqExport, EveryZeroPointInBothVersions) {
  NIBBLE_NEED_MODELS();
  const FusedOptions options{.weights = "int4", .asym = true};
  graph::Graph graph = fused(options);
  set_all_zero_points(graph);
  for (const bool v2 : {false, true}) round_trip(graph, options, v2);
}

INSTANTIATE_TEST_SUITE_P(Families, GptqExport, testing::ValuesIn(test::zoo_families()),
                         test::zoo_test_name);

class GptqFormats : public GptqExport {};

TEST_P(GptqFormats, OtherGroups) {
  NIBBLE_NEED_MODELS();
  for (const int64_t group : {16, 64, 128, 0}) {
    const FusedOptions options{.weights = "int4", .group = group, .asym = group == 0};
    round_trip(fused(options), options, false);
  }
}

// The stored words: v1 wraps a zero point of 0 around to 15.
TEST_P(GptqFormats, StoredZeroPoints) {
  NIBBLE_NEED_MODELS();
  const FusedOptions options{.weights = "int4", .asym = true};
  graph::Graph graph = fused(options);
  set_all_zero_points(graph);
  for (const bool v2 : {false, true}) {
    write_gptq(graph, folder_.folder(), {.v2 = v2});
    const auto file = safetensors::read_tensor_file(folder_.path("model.safetensors"));
    const auto found = std::find_if(file.tensors.begin(), file.tensors.end(), [](const auto& t) {
      return t.name == "model.layers.1.self_attn.k_proj.qzeros";
    });
    ASSERT_NE(found, file.tensors.end());
    uint32_t words[2] = {};
    std::memcpy(words, found->tensor.data, sizeof(words));
    EXPECT_EQ(words[0], v2 ? 0x76543210U : 0x6543210FU);
    EXPECT_EQ(words[1], v2 ? 0xFEDCBA98U : 0xEDCBA987U);
    const auto config = nlohmann::json::parse(runtime::read_file(folder_.path("config.json")));
    EXPECT_EQ(config["quantization_config"]["checkpoint_format"], v2 ? "gptq_v2" : "gptq");
    EXPECT_EQ(config["quantization_config"]["group_size"], 32);
    EXPECT_EQ(config["quantization_config"]["sym"], false);
    EXPECT_EQ(config["model_type"], "llama");
  }
}

std::string message_of(const graph::Graph& graph, const std::string& folder) {
  try {
    write_gptq(graph, folder, {});
  } catch (const Error& error) {
    return error.what();
  }
  return "no error";
}

TEST_P(GptqFormats, WhatDoesNotFitIsRefusedByName) {
  NIBBLE_NEED_MODELS();
  const auto refused = [&](const graph::Graph& graph, const std::vector<std::string>& words) {
    const std::string message = message_of(graph, folder_.folder());
    for (const std::string& word : words) {
      EXPECT_NE(message.find(word), std::string::npos) << word << " in: " << message;
    }
    EXPECT_EQ(folder_.entries(), 0) << message;
  };
  refused(fused({.weights = "int8"}), {"model.layers.0.self_attn.q_proj", "u8", "--weights int4"});
  refused(fused({.weights = "f32"}), {"model.layers.0.self_attn.q_proj", "f32"});
  graph::Graph graph = fused({.weights = "int4"});
  const std::string config = graph.documents.at("config.json");
  const auto with = [&](const char* key, const nlohmann::json& value) {
    nlohmann::json changed = nlohmann::json::parse(config);
    changed[key] = value;
    graph.documents["config.json"] = changed.dump();
    return graph;
  };
  refused(with("model_type", "unheard-of"), {"model_type", "unheard-of"});
  refused(with("num_hidden_layers", 1), {"is not what", "config.json"});
  refused(with("hidden_act", "gelu"), {"activation"});
  refused(with("num_key_value_heads", 2), {"kv_heads"});
  refused(with("rope_parameters", {{"rope_theta", 5e5}, {"rope_type", "default"}}), {"number"});
  refused(with("mlp_bias", true), {"missing"});
  graph.documents.erase("config.json");
  refused(graph, {"config.json"});
}

INSTANTIATE_TEST_SUITE_P(Families, GptqFormats, testing::Values("llama"), test::zoo_test_name);

}  // namespace
}  // namespace nibble::frontends
