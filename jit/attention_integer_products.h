// The dot products of integer attention in the generated code: queries by keys, weights by values,
// a tile of rows at a time. Base of attention_integer_code.h, which says of which positions.
//
// A dword of the cache holds two elements (int16) or four (int8) of a product, and one instruction
// multiplies those of 16 dwords and adds them: vpdpwssd, vpdpbusd. Of bytes the first factor is
// unsigned and the second signed: keys, stored with 128 added, by queries (whose row begins its
// sums at -128 times the sum of its query), and weights by values. Without VNNI bytes are widened
// to pairs of int16, the even ones of a dword and the odd ones; rows have theirs so in the scratch.
#pragma once

#include <array>
#include <bit>
#include <cstddef>
#include <functional>
#include <vector>

#include "jit/attention_paired.h"
#include "jit/compiler_math.h"
#include "jit/kv_layout.h"

namespace nibble::jit {

class IntegerProducts : public PairedAttention {
 protected:
  static constexpr int kRowTile = 4;
  static constexpr int kBlocks = static_cast<int>(kKvSplit / kKeyBlock);  // of a split
  static_assert(kLineBytes == kKeyBlock * 4);                             // 16 dwords side by side
  // Bytes from one row of scores to the next, and of weights.
  static constexpr int kScoreBytes = static_cast<int>(kKvSplit) * 4;
  static constexpr int kWeightBytes = static_cast<int>(kKvSplit) * 2;

  IntegerProducts(const AttentionSpec& spec, Isa isa)
      : PairedAttention(spec, isa),
        bytes_(spec.kv == KvType::int8),
        widened_(bytes_ && !v_.has_byte_dots()),
        per_dword_(bytes_ ? 4 : 2),
        factor_bytes_(widened_ ? 8 : 4),
        position_bytes_(scratch_.output_bytes / per_dword_) {}

  // Part of the present split's record.
  Gp part(int64_t offset, const char* name) {
    return address(asmjit::x86::ptr(record_, static_cast<int32_t>(offset)), name);
  }

  // With kUnroll dwords of many rows. A line for every second dword that a tile of four rows by
  // four blocks takes makes up a record where the rows are 32.
  void fetch_for_many() { fetch_ahead(kUnroll / 2, Cache::l1); }

  // ---- keys ----

  // What the sums of a tile begin with, [row][chain or block]: rows from `row` on.
  std::vector<Reg> begin_scores(const Gp& row, int rows, int sums_per_row, int begun) {
    std::vector<Reg> sums;
    for (int r = 0; r < rows; ++r) {
      const Reg start =
          bytes_ ? v_.broadcast(at(scratch_.query_start + r * 4, row, 2)) : v_.imm_bits(0);
      for (int i = 0; i < sums_per_row; ++i) {
        sums.push_back(v_.accumulator(i < begun ? start : v_.imm_bits(0)));
      }
    }
    return sums;
  }

  // sums[row][block] += queries of a tile . keys of `blocks` blocks.
  void dot_blocks(int first, int blocks, const Gp& keys, const Gp& query,
                  const std::vector<Reg>& sums) {
    const Gp key = address(asmjit::x86::ptr(keys, first * block_bytes()), "key");
    const Gp q = copy(query, "q");
    each_query_dword(key, q, [&](int u) {
      if (u == 0 && blocks == kBlocks) fetch_for_many();
      if (u == 0 && blocks == 1) fetch_ahead(2 * kUnroll);  // those of the values as well
      std::array<Factor, kBlocks> lines;
      for (int b = 0; b < blocks; ++b) {
        lines[index(b)] = keys_at(asmjit::x86::ptr(key, b * block_bytes() + u * kLineBytes));
      }
      for (int r = 0; r < kRowTile; ++r) {
        const Factor factor = row_factor(q, r * scratch_.query_bytes + u * factor_bytes_);
        for (int b = 0; b < blocks; ++b) {
          dot(sums[index(r * kBlocks + first + b)], lines[index(b)], factor);
        }
      }
    });
  }

  // One block's dots of `rows` rows, from `row` on, into their scores at `target`.
  void dot_tile(int rows, const Gp& row, const Gp& keys, const Gp& query, const Gp& target) {
    const int chains = rows == 1 ? kUnroll : 1;  // one chain of dots is bound by their latency
    const std::vector<Reg> sums = begin_scores(row, rows, chains, 1);
    const Gp key = copy(keys, "key");
    const Gp q = copy(query, "q");
    each_query_dword(key, q, [&](int u) {
      if (u == 0 && rows == 1) fetch_ahead(kUnroll);
      const Factor line = keys_at(asmjit::x86::ptr(key, u * kLineBytes));
      for (int r = 0; r < rows; ++r) {
        dot(sums[index(r + u % chains)], line,
            row_factor(q, r * scratch_.query_bytes + u * factor_bytes_));
      }
    });
    for (int chain = 1; chain < chains; ++chain) {
      v_.assign(sums[0], v_.int_add(sums[0], sums[index(chain)]));
    }
    for (int r = 0; r < rows; ++r) {
      v_.store(asmjit::x86::ptr(target, r * kScoreBytes), sums[index(r)]);
    }
  }

  // ---- values ----

  // Where a row's weights have the dwords of a block: bytes from one to the next, and from those
  // of 4 * per_dword_ positions to those of the next.
  struct WeightOrder {
    int dword, four;
  };
  WeightOrder in_order() const { return {factor_bytes_, 4 * factor_bytes_}; }

  // The address of position begin_'s dword in values or weights, where `bytes` make up four.
  void skip_to_begin(const Gp& base, int bytes) {
    const Gp skipped = copy(begin_, "skipped");
    cc_.imul(skipped, skipped, bytes);
    cc_.shr(skipped, std::countr_zero(static_cast<unsigned>(4 * per_dword_)));
    cc_.add(base, skipped);
  }

  // [row][column] sums of weights . values from `column` on, over begin_ to end_ or the whole
  // split.
  std::vector<Reg> dot_values(int rows, int column, int columns, bool full, const Gp& values,
                              const Gp& weights, const WeightOrder& order) {
    std::vector<Reg> sums;
    for (int i = 0; i < rows * columns; ++i) sums.push_back(v_.accumulator(v_.imm_bits(0)));
    const Gp value = address(asmjit::x86::ptr(values, column * kLineBytes), "value");
    const Gp weight = copy(weights, "weight");
    const auto factor = [&](int r, int u) {
      return row_factor(weight, r * kWeightBytes + u * order.dword);
    };
    const auto body = [&] {
      if (rows > 1 && v_.wide()) fetch_for_many();
      if (rows == 1) fetch_ahead(kUnroll * columns);
      for (int u = 0; u < kUnroll; ++u) {
        std::array<Factor, kRowTile> held;  // where there are registers for them
        for (int r = 0; r < rows && columns > 1; ++r) held[index(r)] = factor(r, u);
        for (int c = 0; c < columns; ++c) {
          const Factor line =
              values_at(asmjit::x86::ptr(value, u * scratch_.output_bytes + c * kLineBytes));
          for (int r = 0; r < rows; ++r) {
            dot(sums[index(r * columns + c)], columns > 1 ? held[index(r)] : factor(r, u), line);
          }
        }
      }
      cc_.add(value, kUnroll * scratch_.output_bytes);
      cc_.add(weight, order.four);
    };
    const Gp t = copy(begin_, "t");
    if (full) {
      v_.loop(t, kKvSplit, kUnroll * per_dword_, body);
    } else {
      v_.loop(t, end_, kUnroll * per_dword_, body);
    }
    return sums;
  }

  int block_bytes() const { return static_cast<int>(kKeyBlock) * position_bytes_; }
  static size_t index(int i) { return static_cast<size_t>(i); }

 private:
  static constexpr int kUnroll = 4;

  void each_query_dword(const Gp& key, const Gp& query, const std::function<void(int u)>& body) {
    const Gp i = v_.zero_gp("i");
    v_.loop(i, scratch_.width / per_dword_, kUnroll, [&] {
      for (int u = 0; u < kUnroll; ++u) body(u);
      cc_.add(key, kUnroll * kLineBytes);
      cc_.add(query, kUnroll * factor_bytes_);
    });
  }

  // A factor of 16 products: its dwords as they are, or the even and the odd bytes of each.
  struct Factor {
    Reg even, odd;
  };
  Factor keys_at(const Mem& from) {
    const Reg line = v_.load(from);
    if (!widened_) return {line, {}};
    return {v_.bit_and(line, v_.imm_bits(0x00FF00FFU)), v_.shift_words_right(line, 8)};
  }
  Factor values_at(const Mem& from) {
    const Reg line = v_.load(from);
    if (!widened_) return {line, {}};
    return {v_.shift_words_right_signed(v_.shift_words_left(line, 8), 8),
            v_.shift_words_right_signed(line, 8)};
  }
  Factor row_factor(const Gp& row, int offset) {
    Factor factor;
    factor.even = v_.broadcast(asmjit::x86::dword_ptr(row, offset));
    if (widened_) factor.odd = v_.broadcast(asmjit::x86::dword_ptr(row, offset + 4));
    return factor;
  }
  void dot(const Reg& sum, const Factor& a, const Factor& b) {
    if (bytes_ && !widened_) return v_.dot_int8(sum, a.even, b.even);
    v_.dot_int16(sum, a.even, b.even);
    if (widened_) v_.dot_int16(sum, a.odd, b.odd);
  }

 protected:
  bool bytes_, widened_;
  int per_dword_;       // elements of a product in a dword of the cache
  int factor_bytes_;    // that many of a row's, in the scratch
  int position_bytes_;  // of one position of one head, keys or values
  Gp record_;           // the present split's
};

}  // namespace nibble::jit
