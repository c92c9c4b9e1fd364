// One tile of a matmul as eight verbs: begin, zero, load_a, load_b, dot, fold, store, end. The
// generator writes the loop nest once over them; a class per ISA says what each one is in
// instructions. AVX-VNNI overrides `dot` of AVX2 and nothing else, and so does AVX512-VNNI.
//
// A tile is a callable piece of code. It finds its operands in the frame of the function around it
// (rbp, struct Frame) and leaves its fp32 sums in the tile's scratch, [block][mr][16], where the
// epilogue (emitter_epilogue.h) takes them up. It may clobber every register but rbp and rsp.
//
// Indices: i is a row of the tile, j a column block of 16, k a step of the current chunk; a step is
// one quad of k for s8 activations and one k for f32 and bf16.
#pragma once

#include <cstdint>
#include <memory>

#include "jit/emitter_assembler.h"
#include "jit/emitter_registers.h"
#include "jit/gemm.h"
#include "jit/gemm_blocking.h"

namespace nibble::jit {

// Locals of the kernel, as offsets from rbp.
enum Frame : int {
  kFrameArgs = 0,         // const GemmArgs*
  kFrameNb = 8,           // first column block of the unit at hand
  kFrameRow = 16,         // first row of the tile
  kFrameRows = 24,        // rows of the tile
  kFrameChunkEnd = 32,    // end of the row chunk
  kFrameNextChunk = 40,   // its first row
  kFrameUnitBlocks = 48,  // column blocks of the unit
  kFrameTileSource = 56,  // packed weights that tiles which fill a panel read
  kFrameTileA = 64,       // operands of the tile: activations at its first row,
  kFrameTileAScale = 72,  //   their scales
  kFrameTileASum = 80,    //   and sums,
  kFrameTileW = 88,       //   weights at its first column block (packed or panel),
  kFrameTileWScale = 96,  //   their scales
  kFrameTileWZero = 104,  //   and zero points,
  kFrameTileOut = 112,    //   fp32 sums
  kFrameEpilogueC = 120,  // the epilogue's row pointers at the current column block
  kFrameEpilogueResidual = 128,
  kFrameEpilogueTile = 136,
  kFrameSupers = 144,       // super-blocks of k that are left
  kFrameApart = 152,        // tiles apart: column blocks from one of a tile to the next,
  kFrameApartW = 160,       //   bytes of weights,
  kFrameApartWScale = 168,  //   scales
  kFrameApartWZero = 176,   //   and zero points
  kFrameApartEnd = 184,     // where the first part of the columns ends
  kFrameSums = 192,         // fp32 sums of the unit's tiles at kFrameRow
  kFrameSlice = 200,        // slice of k that is in the panel (gemm_blocking.h),
  kFrameFolds = 208,        //   and its whole act_groups (packed_layout.h)
  kFrameNextSlice = 216,    // what is still to be fetched of the next slice's weights,
  kFrameNextLines = 224,    //   how many lines of each block,
  kFrameTileLines = 232,    //   and how many a tile fetches
  kFrameBytes = 240,
};

class Emitter {
 public:
  // `fills_panel`: of the first rows of a panel, which unpack the weights to it as they come to
  // them.
  Emitter(Assembler& out, const GemmSpec& spec, const Tiling& tiling, const RegisterPlan& plan,
          bool fills_panel);
  virtual ~Emitter() = default;
  Emitter(const Emitter&) = delete;
  Emitter& operator=(const Emitter&) = delete;

  // Loads the pointers, clears the fp32 sums or takes up those of the slices of k before.
  virtual void begin();
  // Starts a group: int32 sums at a_sum (symmetric) or 0; scales and zero points of f32
  // activations.
  virtual void zero(int i, int j);
  virtual void load_a(int i, int k) = 0;
  virtual void load_b(int k, int j);
  virtual void dot(int i, int j, int k) = 0;
  // Of a panel's tile: brings a line of the next one's row i in while this one multiplies.
  void prefetch_row(int i, int k);
  // Ends a group: scales the int32 sums of one register into its fp32 sums. Rows run innermost and
  // from 0: the scales of a column stay in a register meanwhile.
  virtual void fold(int i, int j, int half);
  virtual void store(int i, int j);
  virtual void end();

  // q8 scales: around the groups of a super-block, whose numbers apply to all of them.
  void begin_super();
  void fold_super(int j, int half);
  void advance_super();
  // Groups that a pass through the loop over groups takes, told apart by their place in it.
  int groups_per_pass() const { return minimums_by_group() ? 2 : 1; }
  void set_place_in_pass(int place) { place_ = place; }

  // The k loop's bookkeeping: a chunk is the steps between two moves of the pointers.
  void begin_chunk(int steps);
  void end_chunk();
  void advance(int steps);
  void advance_group();
  // What a line of every block is fetched by, further ahead: so many instructions, and one of them.
  int prefetches_per_line() const { return plan_.blocks * lines_fetched_ * fetch_steps(); }
  void prefetch(int line, int number);

  int steps_per_line() const { return steps_per_line_; }
  int rows() const { return plan_.rows; }
  int blocks() const { return plan_.blocks; }
  int halves() const { return plan_.halves; }
  const Xbyak::Reg64& loop_counter() const { return k_left_; }
  const Xbyak::Reg64& group_counter() const { return groups_left_; }

 protected:
  Xbyak::Xmm reg(int index) const;
  int vector(int i, int j, int half) const { return (i * plan_.blocks + j) * plan_.halves + half; }
  Xbyak::Xmm acc(int i, int j, int half, int chain) const {
    return reg(plan_.acc + chain * plan_.vectors() + vector(i, j, half));
  }
  Xbyak::Xmm acc(int i, int j, int half) const { return acc(i, j, half, 0); }
  Xbyak::Xmm acc16(int i, int j, int half) const { return reg(plan_.acc16 + vector(i, j, half)); }
  Xbyak::Xmm group_sum(int i, int j, int half) const {
    return reg(plan_.group_sums + vector(i, j, half));
  }
  Xbyak::Xmm super(int i, int j, int half) const { return reg(plan_.supers + vector(i, j, half)); }
  Xbyak::Xmm f32(int i, int j, int half) const { return reg(plan_.f32 + vector(i, j, half)); }
  Xbyak::Xmm b(int j, int half) const { return reg(plan_.b + j * plan_.halves + half); }
  Xbyak::Xmm scale(int j, int half) const { return reg(plan_.scale + j * plan_.halves + half); }
  Xbyak::Xmm zero_point(int j, int half) const { return reg(plan_.zero + j * plan_.halves + half); }
  // The numbers over the scales' bytes, behind them those over the minimums', of f32 activations.
  Xbyak::Xmm number(bool minimums, int j, int half) const {
    return reg(plan_.numbers + (int{minimums} * plan_.blocks + j) * plan_.halves + half);
  }

  // Bytes of weights between the blocks of tiles apart: where the last rows of taller ones are.
  const Xbyak::Reg64& apart() const { return a_ptr_[3]; }
  const Xbyak::Reg64& apart3() const { return a_ptr_[2]; }  // three times that
  // The panel, where it is filled: likewise.
  const Xbyak::Reg64& panel() const { return a_ptr_[3]; }
  Xbyak::RegExp a_address(int i, int k) const { return a_address(a_ptr_, i, k); }
  Xbyak::RegExp b_address(int k, int j, int half) const;
  Xbyak::RegExp scratch_address(int i, int j, int half) const;
  int sub_step(int k) const { return k % steps_per_line_; }
  int act_step_bytes() const { return spec_.act == ActType::bf16 ? 2 : 4; }
  int64_t half_bytes() const { return plan_.zmm ? 64 : 32; }

  // dst = bits >> shift & mask in dword lanes; a mask that covers what the shift leaves is skipped.
  virtual void unpack(const Xbyak::Xmm& dst, const Xbyak::Operand& bits, int shift,
                      uint32_t mask) = 0;
  // dst = the nibbles above `shift` as floats, less 8 already where they are centred.
  virtual void unpack_nibbles(const Xbyak::Xmm& dst, const Xbyak::RegExp& bits, int shift);
  virtual bool nibbles_are_centred() const { return false; }
  // acc += the products of two words in each dword, one of which is broadcast from memory.
  virtual void dot_words(const Xbyak::Xmm& acc, const Xbyak::Xmm& words, const Xbyak::RegExp& pair);
  // One k of bf16 into the chain that it belongs to.
  void dot_bf16(int i, int j, int k);
  // vpmaddubsw or vpmaddwd in place of vpdpbusd, for both ISAs without VNNI.
  void dot_without_vnni(int i, int j, int k);
  // Splits the broadcast quad in a into sign-extended even and odd bytes.
  void split_activations();

  Assembler& out_;
  const GemmSpec spec_;
  const Tiling tiling_;
  const RegisterPlan plan_;
  const PackedShape shape_;
  const bool fills_panel_, reads_panel_;  // neither where the tiling has none
  const bool prefetches_rows_;            // of the next tile
  const bool keeps_lines_;                // of nibbles, between their quads
  const bool bytes_in_lines_;             // u8 weights, or u4 unpacked to a panel
  const int64_t line_bytes_;              // of a line, or a unit of u6
  const int steps_per_line_;
  const PanelSlices slices_;
  const int lines_fetched_;  // of a block, ahead of each line
  const int64_t panel_block_bytes_;
  int chunk_steps_ = 0;
  int place_ = 0;  // of the group in its pass

 private:
  // Row i of those of which `first` points at every fifth.
  Xbyak::RegExp a_address(const Xbyak::Reg64* first, int i, int k) const;
  // The pointers of taller tiles hold the next tile's rows.
  const Xbyak::Reg64* next_rows() const { return a_ptr_ + 2; }
  void locate_rows(const Xbyak::Reg64* first);
  int row_pointers() const;
  void begin_sums();
  void load_stored(const Xbyak::Xmm& dst, const Xbyak::RegExp& block, int half);
  void load_scale(const Xbyak::Xmm& dst, int j, int half);
  void load_zero_point(const Xbyak::Xmm& dst, int j, int half);
  bool super_blocks() const { return spec_.weight.scale == ScaleType::q8; }
  bool minimums_by_group() const {
    return super_blocks() && spec_.weight.minimum && plan_.dot == DotKind::fma;
  }
  // Scales (at w_scale_ptr_) or zero points of column block j. Blocks apart cost two instructions
  // and the k loop's counter, which counts nothing between groups: each address is good until the
  // next is asked for.
  Xbyak::RegExp scales_at(int j) {
    return at_block(w_scale_ptr_, shape_.scale_block_bytes, kFrameApartWScale, j);
  }
  Xbyak::RegExp zeros_at(int j) {
    return at_block(w_zero_ptr_, shape_.zero_block_bytes, kFrameApartWZero, j);
  }
  Xbyak::RegExp at_block(const Xbyak::Reg64& first, int64_t block_bytes, Frame apart, int j);
  Xbyak::RegExp number_address(bool minimums, bool at_end, int j, int half);
  void load_minimum(const Xbyak::Xmm& dst, int j, int half);
  void fold_byte(int i, int j, int half);
  void sum_minimums(int j, int half);
  Xbyak::RegExp panel_address(const Xbyak::Reg64& at, int j, int half, int64_t line) const;
  void load_column(const Xbyak::Xmm& dst, int j, int half, bool zero_points);
  void load_whole_number(int k, int j, int half);
  void unpack_kept(int j, int half, const Xbyak::RegExp& bits, int quad);
  bool in_two_steps() const { return tiling_.prefetch_l1 > 0 && tiling_.prefetch_l2 > 0; }
  int fetch_steps() const { return in_two_steps() ? 2 : 1; }
  bool fetches() const { return tiling_.prefetch_l1 > 0 || tiling_.prefetch_l2 > 0; }
  bool six_bits() const { return spec_.weight.type == WeightType::u6; }
  void add_upper_bits(const Xbyak::Xmm& dst, const Xbyak::RegExp& unit, int shift, uint32_t mask);
  void fold_bf16(int i, int j, int half);
  void fold_minimum(int i, int j, int half);
  void add_scaled(const Xbyak::Xmm& sum, const Xbyak::Xmm& scale, int i, int j, int half);
  void split_weights(int j, int half);
  void dot_nibbles(int i, int j, int k);
  void dot_bytes(int i, int j);

  Xbyak::Reg64 a_ptr_[4], a_stride_, a_stride3_, w_ptr_, w_scale_ptr_, w_zero_ptr_, a_scale_ptr_,
      a_sum_ptr_, k_left_, groups_left_, tile_ptr_;
};

std::unique_ptr<Emitter> make_emitter(Isa isa, Assembler& out, const GemmSpec& spec,
                                      const Tiling& tiling, const RegisterPlan& plan,
                                      bool fills_panel);

}  // namespace nibble::jit
