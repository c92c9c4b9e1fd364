#include "quant/scores/windows.h"

#include <gtest/gtest.h>

#include <numeric>
#include <string>
#include <vector>

#include "jit/error.h"

namespace nibble::quant {
namespace {

// "start+rows:first_scored" of each window.
std::string plan(int64_t count, const Protocol& protocol) {
  std::string out;
  for (const Window& window : plan_windows(count, protocol)) {
    if (!out.empty()) out += ' ';
    out += fmt::format("{}+{}:{}", window.start, window.rows, window.first_scored);
  }
  return out;
}

TEST(Windows, WithoutOverlap) {
  // 12 rows predict the ids 1 to 12 of 13; with a bos, 13 rows all of them.
  EXPECT_EQ(plan(13, {.window = 4}), "0+4:0 4+4:0 8+4:0");
  EXPECT_EQ(plan(13, {.window = 4, .bos = 0}), "0+4:0 4+4:0 8+4:0 12+1:0");
  EXPECT_EQ(plan(3, {.window = 4}), "0+2:0");
}

TEST(Windows, OverlappingWindowsScoreWhatIsNew) {
  EXPECT_EQ(plan(11, {.window = 4, .stride = 2, .bos = 0}), "0+4:0 2+4:2 4+4:2 6+4:2 8+3:2");
  EXPECT_EQ(plan(9, {.window = 4, .stride = 1}), "0+4:0 1+4:3 2+4:3 3+4:3 4+4:3");
  EXPECT_EQ(plan(12, {.window = 4, .stride = 3, .bos = 0}), "0+4:0 3+4:1 6+4:1 9+3:1");
}

TEST(Windows, SecondHalves) {
  EXPECT_EQ(plan(13, {.window = 4, .second_half = true}), "0+4:2 4+4:2 8+4:2");
  EXPECT_EQ(plan(16, {.window = 4, .second_half = true}), "0+4:2 4+4:2 8+4:2 12+3:2");
  EXPECT_EQ(plan(15, {.window = 4, .second_half = true}), "0+4:2 4+4:2 8+4:2");
  EXPECT_EQ(plan(13, {.window = 4, .stride = 2, .second_half = true}),
            "0+4:2 2+4:2 4+4:2 6+4:2 8+4:2");
}

TEST(Windows, OnlyTheFirstIds) {
  EXPECT_EQ(plan(100, {.window = 4, .bos = 0, .max_tokens = 9}), "0+4:0 4+4:0 8+1:0");
  EXPECT_EQ(plan(6, {.window = 4, .bos = 0, .max_tokens = 9}), "0+4:0 4+2:0");
}

std::string failure(int64_t count, const Protocol& protocol) {
  try {
    plan_windows(count, protocol);
  } catch (const Error& error) {
    return error.what();
  }
  return "";
}

TEST(Windows, RefusesWhatScoresNothing) {
  EXPECT_EQ(failure(1, {}),
            "The text is too short: of its 1 ids none would be scored (windows of 512).");
  EXPECT_NE(failure(0, {.bos = 0}), "");
  EXPECT_EQ(failure(1, {.bos = 0}), "");
  EXPECT_NE(failure(257, {.second_half = true}).find("second half"), std::string::npos);
  EXPECT_EQ(failure(258, {.second_half = true}), "");
  EXPECT_NE(failure(10, {.window = 1}).find("at least 2"), std::string::npos);
  EXPECT_NE(failure(10, {.window = 4, .stride = 5}).find("found 5"), std::string::npos);
  EXPECT_NE(failure(10, {.window = 4, .stride = -1}).find("found -1"), std::string::npos);
  EXPECT_NE(failure(10, {.max_tokens = -3}).find("found -3"), std::string::npos);
}

// Whatever the protocol and however rows are chunked: targets ascend, so no id is scored twice;
// what is left out is known; and fed ids, put together, are the windows.
TEST(Windows, ChunksScoreEveryIdOnce) {
  std::vector<int32_t> ids(101);
  std::iota(ids.begin(), ids.end(), 1000);
  for (const int64_t stride : {1, 3, 5, 6, 7, 8}) {
    for (const bool bos : {false, true}) {
      for (const int64_t rows : {1, 2, 3, 8, 100}) {
        const Protocol protocol{
            .window = 8, .stride = stride, .bos = bos ? std::optional(7) : std::nullopt};
        SCOPED_TRACE(fmt::format("stride {}, bos {}, rows {}", stride, bos, rows));
        std::vector<int32_t> scored, window;
        int64_t at = 0;
        for_each_chunk(ids, protocol, rows, [&](const Chunk& chunk) {
          if (chunk.begins_window) {
            EXPECT_LE(window.size(), 8U);
            window.clear();
            if (bos) {
              EXPECT_EQ(chunk.fed[0], 7);
            }
          }
          window.insert(window.end(), chunk.fed.begin(), chunk.fed.end());
          EXPECT_LE(static_cast<int64_t>(chunk.fed.size()), rows);
          EXPECT_EQ(chunk.scored_before, at);
          if (chunk.targets.empty()) return;
          ASSERT_EQ(chunk.targets.size(), chunk.fed.size());
          at += static_cast<int64_t>(chunk.targets.size());
          EXPECT_EQ(chunk.targets[0], ids[static_cast<size_t>(chunk.first_target)]);
          // A row predicts the id after the one that it feeds.
          for (size_t i = 0; i < chunk.fed.size(); ++i) {
            if (chunk.fed[i] != 7) {
              EXPECT_EQ(chunk.targets[i], chunk.fed[i] + 1);
            }
          }
          scored.insert(scored.end(), chunk.targets.begin(), chunk.targets.end());
        });
        EXPECT_EQ(scored, std::vector<int32_t>(ids.begin() + (bos ? 0 : 1), ids.end()));
        EXPECT_EQ(scored_count(plan_windows(101, protocol)), at);
      }
    }
  }
}

}  // namespace
}  // namespace nibble::quant
