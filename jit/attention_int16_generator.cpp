// Machine code of attention over an int16 cache (attention.h has the arithmetic): from scores to
// weights, scaled, masked, powers of 2, integers in units of their own. Tiles of rows on ISAs that
// have registers for the scores of one; else row by row. What is around it:
// attention_integer_code.h.
#include <cstddef>
#include <vector>

#include "jit/attention.h"
#include "jit/attention_generator.h"
#include "jit/attention_integer.h"
#include "jit/attention_integer_code.h"
#include "jit/compiler_math.h"
#include "jit/kv_layout.h"
#include "jit/kv_quantize.h"

namespace nibble::jit {
namespace {

namespace x86 = asmjit::x86;

class Int16Attention : public IntegerAttention {
 public:
  Int16Attention(const AttentionSpec& spec, Isa isa) : IntegerAttention(spec, isa) {}

 private:
  bool has_units() const override { return true; }

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
    const Reg finite = v_.max(v_.accumulator(v_.imm(kSmallestScale)), v_.max(by_largest, by_norm));
    const Reg scale = v_.add(finite, v_.sub(finite, finite));  // NaN where it is not finite
    const Reg inverse = v_.div(v_.accumulator(v_.imm(1.0F)), scale);
    cc_.xor_(i, i);
    v_.blocks(i, dim_, [&](const Mask* mask, int) {
      const Reg x = v_.load(x86::ptr(source, i, 2), mask);
      v_.store_int16(x86::ptr(query, i, 1), v_.to_int(v_.mul(x, inverse)));
    });
    store_row_scale(row, scale);
  }

  // ---- scores ----

  BlockScales scales_of(const Block& block) override {
    return {v_.load(in_record(layout_.key_scales, block)), {}};
  }
  Reg score(const Reg& dot, const BlockScales& scales, const Gp& row, int r,
            const Block& block) override {
    const Reg scaled = v_.mul(v_.to_float(dot), scales.keys);
    const Reg s = v_.mul(scaled, v_.broadcast(at(scratch_.row_scale + r * 4, row, 2)));
    return adjusted(s, row, r, split_, block);
  }

  // ---- tiles of rows ----
  //
  // Three passes over all rows, since each ends in reductions and the next begins with their
  // results: in turns, whole tiles of other rows are there to be computed meanwhile.

  void weigh_tiles(bool full) override {
    v_.hold(kExp2);
    each_tile([&](const Gp& row, const Gp& scores, const Gp&) { weigh_tile(row, scores, full); });
    v_.release();
    each_tile([&](const Gp& row, const Gp& scores, const Gp& weights) {
      round_tile(row, scores, weights);
    });
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
        v_.store_int16(x86::ptr(weights, (r * kBlocks + b) * 32), v_.to_int(v_.mul(w, inverse)));
      }
    }
  }

  // ---- one row, its scores in the scratch ----

  void weigh_row(const RowPlace& place) override {
    RowNumbers numbers{v_, place};  // scores, then weights
    const Reg max = score_row(place, numbers);

    const Reg sum = v_.accumulator(v_.imm(0.0F));
    const Reg weight_sum = v_.accumulator(v_.imm(0.0F));
    const Reg weight_max = v_.accumulator(v_.imm(0.0F));
    each_block(place.full, [&](const Block& block) {
      Reg p = vector_exp2(v_, v_.sub(numbers.get(block), max));
      Reg w = v_.mul(p, v_.load(in_record(layout_.value_scales, block)));
      if (!place.full) {
        const Mask mask = visible(place.row, 0, block);
        p = v_.keep(mask, p);
        w = v_.keep(mask, w);
      }
      v_.assign(sum, v_.add(sum, p));
      v_.assign(weight_sum, v_.add(weight_sum, w));
      v_.assign(weight_max, v_.max(w, weight_max));
      numbers.put(block, w);
    });
    v_.store_lane0(at(scratch_.split_sum, place.row, 2), v_.reduce_add(sum));
    const Unit unit = unit_of(v_.reduce_max(weight_max), v_.reduce_add(weight_sum));
    v_.store_lane0(at(scratch_.factor, place.row, 2), unit.unit);
    each_block(place.full, [&](const Block& block) {
      v_.store_int16(block.of(place.weights, 2),
                     v_.to_int(v_.mul(numbers.get(block), unit.inverse)));
    });
  }

  // ---- of both ----

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
      Reg p = powers[index(b)];
      Reg w = v_.mul(p, v_.load(in_record(layout_.value_scales, {b, {}})));
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
};

}  // namespace

std::vector<uint8_t> generate_int16_attention(const AttentionSpec& spec, Isa isa) {
  return Int16Attention(spec, isa).generate();
}

}  // namespace nibble::jit
