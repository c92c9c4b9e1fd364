// How a long text is cut into windows that a decoder reads one by one, each id being scored at most
// once: the protocols that perplexities are published by.
//
// A window has up to `window` rows. With a bos it feeds bos, ids[s], ids[s + 1], ... and row r
// predicts ids[s + r]; without, it feeds ids[s], ids[s + 1], ... and row r predicts ids[s + r + 1]:
// every id is scored but the very first of the text. Windows begin `stride` ids apart; those of
// their rows that predict what an earlier window has scored are context alone.
//
//   stride = window, every row     each id has the ids before it in its window as context
//   stride < window                ... and at least window - stride ids
//   second_half                    the first half of every window is context alone; with stride =
//                                  window (llama.cpp's way) half of the text is never scored
#pragma once

#include <cstdint>
#include <functional>
#include <optional>
#include <span>
#include <vector>

namespace nibble::quant {

struct Protocol {
  int64_t window = 512;             // rows; at least 2
  int64_t stride = 0;               // 1 to window; 0: window
  bool second_half = false;         // rows before window / 2 are not scored
  std::optional<int32_t> bos = {};  // what every window begins with
  int64_t max_tokens = 0;           // only the first so many ids of the text; 0: all

  bool operator==(const Protocol&) const = default;
};

struct Window {
  int64_t start = 0;         // s above
  int64_t rows = 0;          // 1 to Protocol::window; fewer in the last
  int64_t first_scored = 0;  // 0 to rows - 1
};

// The windows of a text of `count` ids. Throws Error when the protocol contradicts itself or
// nothing would be scored.
std::vector<Window> plan_windows(int64_t count, const Protocol& protocol);
int64_t scored_count(std::span<const Window> windows);

// The ids that a window feeds, a row each. The window is one of plan_windows.
std::vector<int32_t> fed_ids(std::span<const int32_t> ids, const Protocol& protocol,
                             const Window& window);

// Rows that are fed together.
struct Chunk {
  bool begins_window = false;
  std::span<const int32_t> fed;      // their ids
  std::span<const int32_t> targets;  // what they predict; empty: these rows are context alone
  int64_t scored_before = 0;         // ids scored in earlier chunks
  int64_t first_target = 0;          // index within the text of targets[0]
};

// The chunks of all windows in order, of at most `rows` rows each. The spans are valid during the
// call only.
void for_each_chunk(std::span<const int32_t> ids, const Protocol& protocol, int64_t rows,
                    const std::function<void(const Chunk&)>& visit);

}  // namespace nibble::quant
