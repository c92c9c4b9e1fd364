// From scores to weights in the generated code of integer attention: scaled, masked, powers of 2,
// integers (attention.h has the arithmetic). Tiles of rows on ISAs that have registers for the
// scores of one; else row by row. Base of attention_integer_generator.cpp.
#pragma once

#include <array>
#include <cstddef>
#include <functional>
#include <vector>

#include "jit/attention.h"
#include "jit/attention_integer.h"
#include "jit/attention_paired.h"
#include "jit/compiler_math.h"
#include "jit/kv_layout.h"
#include "jit/kv_quantize.h"

namespace nibble::jit {

class IntegerWeights : public PairedAttention {
 protected:
  static constexpr int kRowTile = 4;
  static constexpr int kBlocks = static_cast<int>(kKvSplit / kKeyBlock);  // of a split

  using PairedAttention::PairedAttention;

  // ---- tiles of rows ----
  //
  // Three passes over all rows, since each ends in reductions and the next begins with their
  // results: in turns, whole tiles of other rows are there to be computed meanwhile.

  // Scores of integer dots, [row][block], and their maxima.
  void score_tile(const Gp& row, const Gp& scores, const std::vector<Reg>& dots, bool full) {
    Reg largest[kRowTile];
    for (Reg& x : largest) x = v_.accumulator(v_.imm(kLowScore));
    for (int b = 0; b < kBlocks; ++b) {
      const Reg key_scales = v_.load(in_record(layout_.key_scales, b));
      for (int r = 0; r < kRowTile; ++r) {
        Reg s = score(dots[static_cast<size_t>(r * kBlocks + b)], key_scales, row, r, {b, {}});
        v_.store(of_row(scores, r, b), s);
        if (!full) s = v_.select(visible(row, r, {b, {}}), s, v_.imm(kLowScore));
        v_.assign(largest[r], v_.max(s, largest[r]));
      }
    }
    v_.store_rows(at(scratch_.split_max, row, 2),
                  v_.reduce_rows_max(v_.reduce_two_max(largest[0], largest[1]),
                                     v_.reduce_two_max(largest[2], largest[3])));
  }

  // Scores become weights, still fp32, and their units.
  void weigh_tile(const Gp& row, const Gp& scores, bool full) {
    // A row's 16 lanes a quantity; of two rows, as soon as there are two, 8 lanes each.
    Reg sums[2], weight_sums[2], weight_maxima[2];
    for (int pair = 0; pair < 2; ++pair) {
      RowSums two[2];
      for (int r = 0; r < 2; ++r) two[r] = weigh_row_of_tile(row, 2 * pair + r, scores, full);
      sums[pair] = v_.reduce_two_add(two[0].sum, two[1].sum);
      weight_sums[pair] = v_.reduce_two_add(two[0].weight_sum, two[1].weight_sum);
      weight_maxima[pair] = v_.reduce_two_max(two[0].weight_max, two[1].weight_max);
    }
    v_.store_rows(at(scratch_.split_sum, row, 2), v_.reduce_rows_add(sums[0], sums[1]));
    const Unit unit = unit_of(v_.reduce_rows_max(weight_maxima[0], weight_maxima[1]),
                              v_.reduce_rows_add(weight_sums[0], weight_sums[1]));
    v_.store_rows(at(scratch_.factor, row, 2), unit.unit);
    v_.store_rows(at(scratch_.inverse, row, 2), unit.inverse);
  }

  void round_tile(const Gp& row, const Gp& scores, const Gp& weights) {
    for (int r = 0; r < kRowTile; ++r) {
      const Reg inverse = v_.broadcast(at(scratch_.inverse + r * 4, row, 2));
      for (int b = 0; b < kBlocks; ++b) {
        const Reg w = v_.load(of_row(scores, r, b));
        v_.store_int16(asmjit::x86::ptr(weights, (r * kBlocks + b) * 32),
                       v_.to_int(v_.mul(w, inverse)));
      }
    }
  }

  // ---- one row, its scores in the scratch ----

  struct RowPlace {
    Gp row, scores, weights, key_scales, value_scales;
    bool full;
  };

  void each_block(bool full, const std::function<void(const Block&)>& body) {
    if (full) {
      for (int b = 0; b < kBlocks; ++b) body({b, {}});
    } else {
      const Gp t = copy(begin_, "t");
      v_.loop(t, end_, kKeyBlock, [&] { body({-1, t}); });
    }
  }

  void weigh_row(const RowPlace& place) {
    // Scores, then weights: in registers where four more fit, else in the row of scores.
    std::vector<Reg> held(kBlocks);
    const bool hold = place.full && v_.wide();
    const auto put = [&](const Block& block, const Reg& x) {
      if (hold) {
        held[static_cast<size_t>(block.index)] = x;
      } else {
        v_.store(block.of(place.scores, 4), x);
      }
    };
    const auto get = [&](const Block& block) {
      return hold ? held[static_cast<size_t>(block.index)] : v_.load(block.of(place.scores, 4));
    };

    const Reg largest = v_.accumulator(v_.imm(kLowScore));
    each_block(place.full, [&](const Block& block) {
      const Reg dot = v_.load(block.of(place.scores, 4));
      const Reg s = score(dot, v_.load(block.of(place.key_scales, 4)), place.row, 0, block);
      put(block, s);
      if (place.full) {
        v_.assign(largest, v_.max(s, largest));
      } else {
        v_.assign(largest,
                  v_.max(v_.select(visible(place.row, 0, block), s, v_.imm(kLowScore)), largest));
      }
    });
    const Reg max = v_.reduce_max(largest);
    v_.store_lane0(at(scratch_.split_max, place.row, 2), max);

    const Reg sum = v_.accumulator(v_.imm(0.0F));
    const Reg weight_sum = v_.accumulator(v_.imm(0.0F));
    const Reg weight_max = v_.accumulator(v_.imm(0.0F));
    each_block(place.full, [&](const Block& block) {
      Reg p = vector_exp2(v_, v_.sub(get(block), max));
      Reg w = v_.mul(p, v_.load(block.of(place.value_scales, 4)));
      if (!place.full) {
        const Mask mask = visible(place.row, 0, block);
        p = v_.keep(mask, p);
        w = v_.keep(mask, w);
      }
      v_.assign(sum, v_.add(sum, p));
      v_.assign(weight_sum, v_.add(weight_sum, w));
      v_.assign(weight_max, v_.max(w, weight_max));
      put(block, w);
    });
    v_.store_lane0(at(scratch_.split_sum, place.row, 2), v_.reduce_add(sum));
    const Unit unit = unit_of(v_.reduce_max(weight_max), v_.reduce_add(weight_sum));
    v_.store_lane0(at(scratch_.factor, place.row, 2), unit.unit);
    each_block(place.full, [&](const Block& block) {
      v_.store_int16(block.of(place.weights, 2), v_.to_int(v_.mul(get(block), unit.inverse)));
    });
  }

  // ---- of both ----

 private:
  static Mem of_row(const Gp& scores, int row, int block) {
    return asmjit::x86::ptr(scores, (row * kBlocks + block) * 64);
  }

  // What one unit of an integer weight is worth.
  struct Unit {
    Reg unit, inverse;
  };
  Unit unit_of(const Reg& weight_max, const Reg& weight_sum) {
    const Reg by_largest = v_.mul(weight_max, v_.imm(kByLargestWeight));
    const Reg by_sum = v_.mul(weight_sum, v_.imm(kByWeightSum));
    const Reg unit = v_.max(v_.accumulator(v_.imm(kSmallestScale)), v_.max(by_largest, by_sum));
    return {unit, v_.div(v_.accumulator(v_.imm(1.0F)), unit)};
  }

  // The blocks of a row as one value for vector_exp2(), which is a chain of dependent operations:
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
  };

  // Sums and maximum of one row of a tile, in 16 lanes.
  struct RowSums {
    Reg sum, weight_sum, weight_max;
  };
  RowSums weigh_row_of_tile(const Gp& row, int r, const Gp& scores, bool full) {
    const Reg max = v_.broadcast(at(scratch_.split_max + r * 4, row, 2));
    RowBlocks blocks{v_};
    RowBlocks::Reg x;
    for (size_t b = 0; b < x.size(); ++b) {
      x[b] = v_.sub(v_.load(of_row(scores, r, static_cast<int>(b))), max);
    }
    const RowBlocks::Reg powers = vector_exp2(blocks, x);
    RowSums sums;
    for (int b = 0; b < kBlocks; ++b) {
      Reg p = powers[static_cast<size_t>(b)];
      Reg w = v_.mul(p, v_.load(in_record(layout_.value_scales, b)));
      if (!full) {
        const Mask mask = visible(row, r, {b, {}});
        p = v_.keep(mask, p);
        w = v_.keep(mask, w);
      }
      v_.store(of_row(scores, r, b), w);
      if (b == 0) {
        sums = {p, w, w};
        continue;
      }
      sums.sum = v_.add(sums.sum, p);
      sums.weight_sum = v_.add(sums.weight_sum, w);
      sums.weight_max = v_.max(w, sums.weight_max);
    }
    return sums;
  }

  Mem in_record(int64_t offset, int block) const {
    return asmjit::x86::ptr(record_, static_cast<int32_t>(offset + block * kKeyBlock * 4));
  }

  // The score of row `row` + r for the positions of a block.
  Reg score(const Reg& dot, const Reg& key_scales, const Gp& row, int r, const Block& block) {
    const Reg scaled = v_.mul(v_.to_float(dot), key_scales);
    const Reg s = v_.mul(scaled, v_.broadcast(at(scratch_.row_scale + r * 4, row, 2)));
    return adjusted(s, row, r, split_, block);
  }

 protected:
  Gp split_, record_;  // the present split's first position, its record
};

}  // namespace nibble::jit
