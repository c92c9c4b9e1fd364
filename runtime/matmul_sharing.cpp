#include "runtime/matmul_sharing.h"

#include <variant>

#include "jit/gemm.h"
#include "jit/gemm_blocking.h"

namespace nibble::runtime {
namespace {

constexpr int64_t kPieceBytes = 64 << 10;

}  // namespace

WorkShare::Cut cut_columns(const jit::Kernel& kernel, int64_t rows, int64_t blocks,
                           int64_t weight_bytes, int threads) noexcept {
  const int64_t nr = kernel.key.tiling.nr;
  const bool apart = kernel.key.tiling.apart;
  const bool gate = std::get_if<jit::GemmSpec>(&kernel.key.spec)->gate;
  const int64_t unit = gate && nr % 2 != 0 ? 2 * nr : nr;
  if (rows > jit::kStreamedRows) {
    return {unit, unit, blocks / (threads * kPiecesPerThread)};
  }
  const int64_t piece = kPieceBytes * blocks / std::max<int64_t>(1, weight_bytes);
  if (apart) return {gate ? 2 : 1, piece * nr * 2, blocks};
  return {unit, piece, piece};
}

int64_t rows_at_a_time(const jit::Kernel& kernel, int64_t rows) noexcept {
  if (rows <= jit::kStreamedRows) return rows;
  return jit::even_chunk_rows(*std::get_if<jit::GemmSpec>(&kernel.key.spec), kernel.key.tiling,
                              rows);
}

}  // namespace nibble::runtime
