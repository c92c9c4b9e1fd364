// The loop nest around the tiles of a matmul kernel, and the frame they find their operands in
// (emitter.h):
//
//   enter
//   for each chunk of rows whose activations stay in L2
//     for each unit of column blocks        nr of them; a pair for gates; then one by one
//       [unpack the unit to its panel]
//       for each mr rows                    the last tile has fewer
//         begin_rows, tiles                 leave fp32 sums in scratch
//         epilogue
//   leave
//
// It knows neither registers nor tiles: who derives from it writes those as routines and calls
// them. Tiling and spec must outlive it.
#pragma once

#include <cstdint>
#include <vector>

#include "jit/emitter.h"

namespace nibble::jit {

// What the nest must know of its tiles.
struct NestShape {
  bool zmm = false;               // for the epilogue
  int frame_bytes = kFrameBytes;  // those of emitter.h first
  int64_t chunk_bytes = 0;        // activations of a chunk of rows
  int64_t panel_offset = 0;       // into the scratch
  int64_t panel_block_bytes = 0;  // of one column block
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
  virtual void begin_rows() {}  // kFrameRow and kFrameRows are known
  // Calls the tile of kFrameRows rows and so many column blocks.
  virtual void call_tile(int blocks) = 0;
  // A routine: the unit's weights into the panel.
  virtual void unpack_panel() = 0;
  // Tiles, and whatever else is called.
  virtual void routines() = 0;

  Xbyak::Address local(int offset) { return out_.ptr[out_.rbp + offset]; }
  Xbyak::Address arg(size_t offset) { return out_.ptr[out_.rdi + static_cast<int>(offset)]; }

  const GemmSpec& spec_;
  const Tiling& tiling_;
  const PackedShape shape_;
  Assembler out_;

 private:
  // A unit of column blocks: how many, and how wide the tiles are that cover it.
  struct Unit {
    int blocks = 1;
    int tile_blocks = 1;
  };

  Unit main_unit() const { return {epilogue_blocks(spec_, tiling_), tiling_.nr}; }
  Unit tail_unit() const { return {spec_.gate ? 2 : 1, 1}; }
  int64_t chunk_rows() const;

  void prologue();
  void epilogue();
  void row_chunks();
  void column_units(const Unit& unit);
  void rows_of_unit(const Unit& unit);
  void locate_rows();
  void locate_columns(int first);

  const NestShape nest_;
  Xbyak::Label epilogue_, unpack_;
};

}  // namespace nibble::jit
