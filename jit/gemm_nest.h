// The loop nest around the tiles of a matmul kernel, and the frame they find their operands in
// (emitter.h):
//
//   enter
//   for each chunk of rows whose activations stay in L2
//     for each unit of column blocks        nr of them; a pair for gates; then one by one
//       begin_unit
//       [for each slice of k]               gemm_blocking.h
//         for each mr rows                  the last tile has fewer
//           begin_rows, tiles               leave fp32 sums in scratch
//           epilogue                        after the last slice
//   leave
//
// Where a tile's blocks are apart, the call's columns are cut into nr even parts, a unit is one
// block of each (a pair for gates), and what is left behind them goes one by one: every part is
// one long stream of weights.
//
// It knows neither registers nor tiles: who derives from it writes those as routines and calls
// them. Tiling and spec must outlive it.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "jit/emitter.h"
#include "jit/gemm_blocking.h"

namespace nibble::jit {

// What the nest must know of its tiles.
struct NestShape {
  bool zmm = false;               // for the epilogue
  int frame_bytes = kFrameBytes;  // those of emitter.h first
  int64_t chunk_rows = 0;         // at most, a multiple of mr
  int64_t panel_offset = 0;       // into the scratch
  int64_t panel_block_bytes = 0;  // of one column block
  PanelSlices slices = {};        // of k
};

class GemmNest {
 public:
  virtual ~GemmNest() = default;
  GemmNest(const GemmNest&) = delete;
  GemmNest& operator=(const GemmNest&) = delete;

  std::vector<uint8_t> generate();

 protected:
  GemmNest(const GemmSpec& spec, const Tiling& tiling, const NestShape& nest)
      : spec_(spec),
        tiling_(tiling),
        shape_(packed_shape(spec.weight, spec.n, spec.k)),
        nest_(nest) {}

  virtual void enter() {}  // rbp is the frame
  virtual void leave() {}
  virtual void begin_unit() {}  // kFrameNb and kFrameUnitBlocks are known
  virtual void begin_rows() {}  // kFrameRow and kFrameRows are known
  // Calls the tile of kFrameRows rows and so many column blocks.
  virtual void call_tile(int blocks) = 0;
  // Tiles, and whatever else is called.
  virtual void routines() = 0;

  Xbyak::Address local(int offset) { return out_.ptr[out_.rbp + offset]; }
  Xbyak::Address arg(size_t offset) { return out_.ptr[out_.rdi + static_cast<int>(offset)]; }

  const GemmSpec& spec_;
  const Tiling& tiling_;
  const PackedShape shape_;
  const NestShape nest_;
  Assembler out_;

 private:
  // A unit of column blocks: how many, how wide the tiles are that cover it, and how many blocks
  // further the next one begins.
  struct Unit {
    int blocks = 1;
    int tile_blocks = 1;
    int step = 1;
  };

  int output_blocks() const { return spec_.gate ? 2 : 1; }  // blocks of 16 output columns
  Unit main_unit() const {
    const int blocks = epilogue_blocks(spec_, tiling_);
    return {blocks, tiling_.nr, tiling_.apart ? output_blocks() : blocks};
  }
  Unit tail_unit() const { return {output_blocks(), 1, output_blocks()}; }
  Xbyak::Address nb_end() { return arg(offsetof(GemmArgs, nb_end)); }

  void prologue();
  void epilogue();
  void row_chunks();
  void cut_apart();
  void skip_parts();
  void column_units(const Unit& unit, const Xbyak::Address& end);
  void slices_of_unit(const Unit& unit);
  void begin_next_slice(const Unit& unit);
  void share_fetches();
  void fetch_next_slice(const Unit& unit);
  void fetch_results(const Unit& unit);
  void fetch_rows(const Unit& unit, size_t base, size_t stride, bool to_write);
  void rows_of_unit(const Unit& unit);
  void locate_rows();
  void next_rows();
  void move_to_slice(int frame, int64_t fold_bytes);
  void locate_columns(const Unit& unit, int tile);

  Xbyak::Label epilogue_;
};

}  // namespace nibble::jit
