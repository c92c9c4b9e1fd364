#include "runtime/work_sharing.h"

#include <gtest/gtest.h>

#include <vector>

#include "runtime/thread_pool.h"

namespace nibble::runtime {
namespace {

void expect_every_element_once(int64_t most) {
  for (const int threads : {1, 2, 5}) {
    ThreadPool pool(threads);
    for (const int64_t count : {1, 6, 97, 1000}) {
      for (const int64_t piece : {0, 1, 6, 50, 5000}) {
        std::vector<WorkCounter> counters(static_cast<size_t>(threads));
        std::vector<std::atomic<int>> taken(static_cast<size_t>(count));
        pool.parallel_for(threads, [&](int64_t, int64_t, int thread) {
          const WorkShare share{thread, &pool.placement(), counters.data()};
          share.claim(count, {2, piece, most}, [&](int64_t begin, int64_t end) {
            EXPECT_EQ(begin % 2, 0);
            for (int64_t i = begin; i < end; ++i) ++taken[static_cast<size_t>(i)];
          });
        });
        for (const auto& times : taken) EXPECT_EQ(times, 1);
      }
    }
  }
}

// Whoever takes it, every element is taken once; a thread that is alone takes all of it.
TEST(WorkSharing, EveryElementIsTakenOnce) {
  for (const int64_t most : {0, 8, 1000}) expect_every_element_once(most);
}

// The pieces of the first of two ranges of 100.
std::vector<int64_t> pieces_of(const WorkShare::Cut& cut) {
  std::vector<WorkCounter> counters(2);
  const Placement placement = place_threads(2);
  std::vector<int64_t> lengths;
  WorkShare{0, &placement, counters.data()}.claim(200, cut, [&](int64_t begin, int64_t end) {
    if (end <= 100) lengths.push_back(end - begin);
  });
  return lengths;
}

TEST(WorkSharing, PiecesBeginLongAndEndShort) {
  using Lengths = std::vector<int64_t>;
  EXPECT_EQ(pieces_of({4, 8, 200}), (Lengths{48, 24, 12, 8, 8}));
  EXPECT_EQ(pieces_of({4, 4, 20}), (Lengths{20, 20, 20, 20, 8, 4, 4, 4}));
  EXPECT_EQ(pieces_of({1, 30, 30}), (Lengths{30, 30, 30, 10}));
  EXPECT_EQ(pieces_of({1, 30, 3}), (Lengths{30, 30, 30, 10}));  // the least comes first
}

// A thread that comes alone finds the others' ranges too.
TEST(WorkSharing, WorkOfAbsentThreadsIsTaken) {
  std::vector<WorkCounter> counters(4);
  const Placement placement = place_threads(4);
  int64_t total = 0;
  WorkShare{2, &placement, counters.data()}.claim(
      100, {1, 3, 3}, [&](int64_t begin, int64_t end) { total += end - begin; });
  EXPECT_EQ(total, 100);
}

}  // namespace
}  // namespace nibble::runtime
