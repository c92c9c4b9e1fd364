// Every export of the zoo fused, compiled and run by generated code, against the models' own
// outputs and against the unfused graph on dequantized weights; and the same bits everywhere.
#include <gtest/gtest.h>

#include <algorithm>
#include <filesystem>

#include "frontends/onnx/onnx.h"
#include "graph/interpreted_decoder.h"
#include "jit/isa.h"
#include "quant/formats/dequantize.h"
#include "tests/runtime/temporary_folder.h"
#include "tests/support/fused_model.h"
#include "tests/support/zoo.h"

namespace nibble {
namespace {

using test::FusedOptions;

// All of them fuse wholly.
std::vector<std::string> fused_families() {
  std::vector<std::string> names(test::zoo_families().begin(), test::zoo_families().end());
  names.insert(names.end(), std::begin(test::kZooDynamo), std::end(test::kZooDynamo));
  return names;
}

class ZooFused : public testing::TestWithParam<std::string> {};

TEST_P(ZooFused, LogitsAgreeWithTheReference) {
  NIBBLE_NEED_MODELS();
  const test::Reference reference = test::zoo_reference(GetParam());
  FusedOptions options;
  options.isa = jit::selected_isa();
  graph::FusionReport report;
  const graph::Graph graph = test::fused_graph(test::zoo_folder(GetParam()), options, &report);
  ASSERT_TRUE(report.complete()) << report.nodes_unfused << " nodes are not fused";
  EXPECT_EQ(report.coverage(), 1.0);
  const auto session = test::session_of(graph, options);
  for (int64_t row = 0; row < reference.batch(); ++row) {
    const auto wanted = reference.row_logits(row);
    const std::vector<float> logits = test::all_logits(*session, reference.ids(row));
    EXPECT_LE(test::max_abs_difference(logits, wanted), 1e-4F * test::max_abs(wanted))
        << "row " << row;
  }
}

TEST_P(ZooFused, GreedyIdsComeFromTheCache) {
  NIBBLE_NEED_MODELS();
  const test::Reference reference = test::zoo_reference(GetParam());
  if (reference.greedy.empty()) GTEST_SKIP() << "this export has no greedy reference";
  FusedOptions options;
  options.isa = jit::selected_isa();
  const graph::Graph graph = test::fused_graph(test::zoo_folder(GetParam()), options, nullptr);
  const auto session = test::session_of(graph, options);
  EXPECT_EQ(test::greedy_ids(*session, reference.prompt, reference.greedy.size()),
            reference.greedy);
}

// Same bits for every ISA, number of threads and way to cut the prompt.
TEST_P(ZooFused, SameBitsEverywhere) {
  NIBBLE_NEED_MODELS();
  const test::Reference reference = test::zoo_reference(GetParam());
  for (const auto& [weights, kv] :
       {std::pair{"int4", jit::KvType::int16}, std::pair{"int8", jit::KvType::int8},
        std::pair{"int4", jit::KvType::bf16}, std::pair{"f32", jit::KvType::f16}}) {
    FusedOptions options;
    options.weights = weights;
    options.kv = kv;
    const graph::Graph graph = test::fused_graph(test::zoo_folder(GetParam()), options, nullptr);
    options.threads = 1;
    const auto expected = test::all_logits(*test::session_of(graph, options), reference.ids(0));
    for (jit::Isa isa : jit::supported_isas()) {
      options.isa = isa;
      for (const auto& [threads, chunk] : {std::pair<int, int64_t>{1, 7}, {2, 512}, {2, 1}}) {
        options.threads = threads;
        options.prefill_chunk = chunk;
        const auto found = test::all_logits(*test::session_of(graph, options), reference.ids(0));
        EXPECT_TRUE(found == expected) << weights << " weights on " << jit::isa_name(isa) << ", "
                                       << threads << " threads, chunks of " << chunk;
      }
    }
  }
}

// What a shorter cache type costs, relative to the largest logit with fp32 everywhere.
TEST_P(ZooFused, CacheTypesAgreeWithF32) {
  NIBBLE_NEED_MODELS();
  const test::Reference reference = test::zoo_reference(GetParam());
  FusedOptions options;
  options.isa = jit::selected_isa();
  const graph::Graph graph = test::fused_graph(test::zoo_folder(GetParam()), options, nullptr);
  const auto exact = test::all_logits(*test::session_of(graph, options), reference.ids(0));
  for (const auto& [kv, tolerance] :
       {std::pair{jit::KvType::f16, 2e-3F}, std::pair{jit::KvType::int16, 5e-4F},
        std::pair{jit::KvType::bf16, 1e-2F}, std::pair{jit::KvType::int8, 6e-2F}}) {
    options.kv = kv;
    const auto found = test::all_logits(*test::session_of(graph, options), reference.ids(0));
    EXPECT_LE(test::max_abs_difference(found, exact), tolerance * test::max_abs(exact))
        << jit::kv_type_name(kv);
    EXPECT_GT(test::max_abs_difference(found, exact), 0.0F) << jit::kv_type_name(kv);
  }
}

// Through the head's bias, or the softcap of its logits.
bool leads_to_logits(const graph::Graph& graph, const std::vector<std::vector<int32_t>>& users,
                     graph::ValueId id) {
  while (id != graph.io.logits) {
    const auto& all = users[static_cast<size_t>(id)];
    if (all.size() != 1) return false;
    const graph::Node& next = graph.nodes[static_cast<size_t>(all[0])];
    if (!next.is("Add") && !next.is("Div") && !next.is("Tanh") && !next.is("Mul")) return false;
    id = next.outputs[0];
  }
  return true;
}

// Replaces the value of every matmul weight and embedding table of an unfused graph by what its
// quantized form stands for.
void dequantize_weights(graph::Graph& graph, int64_t vocabulary,
                        const quant::QuantizeOptions& options) {
  runtime::ThreadPool pool(2);
  const auto users = graph::consumers(graph);
  for (size_t id = 0; id < graph.values.size(); ++id) {
    const graph::TensorData* tensor = graph.tensor(static_cast<graph::ValueId>(id));
    if (tensor == nullptr || tensor->shape.size() != 2 || tensor->dtype != graph::DType::f32)
      continue;
    bool k_major = true, table = false, head = false, weight = false;
    for (int32_t index : users[id]) {
      const graph::Node& node = graph.nodes[static_cast<size_t>(index)];
      weight = weight || node.is("MatMul") || node.is("Gemm") || node.is("Gather");
      if (node.is("Gather")) table = true;
      if (node.is("Gemm")) k_major = node.get_int("transB", 0) == 0;
      head = head || leads_to_logits(graph, users, node.outputs[0]);
    }
    // Learned positions are a table too, but stay float.
    if (!weight || (table && tensor->shape[0] != vocabulary)) continue;
    if (table) k_major = false;
    const auto& format = head ? options.head : table ? options.embedding : options.linear;
    const auto packed = quant::quantize_matrix(graph::MatrixSource::whole(*tensor, k_major), format,
                                               options.range, graph.values[id].name, pool);
    graph.values[id].constant = quant::dequantize(packed, k_major);
  }
}

TEST_P(ZooFused, Int4ComputeF32EqualsTheUnfusedGraphOnDequantizedWeights) {
  NIBBLE_NEED_MODELS();
  const std::string family = GetParam();
  const test::Reference reference = test::zoo_reference(family);
  FusedOptions options;
  options.weights = "int4";
  options.compute = graph::Compute::f32;
  options.isa = jit::selected_isa();
  const graph::Graph fused = test::fused_graph(test::zoo_folder(family), options, nullptr);
  auto unfused = std::make_shared<graph::Graph>(frontends::load_onnx(test::zoo_folder(family)));
  dequantize_weights(
      *unfused, reference.vocabulary(),
      quant::default_options("int4", options.group, options.asym, jit::ScaleType::f16));
  graph::InterpretedDecoder decoder(unfused, 0);
  const auto wanted = test::all_logits(decoder, reference.ids(0));
  const auto found = test::all_logits(*test::session_of(fused, options), reference.ids(0));
  EXPECT_LE(test::max_abs_difference(found, wanted), 1e-4F * test::max_abs(wanted));
}

// A model file alone: its tables of positions tell how far it goes.
TEST_P(ZooFused, WithoutItsConfiguration) {
  NIBBLE_NEED_MODELS();
  const test::Reference reference = test::zoo_reference(GetParam());
  const runtime::TemporaryFolder folder;
  std::filesystem::create_symlink(test::zoo_folder(GetParam()) + "/model.onnx",
                                  folder.path("model.onnx"));
  FusedOptions options;
  options.isa = jit::selected_isa();
  graph::FusionReport report;
  const graph::Graph graph = test::fused_graph(folder.folder(), options, &report);
  ASSERT_TRUE(report.complete()) << report.nodes_unfused << " nodes are not fused";
  const auto wanted = reference.row_logits(0);
  const auto logits = test::all_logits(*test::session_of(graph, options), reference.ids(0));
  EXPECT_LE(test::max_abs_difference(logits, wanted), 1e-4F * test::max_abs(wanted));
}

INSTANTIATE_TEST_SUITE_P(Families, ZooFused, testing::ValuesIn(fused_families()),
                         test::zoo_test_name);

// Quantized by its exporter: fused it computes what its own operators do, on the very numbers.
TEST(GenaiFused, EqualsItsOperators) {
  NIBBLE_NEED_MODELS();
  const test::Reference reference = test::zoo_reference(test::kZooGenai);
  const std::string folder = test::zoo_folder(test::kZooGenai);
  graph::InterpretedDecoder operators(
      std::make_shared<const graph::Graph>(frontends::load_onnx(folder)), 0);
  const auto wanted = test::all_logits(operators, reference.ids(0));
  FusedOptions options;
  options.isa = jit::selected_isa();
  options.compute = graph::Compute::f32;
  for (const char* weights : {"int4", "int8", "f32"}) {
    options.weights = weights;  // int4 or int8: of what is not quantized, which is nothing
    graph::FusionReport report;
    const graph::Graph graph = test::fused_graph(folder, options, &report);
    ASSERT_TRUE(report.complete()) << report.nodes_unfused << " nodes are not fused";
    const auto found = test::all_logits(*test::session_of(graph, options), reference.ids(0));
    EXPECT_LE(test::max_abs_difference(found, wanted), 1e-5F * test::max_abs(wanted)) << weights;
  }
}

TEST(GenaiFused, Int8AgreesWithTheReference) {
  NIBBLE_NEED_MODELS();
  const test::Reference reference = test::zoo_reference(test::kZooGenai);
  FusedOptions options;
  options.weights = "int4";
  options.isa = jit::selected_isa();
  const graph::Graph graph = test::fused_graph(test::zoo_folder(test::kZooGenai), options, nullptr);
  const auto wanted = reference.row_logits(0);
  const auto found = test::all_logits(*test::session_of(graph, options), reference.ids(0));
  EXPECT_LE(test::max_abs_difference(found, wanted), 5e-3F * test::max_abs(wanted));
  const auto vocabulary = static_cast<size_t>(reference.vocabulary());
  for (size_t row = 0; row < found.size(); row += vocabulary) {
    EXPECT_EQ(test::argmax(std::span(found).subspan(row, vocabulary)),
              test::argmax(wanted.subspan(row, vocabulary)));
  }
}

TEST(GenaiFused, SameBitsEverywhere) {
  NIBBLE_NEED_MODELS();
  const std::vector<int32_t> ids = test::zoo_reference(test::kZooGenai).ids(0);
  FusedOptions options;
  options.weights = "int4";
  options.kv = jit::KvType::int16;
  const graph::Graph graph = test::fused_graph(test::zoo_folder(test::kZooGenai), options, nullptr);
  options.threads = 1;
  const auto expected = test::all_logits(*test::session_of(graph, options), ids);
  for (const jit::Isa isa : jit::supported_isas()) {
    options.isa = isa;
    for (const auto& [threads, chunk] : {std::pair<int, int64_t>{1, 7}, {2, 512}, {2, 1}}) {
      options.threads = threads;
      options.prefill_chunk = chunk;
      EXPECT_TRUE(test::all_logits(*test::session_of(graph, options), ids) == expected)
          << jit::isa_name(isa) << ", " << threads << " threads, chunks of " << chunk;
    }
  }
}

TEST(GenaiFused, ConfigurationIsRead) {
  NIBBLE_NEED_MODELS();
  const graph::Graph graph = frontends::load_onnx(test::zoo_folder(test::kZooGenai));
  EXPECT_EQ(graph.context_length, 256);
  EXPECT_EQ(graph.eos_ids, std::vector<int64_t>{1});
  EXPECT_EQ(graph.bos_id, 0);
}

TEST(TaleFused, LogitsAgreeWithTheReference) {
  NIBBLE_NEED_MODELS();
  const test::Reference reference = test::tale_reference();
  FusedOptions options;
  options.isa = jit::selected_isa();
  for (const auto& [variant, tolerance] :
       {std::pair<const char*, float>{"onnx-fp32", 1e-4F}, {"onnx-fp16", 1e-2F}}) {
    const graph::Graph graph = test::fused_graph(test::tale_folder(variant), options, nullptr);
    const auto wanted = reference.row_logits(0);
    const auto logits = test::all_logits(*test::session_of(graph, options), reference.ids(0));
    EXPECT_LE(test::max_abs_difference(logits, wanted), tolerance * test::max_abs(wanted))
        << variant;
  }
}

}  // namespace
}  // namespace nibble
