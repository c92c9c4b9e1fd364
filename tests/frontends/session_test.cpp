// Sessions of the bundled model: what is appended, what is refused, and that nothing else changes.
#include "runtime/session.h"

#include <gtest/gtest.h>

#include <numeric>

#include "jit/error.h"
#include "jit/isa.h"
#include "tests/support/fused_model.h"
#include "tests/support/zoo.h"

namespace nibble {
namespace {

class SessionTest : public testing::Test {
 protected:
  static void SetUpTestSuite() {
    test::FusedOptions options;
    options.weights = "int4";
    options.isa = jit::selected_isa();
    graph_ = std::make_unique<graph::Graph>(
        test::fused_graph(std::string(NIBBLE_SOURCE_DIR) + "/tools/demo/tale", options, nullptr));
    plan_ = graph::lower(*graph_, {.compute = options.compute, .isa = options.isa});
  }
  static void TearDownTestSuite() {
    plan_.reset();
    graph_.reset();
  }

  static std::unique_ptr<runtime::Session> session(int64_t context, int64_t chunk = 512) {
    runtime::SessionOptions options;
    options.context = context;
    options.prefill_chunk = chunk;
    return std::make_unique<runtime::Session>(plan_, std::make_shared<runtime::ThreadPool>(2),
                                              options);
  }
  static std::vector<int32_t> ids(int32_t count) {
    std::vector<int32_t> values(static_cast<size_t>(count));
    std::iota(values.begin(), values.end(), 100);
    return values;
  }
  static std::vector<float> copy(std::span<const float> values) {
    return {values.begin(), values.end()};
  }

  static std::unique_ptr<graph::Graph> graph_;
  static std::shared_ptr<const runtime::Plan> plan_;
};
std::unique_ptr<graph::Graph> SessionTest::graph_;
std::shared_ptr<const runtime::Plan> SessionTest::plan_;

TEST_F(SessionTest, LastLogitsAreTheLastRowOfAllLogits) {
  const auto s = session(64, 7);
  const std::vector<float> all = test::all_logits(*s, ids(20));
  s->reset();
  const std::vector<float> last = copy(s->forward(ids(20)));
  const auto vocab = static_cast<size_t>(s->vocab_size());
  EXPECT_EQ(last, std::vector<float>(all.end() - static_cast<int64_t>(vocab), all.end()));
  EXPECT_EQ(s->position(), 20);
}

TEST_F(SessionTest, ResetForgetsEverything) {
  const auto s = session(64);
  const std::vector<float> fresh = copy(s->forward(ids(5)));
  s->forward(ids(30));
  s->reset();
  EXPECT_EQ(s->position(), 0);
  EXPECT_EQ(copy(s->forward(ids(5))), fresh);
}

TEST_F(SessionTest, PopulatingChangesNothingThatIsHeld) {
  const auto s = session(64);
  s->forward(ids(5));
  const std::vector<float> expected = copy(s->forward(ids(3)));
  s->reset();
  s->populate(64);
  s->forward(ids(5));
  s->populate(1 << 20);
  EXPECT_EQ(copy(s->forward(ids(3))), expected);
}

TEST_F(SessionTest, AfterRewindingTheRestIsAsIfNothingElseHadBeen) {
  for (const jit::KvType kv :
       {jit::KvType::int16, jit::KvType::int8, jit::KvType::f16, jit::KvType::bf16_pairs}) {
    runtime::SessionOptions options;
    options.context = 64;
    options.kv = kv;
    const auto pool = std::make_shared<runtime::ThreadPool>(2);
    runtime::Session whole(plan_, pool, options), rewound(plan_, pool, options);
    const std::vector<float> expected = copy(whole.forward(ids(25)));
    const std::vector<int32_t> all = ids(25);
    rewound.forward(std::span(all).first(13));
    rewound.forward(std::vector<int32_t>(30, 7));
    EXPECT_FALSE(rewound.rewind(44));
    EXPECT_FALSE(rewound.rewind(-1));
    EXPECT_EQ(rewound.position(), 43);
    ASSERT_TRUE(rewound.rewind(13));
    EXPECT_EQ(copy(rewound.forward(std::span(all).subspan(13))), expected);
  }
}

TEST_F(SessionTest, TheContextIsNeverOverrun) {
  const auto s = session(32);
  s->forward(ids(30));
  EXPECT_THROW(s->forward(ids(3)), Error);
  EXPECT_EQ(s->position(), 30) << "nothing is appended";
  s->forward(ids(2));
  EXPECT_EQ(s->position(), 32);
  EXPECT_THROW(s->forward(ids(1)), Error);
}

TEST_F(SessionTest, IdsOutsideTheVocabularyAreRefusedWhole) {
  const auto s = session(32);
  const std::vector<int32_t> wrong = {1, 2, static_cast<int32_t>(s->vocab_size())};
  EXPECT_THROW(s->forward(wrong), Error);
  EXPECT_THROW(s->forward(std::vector<int32_t>{-1}), Error);
  EXPECT_THROW(s->forward({}), Error);
  EXPECT_EQ(s->position(), 0);
}

TEST_F(SessionTest, TheBufferOfAllLogitsMustFit) {
  const auto s = session(32);
  std::vector<float> small(static_cast<size_t>(s->vocab_size()));
  EXPECT_THROW(s->forward_all(ids(2), small), Error);
  EXPECT_EQ(s->position(), 0);
}

TEST_F(SessionTest, ContextsBeyondTheModelsAreRefused) {
  EXPECT_EQ(session(0)->context_length(), plan_->context_length);
  EXPECT_THROW(session(plan_->context_length + 1), Error);
  EXPECT_THROW(session(-1), Error);
  EXPECT_THROW(session(16, 0), Error);
}

TEST_F(SessionTest, MemoryIsWhatThePlanSays) {
  const auto s = session(128);
  const runtime::SessionMemory memory = s->memory();
  EXPECT_EQ(memory.weight_bytes, plan_->weight_bytes);
  EXPECT_GE(memory.arena_bytes, plan_->row_bytes * 128);
  // 6 layers, 2 KV heads of 64, keys and values, int16 with a scale a position, in pages of 256.
  EXPECT_EQ(memory.kv_bytes, 6 * 2 * (64 * 2 * 2 + 2 * 4) * 256);
}

TEST_F(SessionTest, PlanCountsWhatDecodingReads) {
  int64_t bytes = 0, macs = 0;
  for (const runtime::Step& step : plan_->steps) {
    bytes += step.weight_bytes;
    macs += step.macs;
  }
  EXPECT_EQ(plan_->weight_bytes_per_token, bytes);
  EXPECT_EQ(plan_->macs_per_token, macs);
  // hidden 256, MLP 768, 6 layers; q, k, v, o, gate, up, down; the head of 4096 columns.
  EXPECT_EQ(macs, 6 * (256 * (256 + 128 + 128) + 256 * 256 + 3 * 256 * 768) + 256 * 4096);
}

TEST_F(SessionTest, StepsAfterTheLastAttentionAreTail) {
  bool tail = false;
  for (const runtime::Step& step : plan_->steps) {
    EXPECT_TRUE(!tail || step.tail) << "once tail, always tail: " << step.label;
    tail = step.tail;
  }
  EXPECT_TRUE(tail);
}

}  // namespace
}  // namespace nibble
