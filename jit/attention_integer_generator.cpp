// Machine code of attention over an int16 or int8 cache (attention.h has the arithmetic): 16-bit
// dot products of pairs of elements for the scores, of pairs of positions for the outputs.
#include <algorithm>
#include <cstddef>
#include <functional>
#include <vector>

#include "jit/attention.h"
#include "jit/attention_generator.h"
#include "jit/attention_integer.h"
#include "jit/attention_integer_weights.h"
#include "jit/attention_scratch.h"
#include "jit/compiler_math.h"
#include "jit/kv_layout.h"
#include "jit/kv_quantize.h"

namespace nibble::jit {
namespace {

namespace x86 = asmjit::x86;
using Gp = CompilerMath::Gp;
using Label = CompilerMath::Label;
using Mask = CompilerMath::Mask;
using Mem = CompilerMath::Mem;
using Reg = CompilerMath::Reg;

constexpr int kScoreBytes = static_cast<int>(kKvSplit) * 4;   // one row of scores
constexpr int kWeightBytes = static_cast<int>(kKvSplit) * 2;  // one row of weights

// Two paths in one function: rows a tile at a time and, where the call has one row only, that row
// alone. Within a path, splits that every row sees whole take code without masks.
class IntegerAttentionGenerator : public IntegerWeights {
 public:
  IntegerAttentionGenerator(const AttentionSpec& spec, Isa isa)
      : IntegerWeights(spec, isa),
        element_bytes_(spec.kv == KvType::int8 ? 1 : 2),
        position_bytes_(scratch_.output_bytes / 4 * element_bytes_) {}

  std::vector<uint8_t> generate() { return generate_paths({{1, 1}, {spec_.rows, kRowTile}}); }

 private:
  // Part of the present split's record.
  Gp part(int64_t offset, const char* name) {
    return address(x86::ptr(record_, static_cast<int32_t>(offset)), name);
  }

  // ---- the whole of one path ----

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
    const Gp end = address(x86::ptr(page_, kKvPage), "page_end");
    lower(end, highest_);
    v_.loop(split_, end, kKvSplit, [&] { split(); });
  }

  void split() {
    Label partial = cc_.newLabel();
    Label done = cc_.newLabel();
    const Gp end = address(x86::ptr(split_, kKvSplit), "split_end");
    record_ = record_of(split_);
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
    if (tile_ == kRowTile && v_.wide()) {
      weigh_tiles(full);
    } else {
      weigh_rows(full);
    }
    merge_sums({scratch_.split_max, scratch_.split_sum}, {scratch_.max, scratch_.sum}, false);
    values(full);
  }

  void weigh_rows(bool full) {
    scores(full);
    const Gp row = v_.zero_gp("row");
    const Gp scores = address(at(scratch_.scores), "scores");
    const Gp weights = address(at(scratch_.weights), "weights");
    const Gp key_scales = part(layout_.key_scales, "key_scales");
    const Gp value_scales = part(layout_.value_scales, "value_scales");
    v_.loop(row, count_, 1, [&] {
      weigh_row({row, scores, weights, key_scales, value_scales, full});
      cc_.add(scores, kScoreBytes);
      cc_.add(weights, kWeightBytes);
    });
  }

  // Scores of a split, the dots of a tile in registers, and the weights made of them.
  void weigh_tiles(bool full) {
    const Gp keys = part(0, "keys");
    const Gp query = address(at(scratch_.query), "query");
    const Gp scores = address(at(scratch_.scores), "scores");
    const Gp weights = address(at(scratch_.weights), "weights");
    const Gp row = v_.zero_gp("row");
    v_.loop(row, count_, kRowTile, [&] {
      std::vector<Reg> sums;
      for (int i = 0; i < kRowTile * kBlocks; ++i) {
        sums.push_back(v_.accumulator(v_.imm_bits(0)));
      }
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
      cc_.jmp(done);
      cc_.bind(many);
      dot_blocks(0, kBlocks, keys, query, sums);
      cc_.bind(done);
      score_tile(row, scores, sums, full);
      cc_.add(query, kRowTile * scratch_.query_bytes);
      cc_.add(scores, kRowTile * kScoreBytes);
    });
    cc_.xor_(row, row);
    cc_.lea(scores, at(scratch_.scores));
    v_.hold(kExp2);
    v_.loop(row, count_, kRowTile, [&] {
      weigh_tile(row, scores, full);
      cc_.add(scores, kRowTile * kScoreBytes);
    });
    v_.release();
    cc_.xor_(row, row);
    cc_.lea(scores, at(scratch_.scores));
    v_.loop(row, count_, kRowTile, [&] {
      round_tile(row, scores, weights);
      cc_.add(scores, kRowTile * kScoreBytes);
      cc_.add(weights, kRowTile * kWeightBytes);
    });
  }

  // sums[row][block] += queries of a tile . keys of `blocks` blocks.
  void dot_blocks(int first, int blocks, const Gp& keys, const Gp& query,
                  const std::vector<Reg>& sums) {
    constexpr int kUnroll = 4;
    const int pair_bytes = static_cast<int>(kKeyBlock) * 2 * element_bytes_;
    const Gp key = address(x86::ptr(keys, first * block_bytes()), "key");
    const Gp q = copy(query, "q");
    const Gp i = v_.zero_gp("i");
    v_.loop(i, scratch_.query_bytes / 4, kUnroll, [&] {
      for (int u = 0; u < kUnroll; ++u) {
        std::vector<Reg> pairs;
        for (int b = 0; b < blocks; ++b) {
          pairs.push_back(load_pairs(x86::ptr(key, b * block_bytes() + u * pair_bytes)));
        }
        for (int r = 0; r < kRowTile; ++r) {
          const Reg two = v_.broadcast(x86::dword_ptr(q, r * scratch_.query_bytes + u * 4));
          for (int b = 0; b < blocks; ++b) {
            v_.dot_int16(sums[static_cast<size_t>(r * kBlocks + first + b)],
                         pairs[static_cast<size_t>(b)], two);
          }
        }
      }
      cc_.add(key, kUnroll * pair_bytes);
      cc_.add(q, kUnroll * 4);
    });
  }

  // ---- a row's query in integers ----

  void gather_query(const Gp& row, const Gp& source, const Gp& query) override {
    const Reg largest = v_.accumulator(v_.imm(0.0F));
    const Reg squares = v_.accumulator(v_.imm(0.0F));
    const Gp i = v_.zero_gp("i");
    v_.blocks(i, dim_, [&](const Mask* mask, int) {
      const Reg x = v_.load(x86::ptr(source, i, 2), mask);
      v_.assign(largest, v_.max(v_.abs(x), largest));
      v_.fma_into(squares, x, x);
    });
    const Reg by_largest = v_.mul(v_.reduce_max(largest), v_.imm(kNormRule.by_largest));
    const Reg by_norm = v_.mul(v_.sqrt(v_.reduce_add(squares)), v_.imm(kNormRule.by_norm));
    const Reg scale = v_.max(v_.accumulator(v_.imm(kSmallestScale)), v_.max(by_largest, by_norm));
    const Reg inverse = v_.div(v_.accumulator(v_.imm(1.0F)), scale);
    cc_.xor_(i, i);
    v_.blocks(i, dim_, [&](const Mask* mask, int) {
      const Reg x = v_.load(x86::ptr(source, i, 2), mask);
      v_.store_int16(x86::ptr(query, i, 1), v_.to_int(v_.mul(x, inverse)));
    });
    Reg unit = v_.mul(scale, v_.broadcast(v_.field(offsetof(AttentionArgs, scale), 4)));
    if (!adjusts()) unit = v_.mul(unit, v_.imm(kLog2E));
    v_.store_lane0(at(scratch_.row_scale, row, 2), unit);
  }

  // ---- scores[row][t - split]: integer dots of query and key ----

  Reg load_pairs(const Mem& from) {
    return element_bytes_ == 1 ? v_.load_int8(from) : v_.load_int16(from);
  }

  void scores(bool full) {
    const Gp keys = part(0, "keys");
    const Gp scores = address(at(scratch_.scores), "scores");
    if (!full) {
      const Gp skipped = copy(begin_, "skipped");
      cc_.imul(skipped, skipped, position_bytes_);
      cc_.add(keys, skipped);
      cc_.lea(scores, x86::ptr(scores, begin_, 2));
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

  int block_bytes() const { return static_cast<int>(kKeyBlock) * position_bytes_; }

  void dot_rows(const Gp& keys, const Gp& scores) {
    const Gp query = address(at(scratch_.query), "query");
    const Gp target = copy(scores, "target");
    const Gp row = v_.zero_gp("row");
    v_.loop(row, count_, tile_, [&] {
      dot_tile(keys, query, target);
      cc_.add(query, tile_ * scratch_.query_bytes);
      cc_.add(target, tile_ * kScoreBytes);
    });
  }

  void dot_tile(const Gp& keys, const Gp& query, const Gp& target) {
    constexpr int kUnroll = 4;
    const int chains = tile_ == 1 ? kUnroll : 1;  // one chain of dots is bound by their latency
    std::vector<Reg> sums;
    for (int i = 0; i < tile_ * chains; ++i) sums.push_back(v_.accumulator(v_.imm_bits(0)));
    const int pair_bytes = static_cast<int>(kKeyBlock) * 2 * element_bytes_;
    const Gp key = copy(keys, "key");
    const Gp q = copy(query, "q");
    const Gp i = v_.zero_gp("i");
    v_.loop(i, scratch_.query_bytes / 4, kUnroll, [&] {
      for (int u = 0; u < kUnroll; ++u) {
        const Reg pairs = load_pairs(x86::ptr(key, u * pair_bytes));
        for (int r = 0; r < tile_; ++r) {
          const Reg two = v_.broadcast(x86::dword_ptr(q, r * scratch_.query_bytes + u * 4));
          v_.dot_int16(sums[static_cast<size_t>(r + u % chains)], pairs, two);
        }
      }
      cc_.add(key, kUnroll * pair_bytes);
      cc_.add(q, kUnroll * 4);
    });
    for (size_t chain = 1; chain < static_cast<size_t>(chains); ++chain) {
      v_.assign(sums[0], v_.int_add(sums[0], sums[chain]));
    }
    for (int r = 0; r < tile_; ++r) {
      v_.store(x86::ptr(target, r * kScoreBytes), sums[static_cast<size_t>(r)]);
    }
  }

  // ---- output[row] = output * keep + float(weights . values) * factor; in a page's first split,
  // where nothing is there, the product alone ----

  void values(bool full) {
    const Gp values = part(layout_.values, "values");
    const Gp weights = address(at(scratch_.weights), "weights");
    const Gp output = address(at(scratch_.output), "output");
    if (!full) {
      const Gp skipped = copy(begin_, "skipped");
      cc_.imul(skipped, skipped, position_bytes_);
      cc_.add(values, skipped);
      cc_.lea(weights, x86::ptr(weights, begin_, 1));
    }
    const int columns = scratch_.output_bytes / 64;
    const int tile = tile_ == 1 ? (v_.wide() ? 8 : 4) : (v_.wide() ? 4 : 1);
    const Gp row = v_.zero_gp("row");
    v_.loop(row, count_, tile_, [&] {
      for (int c = 0; c < columns; c += tile) {
        value_tile(c, std::min(tile, columns - c), full, {values, weights, output, row});
      }
      cc_.add(weights, tile_ * kWeightBytes);
      cc_.add(output, tile_ * scratch_.output_bytes);
    });
  }

  struct ValuePlace {
    Gp values, weights, output, row;
  };

  void value_tile(int column, int columns, bool full, const ValuePlace& place) {
    std::vector<Reg> sums;
    for (int i = 0; i < tile_ * columns; ++i) sums.push_back(v_.accumulator(v_.imm_bits(0)));
    const int column_bytes = static_cast<int>(kKeyBlock) * 2 * element_bytes_;
    const Gp value = address(x86::ptr(place.values, column * column_bytes), "value");
    const Gp weight = copy(place.weights, "weight");
    constexpr int kUnroll = 4;
    const auto body = [&] {
      for (int u = 0; u < kUnroll; ++u) {
        std::vector<Reg> two;
        for (int r = 0; r < tile_; ++r) {
          two.push_back(v_.broadcast(x86::dword_ptr(weight, r * kWeightBytes + u * 4)));
        }
        for (int c = 0; c < columns; ++c) {
          const Reg pairs = load_pairs(x86::ptr(value, u * 2 * position_bytes_ + c * column_bytes));
          for (int r = 0; r < tile_; ++r) {
            v_.dot_int16(sums[static_cast<size_t>(r * columns + c)], pairs,
                         two[static_cast<size_t>(r)]);
          }
        }
      }
      cc_.add(value, kUnroll * 2 * position_bytes_);
      cc_.add(weight, kUnroll * 4);
    };
    const Gp t = copy(begin_, "t");
    if (full) {
      v_.loop(t, kKvSplit, 2 * kUnroll, body);
    } else {
      v_.loop(t, end_, 2 * kUnroll, body);
    }
    Label first = cc_.newLabel();
    Label done = cc_.newLabel();
    cc_.cmp(split_, first_split_);
    cc_.je(first);
    add_values(column, columns, sums, place, true);
    cc_.jmp(done);
    cc_.bind(first);
    add_values(column, columns, sums, place, false);
    cc_.bind(done);
  }

  void add_values(int column, int columns, const std::vector<Reg>& sums, const ValuePlace& place,
                  bool to_others) {
    for (int r = 0; r < tile_; ++r) {
      const Reg factor = v_.broadcast(at(scratch_.factor + r * 4, place.row, 2));
      Reg keep;
      if (to_others) keep = v_.broadcast(at(scratch_.keep + r * 4, place.row, 2));
      for (int c = 0; c < columns; ++c) {
        const Mem out = x86::ptr(place.output, r * scratch_.output_bytes + (column + c) * 64);
        const Reg dot = v_.to_float(sums[static_cast<size_t>(r * columns + c)]);
        const Reg added = v_.mul(dot, factor);
        v_.store(out, to_others ? v_.fma(v_.load(out), keep, added) : added);
      }
    }
  }

  int element_bytes_;
  int position_bytes_;  // of one position of one head, keys or values
  int tile_ = 1;        // rows taken together
  Gp first_split_;      // of its page, that any row sees
};

}  // namespace

std::vector<uint8_t> generate_integer_attention(const AttentionSpec& spec, Isa isa) {
  return IntegerAttentionGenerator(spec, isa).generate();
}

}  // namespace nibble::jit
