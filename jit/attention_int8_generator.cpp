// Machine code of attention over an int8 cache (attention.h has the arithmetic): from scores to
// weights of 8 bits. The largest of a split is known from the scores already, in which the
// logarithm of a value's scale is a summand, so weights are made and rounded in one pass. What is
// around it: attention_integer_code.h.
#include <array>
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

class Int8Attention : public IntegerAttention {
 public:
  Int8Attention(const AttentionSpec& spec, Isa isa) : IntegerAttention(spec, isa) {}

 private:
  bool has_units() const override { return false; }

  // Tiles have their four blocks packed into one register, dwords of a block 16 bytes apart.
  bool packed() const { return by_tiles() && !widened_; }
  WeightOrder weight_order() const override {
    return packed() ? WeightOrder{.dword = 4 * kBlocks, .four = 4} : in_order();
  }

  // ---- a row's query in integers ----

  void gather_query(const Gp& row, const Gp& source, const Gp& query) override {
    const Reg largest = v_.accumulator(zero());
    const Reg poison = v_.accumulator(zero());  // NaN where an element is not finite
    const Gp i = v_.zero_gp("i");
    v_.blocks(i, dim_, [&](const Mask* mask, int) {
      const Reg x = v_.load(x86::ptr(source, i, 2), mask);
      v_.assign(largest, v_.max(v_.abs(x), largest));
      v_.fma_into(poison, x, zero());
    });
    const Reg by_largest = v_.mul(v_.reduce_max(largest), v_.imm(kInt8Rule.by_largest));
    const Reg scale =
        v_.add(v_.max(v_.accumulator(v_.imm(kSmallestScale)), by_largest), v_.reduce_add(poison));
    const Reg inverse = v_.div(v_.accumulator(v_.imm(1.0F)), scale);
    const Reg sum = v_.accumulator(v_.imm_bits(0));
    cc_.xor_(i, i);
    v_.blocks(i, dim_, [&](const Mask* mask, int) {
      const Reg x = v_.to_int(v_.mul(v_.load(x86::ptr(source, i, 2), mask), inverse));
      v_.assign(sum, v_.int_add(sum, x));
      if (widened_) {
        v_.store_int16_even_odd(x86::ptr(query, i, 1), x);
      } else {
        v_.store_int8(x86::ptr(query, i), x, 16);
      }
    });
    // At most 1024 * 127 * 128: a float holds it.
    const Reg start =
        v_.mul(v_.to_float(v_.reduce_int_add(sum)), v_.imm(static_cast<float>(-kInt8KeyOffset)));
    v_.store_lane0(at(scratch_.query_start, row, 2), v_.to_int(start));
    store_row_scale(row, scale);
  }

  // ---- scores, times the scales of their values ----

  BlockScales scales_of(const Block& block) override {
    return {v_.load(in_record(layout_.key_scales, block)),
            v_.load(in_record(layout_.value_logs, block))};
  }
  Reg score(const Reg& dot, const BlockScales& scales, const Gp& row, int r,
            const Block& block) override {
    const Reg scaled = v_.mul(v_.to_float(dot), scales.keys);
    const Reg unit = v_.broadcast(at(scratch_.row_scale + r * 4, row, 2));
    if (!adjusts()) return v_.fma(scaled, unit, scales.value_logs);
    return v_.add(adjusted(v_.mul(scaled, unit), row, r, split_, block), scales.value_logs);
  }

  // ---- tiles of rows ----
  //
  // Two passes over all rows, since the first ends in a reduction that the second begins with.

  void weigh_tiles(bool full) override {
    v_.hold(kByteWeight);
    v_.hold(std::array{kByteRound, kLeastByteExponent});
    each_tile([&](const Gp& row, const Gp& scores, const Gp& weights) {
      Reg sums[2];  // of two rows, as soon as there are two, 8 lanes each
      for (int pair = 0; pair < 2; ++pair) {
        const Reg first = weigh_row_of_tile(row, 2 * pair, scores, weights, full);
        const Reg second = weigh_row_of_tile(row, 2 * pair + 1, scores, weights, full);
        sums[pair] = v_.reduce_two_add(first, second);
      }
      v_.store_rows(at(scratch_.split_sum, row, 2), v_.reduce_rows_add(sums[0], sums[1]));
    });
    v_.release();
  }

  // Its sum in 16 lanes.
  Reg weigh_row_of_tile(const Gp& row, int r, const Gp& scores, const Gp& weights, bool full) {
    const Reg max = v_.broadcast(at(scratch_.split_max + r * 4, row, 2));
    RowBlocks blocks{v_};
    RowBlocks::Reg x;
    for (int b = 0; b < kBlocks; ++b) {
      x[index(b)] = v_.sub(v_.load(of_row(scores, r, b)), max);
    }
    RowBlocks::Reg w = byte_weight(blocks, x);
    const Reg sum = v_.accumulator(zero());
    for (int b = 0; b < kBlocks; ++b) add_weights(sum, w[index(b)], row, r, {b, {}}, full);
    for (Reg& weight : w) weight = v_.to_int(weight);
    if (packed()) {
      v_.store_four_uint8(x86::ptr(weights, r * kWeightBytes), w);
    } else {
      for (int b = 0; b < kBlocks; ++b) {
        v_.store_int16_even_odd(x86::ptr(weights, r * kWeightBytes + b * 32), w[index(b)]);
      }
    }
    return sum;
  }

  // sum += weights over the scales of their values. What the row may not see becomes 0.
  void add_weights(const Reg& sum, Reg& weights, const Gp& row, int r, const Block& block,
                   bool full) {
    Reg inverses = v_.load(in_record(layout_.value_inverses, block));
    if (!full) {
      const Mask mask = visible(row, r, block);
      weights = v_.keep(mask, weights);
      inverses = v_.keep(mask, inverses);
    }
    v_.fma_into(sum, weights, inverses);
  }

  // ---- one row, its dots in the scratch ----

  void weigh_row(const RowPlace& place) override {
    RowNumbers scores{v_, place};
    const Reg max = score_row(place, scores);

    const Reg sum = v_.accumulator(zero());
    each_block(place.full, [&](const Block& block) {
      Reg w = byte_weight(v_, v_.sub(scores.get(block), max));
      add_weights(sum, w, place.row, 0, block, place.full);
      if (widened_) {
        v_.store_int16_even_odd(block.of(place.weights, 2), v_.to_int(w));
      } else {
        v_.store_uint8(block.of(place.weights, 1), v_.to_int(w));
      }
    });
    v_.store_lane0(at(scratch_.split_sum, place.row, 2), v_.reduce_add(sum));
  }
};

}  // namespace

std::vector<uint8_t> generate_int8_attention(const AttentionSpec& spec, Isa isa) {
  return Int8Attention(spec, isa).generate();
}

}  // namespace nibble::jit
