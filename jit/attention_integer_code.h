// The walk of integer attention in the generated code: the splits of a page, what of them any row
// sees, a tile of rows after another through scores, weights and outputs. How scores become weights
// is the cache type's (attention_int16_generator.cpp, attention_int8_generator.cpp).
#pragma once

#include <algorithm>
#include <array>
#include <cstddef>
#include <functional>
#include <vector>

#include "jit/attention.h"
#include "jit/attention_integer.h"
#include "jit/attention_integer_products.h"
#include "jit/compiler_math.h"
#include "jit/kv_layout.h"

namespace nibble::jit {

// Two paths in one function: rows a tile at a time and, where the call has one row only, that row
// alone. Within a path, splits that every row sees whole take code without masks.
class IntegerAttention : public IntegerProducts {
 public:
  std::vector<uint8_t> generate() { return generate_paths({{1, 1}, {spec_.rows, kRowTile}}); }

 protected:
  using IntegerProducts::IntegerProducts;

  // ---- what the cache types do ----

  // What the score of a position takes from its record.
  struct BlockScales {
    Reg keys, value_logs;  // the latter of int8 alone
  };
  virtual BlockScales scales_of(const Block& block) = 0;
  // The score of row `row` + r for the positions of a block.
  virtual Reg score(const Reg& dot, const BlockScales& scales, const Gp& row, int r,
                    const Block& block) = 0;
  // Weights, of all rows' scores.
  virtual void weigh_tiles(bool full) = 0;
  // Scores and weights of one row, its dots in the scratch.
  struct RowPlace {
    Gp row, scores, weights;
    bool full;
  };
  virtual void weigh_row(const RowPlace& place) = 0;
  // Whether the weights of a split are in units of their own: the field factor of the scratch.
  virtual bool has_units() const = 0;
  virtual WeightOrder weight_order() const { return in_order(); }

  // ---- for them ----

  bool by_tiles() const { return tile_ == kRowTile && v_.wide(); }

  void each_tile(
      const std::function<void(const Gp& row, const Gp& scores, const Gp& weights)>& body) {
    const Gp row = v_.zero_gp("row");
    const Gp scores = address(at(scratch_.scores), "scores");
    const Gp weights = address(at(scratch_.weights), "weights");
    v_.loop(row, count_, kRowTile, [&] {
      body(row, scores, weights);
      cc_.add(scores, kRowTile * kScoreBytes);
      cc_.add(weights, kRowTile * kWeightBytes);
    });
  }

  void each_block(bool full, const std::function<void(const Block&)>& body) {
    if (full) {
      for (int b = 0; b < kBlocks; ++b) body({b, {}});
    } else {
      const Gp t = copy(begin_, "t");
      v_.loop(t, end_, kKeyBlock, [&] { body({-1, t}); });
    }
  }

  // A number a position of one row: in registers where four blocks fit, else in its row of scores.
  struct RowNumbers {
    CompilerMath& v;
    const RowPlace& place;
    std::array<Reg, kBlocks> held = {};

    bool holds() const { return place.full && v.wide(); }
    void put(const Block& block, const Reg& x) {
      if (holds()) {
        held[index(block.index)] = x;
      } else {
        v.store(block.of(place.scores, 4), x);
      }
    }
    Reg get(const Block& block) {
      return holds() ? held[index(block.index)] : v.load(block.of(place.scores, 4));
    }
  };

  // The scores of a row's dots, which are in the scratch, and their maximum.
  Reg score_row(const RowPlace& place, RowNumbers& scores) {
    const Reg largest = v_.accumulator(v_.imm(kLowScore));
    each_block(place.full, [&](const Block& block) {
      const Reg dot = v_.load(block.of(place.scores, 4));
      Reg s = score(dot, scales_of(block), place.row, 0, block);
      scores.put(block, s);
      if (!place.full) s = v_.select(visible(place.row, 0, block), s, v_.imm(kLowScore));
      v_.assign(largest, v_.max(s, largest));
    });
    const Reg max = v_.reduce_max(largest);
    v_.store_lane0(at(scratch_.split_max, place.row, 2), max);
    return max;
  }

  // What a row's dots are multiplied by for its scores: the scale of its query.
  void store_row_scale(const Gp& row, const Reg& query_scale) {
    Reg unit = v_.mul(query_scale, v_.broadcast(v_.field(offsetof(AttentionArgs, scale), 4)));
    if (!adjusts()) unit = v_.mul(unit, v_.imm(kLog2E));
    v_.store_lane0(at(scratch_.row_scale, row, 2), unit);
  }

  // The blocks of a tile's row of scores.
  static Mem of_row(const Gp& scores, int row, int block) {
    return asmjit::x86::ptr(scores, (row * kBlocks + block) * 64);
  }
  // A number a position, from a part of the present split's record.
  Mem in_record(int64_t offset, const Block& block) const {
    const auto at = static_cast<int32_t>(offset);
    if (block.index < 0) return asmjit::x86::ptr(record_, block.t, 2, at);
    return asmjit::x86::ptr(record_, at + block.index * 64);
  }

  // The blocks of a row as one value for a power of 2, which is a chain of dependent operations:
  // in this order those that may begin at the same time are side by side, and a scheduler of
  // limited length sees them.
  struct RowBlocks {
    using Reg = std::array<CompilerMath::Reg, kBlocks>;
    CompilerMath& v;

    template <typename Operation>
    static Reg each(Operation operation) {
      Reg r;
      for (size_t b = 0; b < r.size(); ++b) r[b] = operation(b);
      return r;
    }
    Reg imm(float value) {
      return each([&](size_t) { return v.imm(value); });
    }
    Reg max(const Reg& a, const Reg& b) {
      return each([&](size_t i) { return v.max(a[i], b[i]); });
    }
    Reg add(const Reg& a, const Reg& b) {
      return each([&](size_t i) { return v.add(a[i], b[i]); });
    }
    Reg sub(const Reg& a, const Reg& b) {
      return each([&](size_t i) { return v.sub(a[i], b[i]); });
    }
    Reg fma(const Reg& a, const Reg& b, const Reg& c) {
      return each([&](size_t i) { return v.fma(a[i], b[i], c[i]); });
    }
    Reg round(const Reg& a) {
      return each([&](size_t i) { return v.round(a[i]); });
    }
    Reg scale_pow2(const Reg& p, const Reg& n) {
      return each([&](size_t i) { return v.scale_pow2(p[i], n[i]); });
    }
    Reg add_exponent(const Reg& p, const Reg& t) {
      return each([&](size_t i) { return v.add_exponent(p[i], t[i]); });
    }
  };

 private:
  void path(int tile) override {
    tile_ = tile;
    gather_rows(tile);
    each_page(tile, lowest_, highest_, page_state());
  }

  void attend_page(int) override {
    clear_sums(scratch_.max, scratch_.sum);
    split_ = copy(lowest_, "split");
    cc_.and_(split_, -kKvSplit);
    raise(split_, page_);
    first_split_ = copy(split_, "first_split");
    const Gp end = address(asmjit::x86::ptr(page_, kKvPage), "page_end");
    lower(end, highest_);
    v_.loop(split_, end, kKvSplit, [&] { split(); });
  }

  void split() {
    Label partial = cc_.newLabel();
    Label done = cc_.newLabel();
    const Gp end = address(asmjit::x86::ptr(split_, kKvSplit), "split_end");
    record_ = record_of(split_);
    if (by_tiles() || tile_ == 1) look_ahead(record_, end);
    cc_.cmp(highest_lo_, split_);
    cc_.jg(partial);
    cc_.cmp(end, lowest_hi_);
    cc_.jg(partial);
    begin_ = v_.zero_gp("begin");
    split_body(true);
    cc_.jmp(done);

    cc_.bind(partial);
    begin_ = copy(lowest_, "begin");
    raise(begin_, split_);
    cc_.sub(begin_, split_);
    cc_.and_(begin_, -kKeyBlock);
    end_ = copy(highest_, "end");
    lower(end_, end);
    cc_.sub(end_, split_);
    cc_.add(end_, kKeyBlock - 1);
    cc_.and_(end_, -kKeyBlock);
    find_visible(split_, kKvSplit);
    split_body(false);
    cc_.bind(done);
  }

  void split_body(bool full) {
    if (by_tiles()) {
      score_tiles(full);
      weigh_tiles(full);
    } else {
      score_rows(full);
      weigh_rows(full);
    }
    merge_sums({scratch_.split_max, scratch_.split_sum}, {scratch_.max, scratch_.sum}, has_units());
    values(full);
  }

  // The scores of a tile's integer dots, [row][block], and their maxima.
  void score_tile(const Gp& row, const Gp& scores, const std::vector<Reg>& dots, bool full) {
    Reg largest[kRowTile];
    for (Reg& x : largest) x = v_.accumulator(v_.imm(kLowScore));
    for (int b = 0; b < kBlocks; ++b) {
      const Block block{b, {}};
      const BlockScales scales = scales_of(block);
      for (int r = 0; r < kRowTile; ++r) {
        Reg s = score(dots[index(r * kBlocks + b)], scales, row, r, block);
        v_.store(of_row(scores, r, b), s);
        if (!full) s = v_.select(visible(row, r, block), s, v_.imm(kLowScore));
        v_.assign(largest[r], v_.max(s, largest[r]));
      }
    }
    v_.store_rows(at(scratch_.split_max, row, 2),
                  v_.reduce_rows_max(v_.reduce_two_max(largest[0], largest[1]),
                                     v_.reduce_two_max(largest[2], largest[3])));
  }

  // Scores of a split, the dots of a tile in registers, on ISAs that have enough of them.
  void score_tiles(bool full) {
    const Gp keys = part(0, "keys");
    const Gp query = address(at(scratch_.query), "query");
    each_tile([&](const Gp& row, const Gp& scores, const Gp&) {
      const std::vector<Reg> sums = begin_scores(row, kRowTile, kBlocks, kBlocks);
      // Few rows, which are bound by memory, read block after block, the order that the hardware
      // foresees.
      Label many = cc_.newLabel();
      Label done = cc_.newLabel();
      cc_.cmp(count_, kRowTile);
      cc_.jg(many);
      for (int block = 0; block < kBlocks; ++block) {
        Label unseen = cc_.newLabel();
        if (!full) {
          cc_.cmp(end_, block * kKeyBlock);
          cc_.jle(unseen);
          cc_.cmp(begin_, block * kKeyBlock);
          cc_.jg(unseen);
        }
        dot_blocks(block, 1, keys, query, sums);
        cc_.bind(unseen);
      }
      cc_.mov(ahead_, record_);  // all of it is fetched: what is fetched with values is here
      cc_.jmp(done);
      cc_.bind(many);
      dot_blocks(0, kBlocks, keys, query, sums);
      cc_.bind(done);
      score_tile(row, scores, sums, full);
      cc_.add(query, kRowTile * scratch_.query_bytes);
    });
  }

  // scores[row][t - split]: integer dots of query and key.
  void score_rows(bool full) {
    const Gp keys = part(0, "keys");
    const Gp scores = address(at(scratch_.scores), "scores");
    if (!full) {
      const Gp skipped = copy(begin_, "skipped");
      cc_.imul(skipped, skipped, position_bytes_);
      cc_.add(keys, skipped);
      cc_.lea(scores, asmjit::x86::ptr(scores, begin_, 2));
      const Gp block = copy(begin_, "block");
      v_.loop(block, end_, kKeyBlock, [&] {
        dot_rows(keys, scores);
        cc_.add(keys, block_bytes());
        cc_.add(scores, 64);
      });
      return;
    }
    for (int block = 0; block < kBlocks; ++block) {
      dot_rows(keys, scores);
      cc_.add(keys, block_bytes());
      cc_.add(scores, 64);
    }
  }

  void dot_rows(const Gp& keys, const Gp& scores) {
    const Gp query = address(at(scratch_.query), "query");
    const Gp target = copy(scores, "target");
    const Gp row = v_.zero_gp("row");
    v_.loop(row, count_, tile_, [&] {
      dot_tile(tile_, row, keys, query, target);
      cc_.add(query, tile_ * scratch_.query_bytes);
      cc_.add(target, tile_ * kScoreBytes);
    });
  }

  void weigh_rows(bool full) {
    const Gp row = v_.zero_gp("row");
    const Gp scores = address(at(scratch_.scores), "scores");
    const Gp weights = address(at(scratch_.weights), "weights");
    v_.loop(row, count_, 1, [&] {
      weigh_row({row, scores, weights, full});
      cc_.add(scores, kScoreBytes);
      cc_.add(weights, kWeightBytes);
    });
  }

  // ---- output[row] = output * keep + float(weights . values) * factor; in a page's first split,
  // where nothing is there, the product alone ----

  void values(bool full) {
    const Gp values = part(layout_.values, "values");
    const Gp weights = address(at(scratch_.weights), "weights");
    const Gp output = address(at(scratch_.output), "output");
    const WeightOrder order = weight_order();
    if (!full) {
      skip_to_begin(values, 4 * scratch_.output_bytes);
      skip_to_begin(weights, order.four);
    }
    const int columns = scratch_.output_bytes / 64;
    const int tile = tile_ == 1 ? (v_.wide() ? 8 : 4) : (v_.wide() ? 4 : 1);
    const Gp row = v_.zero_gp("row");
    v_.loop(row, count_, tile_, [&] {
      for (int c = 0; c < columns; c += tile) {
        const int taken = std::min(tile, columns - c);
        const std::vector<Reg> sums = dot_values(tile_, c, taken, full, values, weights, order);
        Label first = cc_.newLabel();
        Label done = cc_.newLabel();
        cc_.cmp(split_, first_split_);
        cc_.je(first);
        add_values(c, taken, sums, output, row, true);
        cc_.jmp(done);
        cc_.bind(first);
        add_values(c, taken, sums, output, row, false);
        cc_.bind(done);
      }
      cc_.add(weights, tile_ * kWeightBytes);
      cc_.add(output, tile_ * scratch_.output_bytes);
    });
  }

  void add_values(int column, int columns, const std::vector<Reg>& sums, const Gp& output,
                  const Gp& row, bool to_others) {
    for (int r = 0; r < tile_; ++r) {
      const Reg factor = v_.broadcast(at(scratch_.factor + r * 4, row, 2));
      Reg keep;
      if (to_others) keep = v_.broadcast(at(scratch_.keep + r * 4, row, 2));
      for (int c = 0; c < columns; ++c) {
        const Mem out = asmjit::x86::ptr(output, r * scratch_.output_bytes + (column + c) * 64);
        const Reg dot = v_.to_float(sums[index(r * columns + c)]);
        const Reg added = v_.mul(dot, factor);
        v_.store(out, to_others ? v_.fma(v_.load(out), keep, added) : added);
      }
    }
  }

 protected:
  int tile_ = 1;  // rows taken together
  Gp split_;      // the present split's first position
 private:
  Gp first_split_;  // of its page, that any row sees
};

}  // namespace nibble::jit
