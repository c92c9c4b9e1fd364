// The two products of attention over bf16 pairs in generated code, scores of queries and keys and
// outputs of weights and values, by vectors or by tiles (attention.h has the arithmetic, which is
// that of TDPBF16PS). Base of attention_bf16_generator.cpp.
//
// Both take 32 positions of a page at a time: two tiles B of keys, or the 32 k of one step of
// values. What a page needs lies in the scratch: queries, scores, weights, outputs, a row of each
// after another.
//
//     vectors   queries and weights in fp32; a register holds both chains of a row and a block
//     tiles     queries and weights in bf16; 16 or 32 rows
//
//     tmm0 tmm1    sums of rows  0..15 by blocks 0, 1 of 16 columns    tmm4    rows  0..15
//     tmm2 tmm3    sums of rows 16..31                                 tmm5    rows 16..31
//                                                                      tmm6, 7 columns
#pragma once

#include <array>
#include <cstdint>
#include <functional>
#include <vector>

#include "jit/amx_plan.h"
#include "jit/attention_paired.h"

namespace nibble::jit {

class Bf16Products : public PairedAttention {
 protected:
  using PairedAttention::PairedAttention;

  static constexpr int kStep = static_cast<int>(kBf16Step);  // positions taken together

  void scores() {
    if (tiles_) {
      each_row_tiles([&](int row_tiles) { tile_scores(row_tiles); });
    } else {
      vector_scores();
    }
  }
  // The page's outputs, of weights outside begin_ to end_ nothing.
  void values() {
    if (tiles_) {
      each_row_tiles([&](int row_tiles) { tile_values(row_tiles); });
    } else {
      vector_values();
    }
  }

  // All tiles have 16 rows of 64 bytes, whatever they hold.
  void configure_tiles() {
    std::array<uint8_t, 64> config{};
    config[0] = 1;  // palette
    for (size_t tile = 0; tile < 8; ++tile) {
      config[16 + 2 * tile] = kTileRowBytes;
      config[48 + tile] = kTileRows;
    }
    cc_.ldtilecfg(cc_.newConst(asmjit::ConstPoolScope::kLocal, config.data(), config.size()));
  }

 private:
  int block_bytes() const { return scratch_.width * static_cast<int>(kKeyBlock) * 2; }  // of keys

  // Keys (part 0) or values of the 32 positions of the page from t on, which is a multiple of 32.
  Gp lines(const Gp& t, int64_t part) {
    const Gp record = copy(t, "record");
    const Gp half = copy(t, "half");
    cc_.sar(record, 6);
    static_assert(kKvSplit == 64);
    cc_.imul(record, record, static_cast<int32_t>(layout_.bytes));
    cc_.add(record, page_record_);
    cc_.and_(half, kStep);
    cc_.imul(half, half, scratch_.width * 2);
    cc_.lea(record, asmjit::x86::ptr(record, half, 0, static_cast<int32_t>(part)));
    return record;
  }
  Gp constant(int value, const char* name) {
    const Gp r = v_.gp(name);
    cc_.mov(r, value);
    return r;
  }

  // ---- vectors ----

  // Rows by blocks of 16 columns, and how many bytes apart their factors lie: of rows from one to
  // the next, along a chain and from the low chain to the high one; of blocks from line to line.
  struct Tile {
    int rows, blocks;
    int a_row, a_next, a_high;
    int b_line, b_block;
    int target_row;
  };

  using EachSum = std::function<void(size_t index, const Mem& slot)>;
  void each_sum(const Tile& tile, const Gp& target, const EachSum& body) {
    for (int i = 0; i < tile.rows * tile.blocks; ++i) {
      const int row = i / tile.blocks, block = i % tile.blocks;
      body(static_cast<size_t>(i),
           asmjit::x86::ptr(target, row * tile.target_row + block * kLineBytes));
    }
  }
  void clear(const Tile& tile, const Gp& target) {
    each_sum(tile, target, [&](size_t, const Mem& slot) { v_.store(slot, zero()); });
  }

  // target += the products of one step: 16 lines of pairs.
  void step(const Tile& tile, const Gp& a_of_step, const Gp& b_of_step, const Gp& target) {
    constexpr int kUnroll = 4;
    std::vector<Reg> low, high;
    for (int i = 0; i < tile.rows * tile.blocks; ++i) {
      low.push_back(v_.accumulator(zero()));
      high.push_back(v_.accumulator(zero()));
    }
    const Gp a = copy(a_of_step, "a");
    const Gp b = copy(b_of_step, "b");
    const Gp line = v_.zero_gp("line");
    v_.loop(line, kStep / 2, kUnroll, [&] {
      for (int u = 0; u < kUnroll; ++u) {
        pairs(tile, asmjit::x86::ptr(a, u * tile.a_next), asmjit::x86::ptr(b, u * tile.b_line), low,
              high);
      }
      cc_.add(a, kUnroll * tile.a_next);
      cc_.add(b, kUnroll * tile.b_line);
    });
    each_sum(tile, target, [&](size_t i, const Mem& slot) {
      v_.store(slot, v_.add(v_.load(slot), v_.add(low[i], high[i])));
    });
  }

  // One line of pairs. What is shared stays in registers: a row's factors, or the blocks'.
  void pairs(const Tile& tile, const Mem& a, const Mem& b, const std::vector<Reg>& low,
             const std::vector<Reg>& high) {
    struct Pair {
      Reg low, high;
    };
    const auto of_row = [&](int row) -> Pair {
      const Mem from = a.cloneAdjusted(int64_t{row} * tile.a_row);
      return {v_.broadcast(from), v_.broadcast(from.cloneAdjusted(tile.a_high))};
    };
    const auto of_block = [&](int block) -> Pair {
      const Reg both = v_.load(b.cloneAdjusted(int64_t{block} * tile.b_block));
      return {v_.shift_left(both, 16), v_.bit_and(both, v_.imm_bits(0xFFFF0000U))};
    };
    std::vector<Pair> blocks;
    for (int block = 0; block < tile.blocks && tile.rows > 1; ++block) {
      blocks.push_back(of_block(block));
    }
    const auto blocks_in_row = static_cast<size_t>(tile.blocks);
    for (int row = 0; row < tile.rows; ++row) {
      const Pair x = of_row(row);
      for (int block = 0; block < tile.blocks; ++block) {
        const Pair y = tile.rows > 1 ? blocks[static_cast<size_t>(block)] : of_block(block);
        const size_t i = static_cast<size_t>(row) * blocks_in_row + static_cast<size_t>(block);
        v_.fma_into(low[i], x.low, y.low);
        v_.fma_into(high[i], x.high, y.high);
      }
    }
  }

  void vector_scores() {
    // One row reads block after block, the order that the hardware foresees.
    const Tile tile{.rows = together_,
                    .blocks = together_ > 1 && v_.wide() ? 2 : 1,
                    .a_row = scratch_.query_bytes,
                    .a_next = 8,
                    .a_high = 4,
                    .b_line = kLineBytes,
                    .b_block = block_bytes(),
                    .target_row = scratch_.score_bytes};
    const Gp t = copy(begin_, "t");
    v_.loop(t, end_, kStep, [&] {
      const Gp keys = lines(t, 0);
      const Gp query = address(at(scratch_.query), "query");
      const Gp scores = address(at(scratch_.scores, t, 2), "scores");
      const Gp row = v_.zero_gp("row");
      v_.loop(row, count_, tile.rows, [&] {
        for (int block = 0; block < kStep / 16; block += tile.blocks) {
          const Gp key = address(asmjit::x86::ptr(keys, block * block_bytes()), "key");
          const Gp target = address(asmjit::x86::ptr(scores, block * kLineBytes), "target");
          const Gp q = copy(query, "q");
          clear(tile, target);
          const Gp d = v_.zero_gp("d");
          v_.loop(d, scratch_.width, kStep, [&] {
            step(tile, q, key, target);
            cc_.add(q, kStep * 4);
            cc_.add(key, kStep / 2 * kLineBytes);
          });
        }
        cc_.add(query, tile.rows * scratch_.query_bytes);
        cc_.add(scores, tile.rows * scratch_.score_bytes);
      });
    });
  }

  // Columns that one row takes together: as many as divide them and fit.
  int columns_of_one_row() const {
    const int columns = scratch_.width / 16;
    int most = v_.wide() ? 8 : 2;
    while (columns % most != 0) most /= 2;
    return most;
  }

  void vector_values() {
    const Tile tile{.rows = together_,
                    .blocks = together_ == 1 ? columns_of_one_row()
                              : v_.wide()    ? 2
                                             : 1,
                    .a_row = scratch_.score_bytes,
                    .a_next = 4,
                    .a_high = kStep / 2 * 4,
                    .b_line = scratch_.width * 4,
                    .b_block = kLineBytes,
                    .target_row = scratch_.output_bytes};
    const Gp weights = address(at(scratch_.scores), "weights");
    const Gp output = address(at(scratch_.output), "output");
    const Gp row = v_.zero_gp("row");
    v_.loop(row, count_, tile.rows, [&] {
      const Gp column = v_.zero_gp("column");
      v_.loop(column, scratch_.output_bytes, int64_t{tile.blocks} * kLineBytes, [&] {
        const Gp target = address(asmjit::x86::ptr(output, column), "target");
        clear(tile, target);
        const Gp t = copy(begin_, "t");
        v_.loop(t, end_, kStep, [&] {
          const Gp value = lines(t, layout_.values);
          cc_.add(value, column);
          step(tile, address(asmjit::x86::ptr(weights, t, 2), "weight"), value, target);
        });
      });
      cc_.add(weights, tile.rows * scratch_.score_bytes);
      cc_.add(output, tile.rows * scratch_.output_bytes);
    });
  }

  // ---- tiles ----

  static asmjit::x86::Tmm sums(int i, int j) {
    return asmjit::x86::Tmm(static_cast<uint32_t>(i * 2 + j));
  }

  void each_row_tiles(const std::function<void(int row_tiles)>& body) {
    if (spec_.rows <= kTileRows) return body(1);
    Label two = cc_.newLabel();
    Label done = cc_.newLabel();
    cc_.cmp(count_, kTileRows);
    cc_.jg(two);
    body(1);
    cc_.jmp(done);
    cc_.bind(two);
    body(2);
    cc_.bind(done);
  }

  void clear_tiles(int row_tiles) {
    for (int i = 0; i < row_tiles; ++i) {
      for (int j = 0; j < 2; ++j) cc_.tilezero(sums(i, j));
    }
  }

  // Row r of a tile A lies at a + r * a_stride, of the two tiles B at b + r * b_stride and b_block
  // further.
  struct Factors {
    Gp a, a_stride;
    int a_row;  // the stride, as a number
    Gp b, b_stride;
    int b_block;
  };
  void multiply_tiles(int row_tiles, const Factors& f) {
    const auto a_tile = [](int i) { return asmjit::x86::Tmm(static_cast<uint32_t>(4 + i)); };
    const auto b_tile = [](int j) { return asmjit::x86::Tmm(static_cast<uint32_t>(6 + j)); };
    for (int j = 0; j < 2; ++j) {
      cc_.tileloadd(b_tile(j), asmjit::x86::ptr(f.b, f.b_stride, 0, j * f.b_block));
    }
    for (int i = 0; i < row_tiles; ++i) {
      cc_.tileloadd(a_tile(i), asmjit::x86::ptr(f.a, f.a_stride, 0, i * kTileRows * f.a_row));
      for (int j = 0; j < 2; ++j) cc_.tdpbf16ps(sums(i, j), a_tile(i), b_tile(j));
    }
  }

  void store_tiles(int row_tiles, const Gp& target, int row_bytes) {
    const Gp stride = constant(row_bytes, "stride");
    for (int i = 0; i < row_tiles; ++i) {
      for (int j = 0; j < 2; ++j) {
        const int offset = i * kTileRows * row_bytes + j * kLineBytes;
        cc_.tilestored(asmjit::x86::ptr(target, stride, 0, offset), sums(i, j));
      }
    }
  }

  void tile_scores(int row_tiles) {
    const Gp t = copy(begin_, "t");
    const Gp query_stride = constant(scratch_.query_bytes, "query_stride");
    const Gp line = constant(kLineBytes, "line");
    v_.loop(t, end_, kStep, [&] {
      const Factors f{.a = address(at(scratch_.query), "query"),
                      .a_stride = query_stride,
                      .a_row = scratch_.query_bytes,
                      .b = lines(t, 0),
                      .b_stride = line,
                      .b_block = block_bytes()};
      clear_tiles(row_tiles);
      const Gp d = v_.zero_gp("d");
      v_.loop(d, scratch_.width, kStep, [&] {
        multiply_tiles(row_tiles, f);
        cc_.add(f.a, kTileRowBytes);
        cc_.add(f.b, kTileRows * kTileRowBytes);
      });
      store_tiles(row_tiles, address(at(scratch_.scores, t, 2), "scores"), scratch_.score_bytes);
    });
  }

  void tile_values(int row_tiles) {
    const Gp column = v_.zero_gp("column");
    const Gp weight_stride = constant(scratch_.weight_bytes, "weight_stride");
    const Gp value_stride = constant(scratch_.output_bytes, "value_stride");
    v_.loop(column, scratch_.output_bytes, int64_t{2} * kLineBytes, [&] {
      clear_tiles(row_tiles);
      const Gp t = copy(begin_, "t");
      v_.loop(t, end_, kStep, [&] {
        const Factors f{.a = address(at(scratch_.weights, t, 1), "weights"),
                        .a_stride = weight_stride,
                        .a_row = scratch_.weight_bytes,
                        .b = lines(t, layout_.values),
                        .b_stride = value_stride,
                        .b_block = kLineBytes};
        cc_.add(f.b, column);
        multiply_tiles(row_tiles, f);
      });
      store_tiles(row_tiles, address(at(scratch_.output, column, 0), "output"),
                  scratch_.output_bytes);
    });
  }

 protected:
  bool tiles_ = false;  // what the present path multiplies by
  int together_ = 1;    // rows that it takes together
  Gp page_record_;      // the first record of the present page
};

}  // namespace nibble::jit
