// Attention of a session, in passes of every length and on any number of threads, against the plain
// C++ reference of one head at a time. The sessions' plan has nothing else in it: token ids are
// embedded as rows of queries, keys and values, and what attention makes of them is the logits.
#include <gtest/gtest.h>

#include <algorithm>
#include <cmath>
#include <random>
#include <tuple>

#include "jit/attention.h"
#include "jit/isa.h"
#include "jit/kv_layout.h"
#include "runtime/session.h"
#include "runtime/steps.h"
#include "tests/support/amx_emulator.h"
#include "tests/support/generated_code.h"

namespace nibble::runtime {
namespace {

constexpr int64_t kIds = 48;
constexpr int64_t kContext = 1100;

struct Problem {
  HeadLayout head;
  jit::KvType kv = jit::KvType::int16;
  int64_t window = 0;
  bool alibi = false, softcap = false;
  jit::Isa isa = jit::selected_isa();

  jit::AttentionSpec spec() const {
    return {.head_dim = head.head_dim, .kv = kv, .alibi = alibi, .softcap = softcap};
  }
  float scale() const { return 1.0F / std::sqrt(static_cast<float>(head.head_dim)); }
  static constexpr float kCap = 2.0F;
  std::vector<float> slopes() const {
    std::vector<float> values(static_cast<size_t>(head.heads));
    for (size_t h = 0; h < values.size(); ++h) values[h] = std::exp2(-static_cast<float>(h + 1));
    return values;
  }
};

// Rows of queries, keys and values by id.
std::vector<float> embeddings(const HeadLayout& head) {
  std::vector<float> table(static_cast<size_t>(kIds * head.width()));
  std::mt19937 random(1);
  std::normal_distribution<float> normal;
  for (float& x : table) x = normal(random);
  return table;
}

std::shared_ptr<const Plan> plan_of(const Problem& problem, const std::vector<float>& table) {
  const HeadLayout& head = problem.head;
  auto plan = std::make_shared<Plan>();
  plan->layers = {head};
  plan->vocab_size = head.heads * head.head_dim;
  plan->context_length = kContext;
  plan->isa = problem.isa;
  plan->row_bytes = head.width() * static_cast<int64_t>(sizeof(float));
  const Operand qkv{.place = 0, .width = head.width()};

  const jit::WeightFormat format{.type = jit::WeightType::f32};
  PackedBuffer buffer = allocate_packed(format, kIds, head.width());
  for (int64_t block = 0; block * jit::kColumnBlock < kIds; ++block) {
    const float* columns = table.data() + block * jit::kColumnBlock * head.width();
    jit::pack_block_f32(kIds, head.width(), block, columns, buffer.data);
  }
  EmbedStep embed;
  embed.table = buffer.matrix;
  embed.out = qkv;
  plan->steps.push_back(Step::of(std::move(embed)));

  CacheStep cache;
  cache.head = head;
  cache.qkv = qkv;
  plan->steps.push_back(Step::of(std::move(cache)));

  AttentionStep attention;
  attention.head = head;
  attention.qkv = qkv;
  attention.out.place = Operand::kLogits;
  attention.out.width = plan->vocab_size;
  attention.spec = problem.spec();
  attention.window = problem.window;
  attention.scale = problem.scale();
  attention.softcap = Problem::kCap;
  attention.slopes = std::make_shared<const std::vector<float>>(problem.slopes());
  Step step = Step::of(std::move(attention));
  step.tail = true;
  plan->steps.push_back(std::move(step));
  return plan;
}

// The row that attention makes at the last of these ids.
std::vector<float> expected_row(const Problem& problem, const std::vector<float>& table,
                                std::span<const int32_t> ids) {
  const HeadLayout& head = problem.head;
  const int64_t page = jit::kv_page_bytes(problem.kv, head.head_dim);
  const auto count = static_cast<int64_t>(ids.size());
  const int64_t pages = (count + jit::kKvPage - 1) / jit::kKvPage;
  std::vector<float> out(static_cast<size_t>(head.heads * head.head_dim));
  const std::vector<float> slopes = problem.slopes();
  for (int64_t h = 0; h < head.kv_heads; ++h) {
    std::vector<std::byte> memory(static_cast<size_t>(pages * page));
    const jit::KvHead cache{memory.data(), page};
    for (int64_t t = 0; t < count; ++t) {
      const float* row = table.data() + ids[static_cast<size_t>(t)] * head.width();
      jit::kv_append(problem.kv, head.head_dim, t, row + head.key_column() + h * head.head_dim,
                     row + head.value_column() + h * head.head_dim, cache);
    }
    const int64_t share = head.heads / head.kv_heads;
    const int64_t hi = count,
                  lo = problem.window > 0 ? std::max<int64_t>(0, hi - problem.window) : 0;
    for (int64_t q = h * share; q < (h + 1) * share; ++q) {
      jit::AttentionArgs args;
      args.q = table.data() + ids.back() * head.width() + q * head.head_dim;
      args.cache = cache;
      args.lo = &lo;
      args.hi = &hi;
      args.slope = &slopes[static_cast<size_t>(q)];
      args.scale = problem.scale();
      args.softcap = Problem::kCap;
      args.out = out.data() + q * head.head_dim;
      args.rows = 1;
      jit::attention_reference(problem.spec(), args);
    }
  }
  return out;
}

std::vector<int32_t> some_ids(int64_t count) {
  std::mt19937 random(2);
  std::vector<int32_t> ids(static_cast<size_t>(count));
  for (int32_t& id : ids) id = static_cast<int32_t>(random() % kIds);
  return ids;
}

// A prompt in two parts, the second of which begins within a block of the cache, then passes of 1
// to 9 rows, all rows of each.
void check(const Problem& problem, const std::vector<int>& thread_counts) {
  constexpr int64_t kPrompt = 700, kFirstPart = 187;
  const std::vector<float> table = embeddings(problem.head);
  const std::shared_ptr<const Plan> plan = plan_of(problem, table);
  const int64_t passes[] = {1, 2, 1, 4, 8, 9, 3, 1};
  int64_t total = kPrompt;
  for (const int64_t rows : passes) total += rows;
  const std::vector<int32_t> ids = some_ids(total);

  std::vector<std::vector<float>> expected;
  for (int64_t end = kPrompt; end <= total; ++end) {
    expected.push_back(
        expected_row(problem, table, std::span(ids).first(static_cast<size_t>(end))));
  }
  for (const int threads : thread_counts) {
    SessionOptions options;
    options.kv = problem.kv;
    Session session(plan, std::make_shared<ThreadPool>(threads), options);
    const auto prompt = std::span(ids).first(static_cast<size_t>(kPrompt));
    session.forward(prompt.first(kFirstPart));
    const std::span<const float> last = session.forward(prompt.subspan(kFirstPart));
    ASSERT_TRUE(test::same_bits(last, expected[0])) << threads << " threads, the prompt";
    int64_t at = kPrompt;
    for (const int64_t rows : passes) {
      std::vector<float> all(static_cast<size_t>(rows * plan->vocab_size));
      session.forward_all(
          std::span(ids).subspan(static_cast<size_t>(at), static_cast<size_t>(rows)), all);
      for (int64_t r = 0; r < rows; ++r) {
        const auto row = std::span<const float>(all).subspan(
            static_cast<size_t>(r * plan->vocab_size), static_cast<size_t>(plan->vocab_size));
        ASSERT_TRUE(test::same_bits(row, expected[static_cast<size_t>(at + r + 1 - kPrompt)]))
            << threads << " threads, row " << r << " of " << rows << " at position " << at;
      }
      at += rows;
    }
  }
}

constexpr HeadLayout kOneKvHead{.heads = 7, .kv_heads = 1, .head_dim = 32};

TEST(AttentionSteps, OneKvHeadIsTheSameOnAnyNumberOfThreads) {
  for (const jit::KvType kv : {jit::KvType::f32, jit::KvType::f16, jit::KvType::bf16,
                               jit::KvType::int16, jit::KvType::int8, jit::KvType::bf16_pairs}) {
    check({.head = kOneKvHead, .kv = kv}, {1, 2, 3, 5, 8});
  }
}

TEST(AttentionSteps, SoAreWindowsAlibiAndSoftcaps) {
  for (const jit::KvType kv : {jit::KvType::f16, jit::KvType::int16, jit::KvType::bf16_pairs}) {
    check({.head = kOneKvHead, .kv = kv, .window = 300}, {2, 5});
    check({.head = kOneKvHead, .kv = kv, .alibi = true}, {2, 5});
    check({.head = kOneKvHead, .kv = kv, .window = 257, .alibi = true, .softcap = true}, {2, 5});
  }
}

TEST(AttentionSteps, SoAreMoreHeadsThanABlockTakes) {
  check({.head = {.heads = 71, .kv_heads = 1, .head_dim = 8}}, {1, 2, 5});
  check({.head = {.heads = 6, .kv_heads = 2, .head_dim = 20}, .kv = jit::KvType::int8}, {1, 3});
}

TEST(AttentionSteps, SoAreTiles) {
  if (!jit::supports(jit::Isa::avx512_vnni) || !jit::cpu().avx512_vbmi) {
    GTEST_SKIP() << "no AVX512-VNNI and VBMI around the tiles";
  }
  const test::AmxEmulator emulator;
  const uint64_t before = test::AmxEmulator::executed();
  const auto pairs = jit::KvType::bf16_pairs;
  check({.head = kOneKvHead, .kv = pairs, .isa = jit::Isa::amx_int8}, {1});
  EXPECT_TRUE(jit::cpu().amx_tile || test::AmxEmulator::executed() > before);
  check({.head = {.heads = 20, .kv_heads = 2, .head_dim = 20},
         .kv = pairs,
         .window = 300,
         .isa = jit::Isa::amx_int8},
        {2, 5});
}

// What a session makes of the cache that it is asked for.
TEST(AttentionSteps, Bf16CachesArePairsWhereAllIsBf16) {
  const std::vector<float> table = embeddings(kOneKvHead);
  for (const auto& [bf16, asked, expected] :
       {std::tuple{true, jit::KvType::bf16, jit::KvType::bf16_pairs},
        {false, jit::KvType::bf16, jit::KvType::bf16},
        {true, jit::KvType::int16, jit::KvType::int16}}) {
    auto plan = std::make_shared<Plan>(*plan_of({.head = kOneKvHead}, table));
    plan->bf16 = bf16;
    SessionOptions options;
    options.kv = asked;
    EXPECT_EQ(Session(plan, std::make_shared<ThreadPool>(1), options).kv_type(), expected);
  }
}

jit::Kernel kernel_of(int rows) {
  jit::Kernel kernel;
  kernel.key.spec = jit::AttentionSpec{.head_dim = 64, .kv = jit::KvType::int16, .rows = rows};
  return kernel;
}

TEST(AttentionCuts, FewBlocksAreSharedByPages) {
  const HeadLayout falcon{.heads = 71, .kv_heads = 1, .head_dim = 64};
  const jit::Kernel kernel = kernel_of(32);
  const AttentionCut one = cut_attention(falcon, 1, kernel, 2);
  EXPECT_TRUE(one.over_heads);
  EXPECT_EQ(one.count(), 3);
  EXPECT_EQ(one.block_rows, 32);
  EXPECT_TRUE(one.by_pages);
  EXPECT_FALSE(cut_attention(falcon, 1, kernel, 1).by_pages) << "nobody to share with";
  EXPECT_FALSE(cut_attention(falcon, 4, kernel, 2).by_pages) << "71 blocks are enough for two";
  EXPECT_TRUE(cut_attention(falcon, 4, kernel, 32).by_pages);
  EXPECT_FALSE(cut_attention(falcon, 512, kernel, 64).by_pages) << "prefill has blocks of rows";
}

TEST(AttentionCuts, StatesHaveRoomForEveryCut) {
  const HeadLayout gemma{.heads = 8, .kv_heads = 1, .head_dim = 256};
  const jit::Kernel kernel = kernel_of(32);
  const PageStates states = page_states(gemma, 1000, kernel, 4);
  // 8 blocks of up to 8 rows over 4 pages, a row of 256 elements, its maximum and its sum.
  EXPECT_EQ(states.counters, 8);
  EXPECT_EQ(states.bytes, 8 * 4 * 8 * (256 * 4 + 64));
  EXPECT_EQ(page_states(gemma, 1000, kernel, 1).bytes, 0);
}

}  // namespace
}  // namespace nibble::runtime
