#include "runtime/arena_planner.h"

#include <algorithm>
#include <numeric>

#include "jit/error.h"

namespace nibble::runtime {
namespace {

constexpr int64_t kBufferAlignment = 64;
constexpr int64_t kMostArenaBytes = int64_t{1} << 56;  // keeps the sums far from overflow

struct Placed {
  int64_t begin, end;
  int first_step, last_step;
};

void check(std::span<const BufferLife> buffers) {
  int64_t left = kMostArenaBytes;
  for (size_t i = 0; i < buffers.size(); ++i) {
    const BufferLife& b = buffers[i];
    if (b.bytes < 0 || b.bytes > left) {
      fail("Buffer {} of the arena has {} bytes, which cannot be placed.", i, b.bytes);
    }
    if (b.last_step < b.first_step) {
      fail("Buffer {} of the arena begins at step {} and ends before it, at step {}.", i,
           b.first_step, b.last_step);
    }
    left -= b.bytes;
  }
}

// The lowest offset where `bytes` fit between the placed buffers that live at the same time.
// `placed` is ordered by begin.
int64_t first_fit(const std::vector<Placed>& placed, const BufferLife& life, int64_t bytes) {
  int64_t offset = 0;
  for (const Placed& p : placed) {
    if (p.last_step < life.first_step || p.first_step > life.last_step) continue;
    if (p.begin >= offset + bytes) break;
    offset = std::max(offset, p.end);
  }
  return offset;
}

}  // namespace

ArenaPlan plan_arena(std::span<const BufferLife> buffers) {
  check(buffers);
  std::vector<size_t> order(buffers.size());
  std::iota(order.begin(), order.end(), size_t{0});
  std::stable_sort(order.begin(), order.end(), [&](size_t a, size_t b) {
    if (buffers[a].bytes != buffers[b].bytes) return buffers[a].bytes > buffers[b].bytes;
    return buffers[a].first_step < buffers[b].first_step;
  });

  ArenaPlan plan;
  plan.offsets.resize(buffers.size());
  std::vector<Placed> placed;
  for (const size_t i : order) {
    const BufferLife& life = buffers[i];
    const int64_t bytes = (life.bytes + kBufferAlignment - 1) / kBufferAlignment * kBufferAlignment;
    if (bytes == 0) continue;
    const int64_t offset = first_fit(placed, life, bytes);
    plan.offsets[i] = offset;
    plan.total = std::max(plan.total, offset + bytes);
    const auto at =
        std::upper_bound(placed.begin(), placed.end(), offset,
                         [](int64_t value, const Placed& p) { return value < p.begin; });
    placed.insert(at, {offset, offset + bytes, life.first_step, life.last_step});
  }
  return plan;
}

}  // namespace nibble::runtime
