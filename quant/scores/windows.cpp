#include "quant/scores/windows.h"

#include <algorithm>

#include "jit/error.h"

namespace nibble::quant {
namespace {

int64_t used_ids(int64_t count, const Protocol& protocol) {
  return protocol.max_tokens > 0 ? std::min(count, protocol.max_tokens) : count;
}

// Of a row's target within the text, from the row's own place in it.
int64_t target_offset(const Protocol& protocol) { return protocol.bos ? 0 : 1; }

void check(const Protocol& protocol) {
  if (protocol.window < 2) {
    fail("A window must have at least 2 positions, found {}.", protocol.window);
  }
  if (protocol.stride < 0 || protocol.stride > protocol.window) {
    fail("The stride must be 1 to the window of {}, found {}.", protocol.window, protocol.stride);
  }
  if (protocol.max_tokens < 0) {
    fail("The number of ids to use must not be negative, found {}.", protocol.max_tokens);
  }
}

}  // namespace

std::vector<Window> plan_windows(int64_t count, const Protocol& protocol) {
  check(protocol);
  const int64_t targets = used_ids(count, protocol) - target_offset(protocol);
  const int64_t stride = protocol.stride > 0 ? protocol.stride : protocol.window;
  const int64_t least = protocol.second_half ? protocol.window / 2 : 0;
  std::vector<Window> windows;
  for (int64_t start = 0, scored = 0; scored < targets; start += stride) {
    const int64_t rows = std::min(protocol.window, targets - start);
    if (rows <= least) break;
    windows.push_back({start, rows, std::max(least, scored - start)});
    scored = start + rows;
  }
  if (windows.empty()) {
    fail("The text is too short: of its {} ids none would be scored (windows of {}{}).",
         used_ids(count, protocol), protocol.window,
         protocol.second_half ? ", of which the second half is scored" : "");
  }
  return windows;
}

int64_t scored_count(std::span<const Window> windows) {
  int64_t count = 0;
  for (const Window& window : windows) count += window.rows - window.first_scored;
  return count;
}

std::vector<int32_t> fed_ids(std::span<const int32_t> ids, const Protocol& protocol,
                             const Window& window) {
  std::vector<int32_t> fed(static_cast<size_t>(window.rows));
  auto own = fed.begin();
  if (protocol.bos) *own++ = *protocol.bos;
  std::copy_n(ids.begin() + window.start, fed.end() - own, own);
  return fed;
}

void for_each_chunk(std::span<const int32_t> ids, const Protocol& protocol, int64_t rows,
                    const std::function<void(const Chunk&)>& visit) {
  const int64_t offset = target_offset(protocol);
  int64_t scored = 0;
  for (const Window& window : plan_windows(static_cast<int64_t>(ids.size()), protocol)) {
    const std::vector<int32_t> fed = fed_ids(ids, protocol, window);
    for (int64_t row = 0; row < window.rows;) {
      const bool context = row < window.first_scored;
      const int64_t end = std::min(row + rows, context ? window.first_scored : window.rows);
      const auto count = static_cast<size_t>(end - row);
      const int64_t target = window.start + row + offset;
      Chunk chunk{
          row == 0, std::span(fed).subspan(static_cast<size_t>(row), count), {}, scored, target};
      if (!context) {
        chunk.targets = ids.subspan(static_cast<size_t>(target), count);
        scored += end - row;
      }
      visit(chunk);
      row = end;
    }
  }
}

}  // namespace nibble::quant
