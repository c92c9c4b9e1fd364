// Prompts of more rows than an L2 keeps the activations of: threads share chunks of rows, whose
// bits are those of every row by itself.
#include <gtest/gtest.h>

#include "graph/lower.h"
#include "graph/ops.h"
#include "jit/gemm_blocking.h"
#include "quant/formats/random_weights.h"
#include "runtime/session.h"
#include "tests/graph/pass_fixture.h"
#include "tests/support/generated_code.h"

namespace nibble::graph {
namespace {

// Columns are no whole number of any tile's; long rows make chunks short.
constexpr int64_t kWidth = 8192, kColumns = 80, kRows = 301;

// A gate and a matmul with bias and residual.
Graph two_matmuls(runtime::ThreadPool& pool) {
  test::GraphMaker make;
  const auto weight = [&](const std::string& name, int64_t n, uint64_t seed) {
    return make.graph.add_constant(name, Constant(quant::random_matrix({}, n, kWidth, seed, pool)));
  };
  const auto fused = [&](const std::string& op, const std::string& name,
                         std::vector<ValueId> inputs, std::map<std::string, Attribute> attributes) {
    return make.node(op, name, std::move(inputs), std::move(attributes),
                     std::string(kNibbleDomain));
  };
  const ValueId x =
      fused("Embedding", "x", {make.graph.io.input_ids, weight("table", kColumns, 1)}, {});
  const ValueId gate =
      fused("Linear", "gate", {x, weight("gate_up", 2 * kColumns, 2), kNoValue},
            {{"gate", int64_t{1}}, {"columns", kColumns}, {"activation", std::string("silu")}});
  const ValueId bias =
      make.constant("bias", {kColumns}, std::vector<float>(static_cast<size_t>(kColumns), 0.5F));
  make.finish(fused("Linear", "out", {x, weight("w", kColumns, 3), bias, gate}, {}));
  make.graph.context_length = kRows;
  return make.graph;
}

// Threads that share columns alone, as those of several nodes do.
std::shared_ptr<runtime::ThreadPool> of_two_nodes(int threads) {
  runtime::Placement placement = runtime::ThreadPool(threads).placement();
  placement.nodes.resize(2, placement.nodes.at(0));
  return std::make_shared<runtime::ThreadPool>(std::move(placement));
}

TEST(RowChunks, GiveTheBitsOfEveryRowByItself) {
  auto pool = std::make_shared<runtime::ThreadPool>(1);
  const Graph graph = two_matmuls(*pool);
  std::vector<int32_t> ids;
  for (int64_t i = 0; i < kRows; ++i) ids.push_back(static_cast<int32_t>(i * 7 % kColumns));
  for (const Compute compute : {Compute::int8, Compute::f32}) {
    for (const jit::Isa isa : jit::supported_isas()) {
      SCOPED_TRACE(jit::isa_name(isa));
      const auto plan = lower(graph, {.compute = compute, .isa = isa});
      for (const runtime::Step& step : plan->steps) {
        const auto* gemm = std::get_if<runtime::GemmStep>(&step.body);
        if (gemm == nullptr) continue;
        const jit::KernelKey& key = gemm->kernel(kRows).key;
        EXPECT_LT(jit::chunk_rows(std::get<jit::GemmSpec>(key.spec), key.tiling), kRows / 2);
      }
      std::vector<float> expected;
      runtime::Session alone(plan, pool, {});
      for (const int32_t id : std::span(ids).first(static_cast<size_t>(kColumns))) {
        alone.reset();
        const std::span<const float> row = alone.forward(std::span(&id, 1));
        expected.insert(expected.end(), row.begin(), row.end());
      }
      std::vector<std::shared_ptr<runtime::ThreadPool>> pools = {of_two_nodes(3)};
      for (const int threads : {1, 2, 3, 5}) {
        pools.push_back(std::make_shared<runtime::ThreadPool>(threads));
      }
      for (const auto& threads : pools) {
        runtime::Session session(plan, threads, {.prefill_chunk = kRows});
        std::vector<float> all(static_cast<size_t>(kRows * kColumns));
        session.forward_all(ids, all);
        for (int64_t r = 0; r < kRows; ++r) {
          ASSERT_TRUE(test::same_bits(
              std::span<const float>(all).subspan(static_cast<size_t>(r * kColumns), kColumns),
              std::span<const float>(expected).subspan(static_cast<size_t>(r % kColumns * kColumns),
                                                       kColumns)))
              << threads->size() << " threads of " << threads->placement().nodes.size()
              << " nodes, row " << r;
        }
      }
    }
  }
}

}  // namespace
}  // namespace nibble::graph
