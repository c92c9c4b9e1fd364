// How the threads of a pass share one matmul: the rows of a prompt in chunks that an L2 keeps, and
// column blocks in pieces. Called by the executor (steps.cpp) and by whoever measures as it runs.
#pragma once

#include <algorithm>
#include <cstdint>

#include "jit/code_cache.h"
#include "runtime/work_sharing.h"

namespace nibble::runtime {

// How column blocks are shared: in units that the kernel takes together, a piece at a time. While
// memory is the bound a piece is a microsecond or two of reading, which is what the threads' ends
// lie apart at most. Where a tile's blocks are apart only the last pieces are so short: the longer
// a piece, the longer its streams. `weight_bytes`: of all `blocks`.
WorkShare::Cut cut_columns(const jit::Kernel& kernel, int64_t rows, int64_t blocks,
                           int64_t weight_bytes, int threads) noexcept;

// Rows that a thread computes before it goes on to others: of a prompt as many as its L2 keeps the
// activations of.
int64_t rows_at_a_time(const jit::Kernel& kernel, int64_t rows) noexcept;

// What one call of the kernel computes.
struct MatmulPiece {
  int64_t row = 0, rows = 0;
  int64_t nb_begin = 0, nb_end = 0;  // column blocks
};

// Calls body(MatmulPiece) until all rows of all column blocks are taken. Threads share rows first
// and then columns. Those of several nodes share columns alone, which lie in the memory of the
// thread that reads them.
template <typename Body>
void share_matmul(const WorkShare& share, const jit::Kernel& kernel, int64_t rows, int64_t blocks,
                  int64_t weight_bytes, Body body) noexcept {
  const int64_t most = rows_at_a_time(kernel, rows);
  const int64_t chunks = (rows + most - 1) / most;
  WorkShare::Cut cut = cut_columns(kernel, rows, blocks, weight_bytes, share.threads());
  const auto piece = [&](int64_t chunk, int64_t nb_begin, int64_t nb_end) {
    const int64_t row = chunk * most;
    body(MatmulPiece{row, std::min(most, rows - row), nb_begin, nb_end});
  };
  if (chunks == 1 || share.placement->nodes.size() > 1) {
    share.claim(blocks, cut, [&](int64_t begin, int64_t end) {
      for (int64_t chunk = 0; chunk < chunks; ++chunk) piece(chunk, begin, end);
    });
    return;
  }
  // What is claimed are the blocks of the first rows, then those of the next.
  cut.most *= chunks;
  const int64_t span = (blocks + cut.unit - 1) / cut.unit * cut.unit;
  share.claim(chunks * span, cut, [&](int64_t begin, int64_t end) {
    while (begin < end) {
      const int64_t chunk = begin / span, first = chunk * span;
      const int64_t piece_end = std::min(end, first + span);
      piece(chunk, begin - first, std::min(piece_end - first, blocks));
      begin = piece_end;
    }
  });
}

}  // namespace nibble::runtime
