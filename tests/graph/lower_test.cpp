// Lowering: the steps that a small fused graph becomes, and operands that do not fit it, each
// refused by name before any kernel sees them.
#include "graph/lower.h"

#include <gtest/gtest.h>

#include "graph/ops.h"
#include "jit/error.h"
#include "quant/formats/random_weights.h"
#include "runtime/session.h"
#include "tests/graph/pass_fixture.h"

namespace nibble::graph {
namespace {

using test::GraphMaker;

constexpr int64_t kWidth = 64, kVocabulary = 96, kHeads = 4, kKvHeads = 2, kHeadDim = 16;

// Ids to weights of a one-layer model; tests change one thing before lowering it.
class LowerTest : public testing::Test {
 protected:
  LowerTest() : pool_(1) {
    const ValueId x =
        fused("Embedding", "x", {make_.graph.io.input_ids, weight("table", kVocabulary, kWidth)});
    const ValueId normed =
        fused("RMSNorm", "normed", {x, make_.constant("gamma", {kWidth}, ones(kWidth))},
              {{"epsilon", 1e-5F}});
    const int64_t qkv_width = (kHeads + 2 * kKvHeads) * kHeadDim;
    const ValueId qkv = fused("Linear", "qkv",
                              {normed, weight("wqkv", qkv_width, kWidth),
                               make_.constant("bias", {qkv_width}, ones(qkv_width))});
    const ValueId attended =
        fused("Attention", "attended",
              {qkv, make_.constant("inv_freq", {kHeadDim / 2}, ones(kHeadDim / 2)), kNoValue},
              {{"layer", int64_t{0}},
               {"heads", kHeads},
               {"kv_heads", kKvHeads},
               {"head_dim", kHeadDim},
               {"scale", 0.25F},
               {"rotary", kHeadDim}});
    const ValueId out =
        fused("Linear", "out", {attended, weight("wo", kWidth, kHeads * kHeadDim), kNoValue, x});
    make_.finish(fused("Linear", "logits", {out, weight("head", kVocabulary, kWidth)}));
    make_.graph.context_length = 32;
  }

  static std::vector<float> ones(int64_t count) {
    return std::vector<float>(static_cast<size_t>(count), 1.0F);
  }
  ValueId weight(const std::string& name, int64_t n, int64_t k) {
    return make_.graph.add_constant(name, Constant(quant::random_matrix({}, n, k, 7, pool_)));
  }
  ValueId fused(const std::string& op, const std::string& name, std::vector<ValueId> inputs,
                std::map<std::string, Attribute> attributes = {}) {
    return make_.node(op, name, std::move(inputs), std::move(attributes),
                      std::string(kNibbleDomain));
  }
  Node& node(const std::string& name) {
    for (Node& n : make_.graph.nodes) {
      if (n.name == name) return n;
    }
    throw Error("no node " + name);
  }

  // What lowering says; "" when it succeeds.
  std::string refusal() {
    try {
      lower(make_.graph, {.compute = Compute::int8, .isa = jit::selected_isa()});
      return "";
    } catch (const Error& error) {
      return error.what();
    }
  }
  void expect_refused(const std::string& name, const std::string& part) {
    const std::string text = refusal();
    EXPECT_NE(text.find("'" + name + "'"), std::string::npos) << text;
    EXPECT_NE(text.find(part), std::string::npos) << text;
  }

  runtime::ThreadPool pool_;
  GraphMaker make_;
};

TEST_F(LowerTest, EmitsTheStepsInOrder) {
  const auto plan = lower(make_.graph, {.compute = Compute::int8, .isa = jit::selected_isa()});
  std::vector<size_t> kinds;
  for (const runtime::Step& step : plan->steps) kinds.push_back(step.body.index());
  // embed, norm with its quantization, qkv, cache, attention, quantize, out, quantize, head
  EXPECT_EQ(kinds, (std::vector<size_t>{0, 2, 1, 4, 5, 2, 1, 2, 1}));
  EXPECT_EQ(plan->vocab_size, kVocabulary);
  EXPECT_EQ(plan->context_length, 32);
  runtime::Session session(plan, std::make_shared<runtime::ThreadPool>(2), {});
  const std::vector<int32_t> ids = {1, 2, 3};
  for (float logit : session.forward(ids)) ASSERT_TRUE(std::isfinite(logit));
}

// Rows of bf16 are rounded once, by whoever makes them, and have neither scales nor sums.
TEST_F(LowerTest, Bf16RoundsRowsWhereInt8Quantizes) {
  const auto plan = lower(make_.graph, {.compute = Compute::bf16, .isa = jit::selected_isa()});
  int rounded = 0, matmuls = 0;
  for (const runtime::Step& step : plan->steps) {
    if (const auto* row = std::get_if<runtime::RowStep>(&step.body)) {
      EXPECT_TRUE(std::get<jit::RowSpec>(row->kernel->key.spec).bf16) << step.label;
      EXPECT_TRUE(row->quantized.q.present());
      EXPECT_FALSE(row->quantized.scale.present());
      ++rounded;
    }
    const auto* gemm = std::get_if<runtime::GemmStep>(&step.body);
    if (gemm == nullptr) continue;
    EXPECT_EQ(std::get<jit::GemmSpec>(gemm->kernel(1).key.spec).act, jit::ActType::bf16);
    ++matmuls;
  }
  EXPECT_EQ(rounded, 3);
  EXPECT_EQ(matmuls, 3);
  EXPECT_EQ(plan->notes.back(), "bf16 compute");
}

// No kernel multiplies bf16 by weights with minimums.
TEST(Activations, AreThoseOfTheWeights) {
  const jit::WeightFormat plain{}, floats{.type = jit::WeightType::f32};
  const jit::WeightFormat minimums{.asym = true, .minimum = true};
  EXPECT_EQ(activations_of(Compute::int8, plain), jit::ActType::s8);
  EXPECT_EQ(activations_of(Compute::bf16, plain), jit::ActType::bf16);
  EXPECT_EQ(activations_of(Compute::f32, plain), jit::ActType::f32);
  EXPECT_EQ(activations_of(Compute::int8, minimums), jit::ActType::s8);
  EXPECT_EQ(activations_of(Compute::bf16, minimums), jit::ActType::f32);
  for (const Compute compute : {Compute::int8, Compute::bf16, Compute::f32}) {
    EXPECT_EQ(activations_of(compute, floats), jit::ActType::f32);
  }
}

// Every thread may repeat a row kernel; nobody waits behind it, so what it reads must outlive the
// step that follows.
TEST_F(LowerTest, RowKernelsAreReplicableAndTheirInputsLiveOn) {
  const auto plan = lower(make_.graph, {});
  int replicable = 0;
  for (size_t i = 0; i < plan->steps.size(); ++i) {
    const runtime::Step& step = plan->steps[i];
    const auto* row = std::get_if<runtime::RowStep>(&step.body);
    EXPECT_EQ(step.replicable, row != nullptr) << step.label;
    if (row == nullptr) continue;
    ++replicable;
    EXPECT_FALSE(row->x.replicable);
    EXPECT_TRUE(row->quantized.q.replicable);
    const auto& next = std::get<runtime::GemmStep>(plan->steps[i + 1].body);
    EXPECT_TRUE(next.quantized.q.replicable && next.quantized.scale.replicable);
    EXPECT_FALSE(next.out.replicable);
    if (next.out.place == runtime::Operand::kLogits) continue;
    const auto overlap = [](const runtime::Operand& a, const runtime::Operand& b) {
      return a.place < b.place + b.width * 4 && b.place < a.place + a.width * 4;
    };
    EXPECT_FALSE(overlap(row->x, next.out)) << step.label;
  }
  EXPECT_GE(replicable, 3);
}

TEST_F(LowerTest, TakesTilingsFromTheDatabaseThatWereMeasuredWithAsManyThreads) {
  const jit::Isa isa = jit::selected_isa();
  const jit::GemmSpec spec{.weight = {}, .n = kVocabulary, .k = kWidth};
  const jit::Tiling tiling{.mr = 1, .nr = 2, .k_unroll = 2, .prefetch_l1 = 512};
  runtime::TuningDb db;
  db.state = runtime::TuningState::usable;
  db.entries[{jit::name(jit::KernelSpec(spec)), isa, 1, 2}] = {
      .winner = jit::name(tiling), .candidates = {{jit::name(tiling), {1, 1, 1, 1}}}};
  const auto head_of = [&](int threads) {
    const auto plan = lower(
        make_.graph, {.compute = Compute::int8, .isa = isa, .tunings = &db, .threads = threads});
    return std::pair(plan->tuned, *std::get_if<runtime::GemmStep>(&plan->steps.back().body));
  };
  const auto [tuned, head] = head_of(2);
  EXPECT_EQ(tuned, 1);
  EXPECT_EQ(head.kernel(1).key.tiling, tiling);
  for (const int64_t rows : {4, 8, 16, 512}) {
    EXPECT_EQ(head.kernel(rows).key.tiling, jit::default_tiling(spec, isa, rows));
  }
  EXPECT_EQ(&head.kernel(2), &head.kernel(4));
  EXPECT_EQ(&head.kernel(5), &head.kernel(8));
  EXPECT_EQ(&head.kernel(9), &head.kernel(16));
  EXPECT_EQ(&head.kernel(17), &head.kernel(4096));
  const auto [others, same] = head_of(1);
  EXPECT_EQ(others, 0);
  EXPECT_EQ(same.kernel(1).key.tiling, jit::default_tiling(spec, isa, 1));
}

TEST_F(LowerTest, RefusesVectorsOfTheWrongLength) {
  const ValueId shorter = make_.constant("short", {kWidth / 2}, ones(kWidth / 2));
  for (const auto& [name, operand] : {std::pair<std::string, size_t>{"normed", 1},
                                      {"qkv", 2},
                                      {"attended", 1},
                                      {"attended", 2}}) {
    const ValueId kept = node(name).inputs[operand];
    node(name).inputs[operand] = shorter;
    expect_refused(name, "found [32]");
    node(name).inputs[operand] = kept;
  }
  EXPECT_EQ(refusal(), "");
}

TEST_F(LowerTest, RefusesWeightsThatDoNotFitTheirInput) {
  node("out").inputs[1] = weight("narrow", kWidth, kWidth / 2);
  expect_refused("out", "expects rows of 32");
}

TEST_F(LowerTest, RefusesResidualsOfAnotherWidth) {
  node("out").inputs[3] = node("qkv").outputs[0];
  expect_refused("out", "expects rows of 64");
}

TEST_F(LowerTest, RefusesImpossibleHeads) {
  for (const auto& [key, value] : {std::pair<std::string, int64_t>{"kv_heads", 0},
                                   {"heads", -4},
                                   {"rotary", 17},
                                   {"rotary", 2 * kHeadDim},
                                   {"window", -1}}) {
    const Attribute kept =
        node("attended").has(key) ? node("attended").attributes[key] : Attribute(int64_t{0});
    node("attended").attributes[key] = value;
    expect_refused("attended", "heads of");
    node("attended").attributes[key] = kept;
  }
  EXPECT_EQ(refusal(), "");
}

TEST_F(LowerTest, RefusesPositionTablesThatDoNotFit) {
  node("x").inputs.push_back(make_.matrix("positions", 32, kWidth));
  EXPECT_EQ(refusal(), "");
  node("x").attributes["position_offset"] = int64_t{-1};
  expect_refused("x", "position table");
  node("x").attributes["position_offset"] = int64_t{32};
  expect_refused("x", "position table");
  node("x").attributes.clear();
  node("x").inputs[2] = make_.matrix("wide", 16, 2 * kWidth);
  expect_refused("x", "position table");
}

TEST_F(LowerTest, RefusesNodesThatAreNotFused) {
  node("normed").domain = "";
  node("normed").op = "Frobnicate";
  expect_refused("normed", "Frobnicate");
}

TEST_F(LowerTest, RefusesWeightsThatAreNotPacked) {
  const TensorData plain = *make_.graph.tensor(make_.matrix("source", kWidth, kWidth));
  node("out").inputs[1] =
      make_.graph.add_constant("plain", Constant(MatrixSource::whole(plain, true)));
  expect_refused("plain", "not packed");
}

TEST_F(LowerTest, RefusesContextsWhoseSizesCannotBeCounted) {
  make_.graph.context_length = int64_t{1} << 60;
  const auto plan = lower(make_.graph, {.compute = Compute::int8, .isa = jit::selected_isa()});
  EXPECT_THROW(runtime::Session(plan, std::make_shared<runtime::ThreadPool>(1), {}), Error);
}

}  // namespace
}  // namespace nibble::graph
