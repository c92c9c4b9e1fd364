#include "jit/row_generator.h"

#include <algorithm>
#include <bit>
#include <cstddef>
#include <functional>
#include <vector>

#include "jit/compiler_math.h"
#include "jit/error.h"
#include "jit/row_kernels.h"
#include "jit/vector_math.h"

namespace nibble::jit {
namespace {

namespace x86 = asmjit::x86;
using Gp = CompilerMath::Gp;
using Mask = CompilerMath::Mask;
using Mem = CompilerMath::Mem;
using Reg = CompilerMath::Reg;

// An element of a row: i + offset.
struct Place {
  Gp i;
  int32_t offset = 0;
};

// That of a row of floats.
Mem element(const Gp& row, const Place& at) { return x86::ptr(row, at.i, 2, 4 * at.offset); }
Mem element(const Gp& row, const Gp& i) { return element(row, Place{i}); }

// What a prompt's rows hold is in the L3 or further away, and a row takes but microseconds: it is
// fetched in two steps, into the L2 and from there into the L1, past the end of a row from the next
// (512 rows of 11008 floats on Golden Cove, two threads: 0.98 ms and not 1.5).
constexpr int64_t kIntoL1Ahead = 2048, kIntoL2Ahead = 6144;  // bytes

// One function: a loop over rows around a body that is written once for every ISA.
class RowGenerator {
 public:
  RowGenerator(const RowSpec& spec, Isa isa) : spec_(spec), v_(isa) {}

  std::vector<uint8_t> generate() {
    row_ = v_.zero_gp("row");
    const Gp rows = v_.load_gp(v_.field(offsetof(RowArgs, rows)), "rows");
    v_.loop(row_, rows, 1, [this] { body(); });
    return v_.finish();
  }

 private:
  // A block of a row as a function of its first element.
  using Value = std::function<Reg(const Place& at, const Mask* mask)>;

  // This row of the matrix whose base pointer and stride are fields of RowArgs.
  Gp row_pointer(size_t base, size_t stride, int element_bytes, const char* name) {
    Gp pointer = v_.gp(name);
    v_.cc().mov(pointer, row_);
    v_.cc().imul(pointer, v_.field(stride));
    if (element_bytes == 4) v_.cc().shl(pointer, 2);
    v_.cc().add(pointer, v_.field(base));
    return pointer;
  }
#define NIBBLE_ROW(field, stride) \
  row_pointer(offsetof(RowArgs, field), offsetof(RowArgs, stride), 4, #field)
  Gp x_row() { return NIBBLE_ROW(x, x_stride); }
  Gp x2_row() { return NIBBLE_ROW(x2, x2_stride); }
  Gp x3_row() { return NIBBLE_ROW(x3, x2_stride); }
  Gp y_row() { return NIBBLE_ROW(y, y_stride); }
  Gp sum_row() { return NIBBLE_ROW(sum, sum_stride); }
#undef NIBBLE_ROW

  void body() {
    switch (spec_.op) {
      case RowOp::rms_norm:
      case RowOp::layer_norm:
        return norm();
      case RowOp::quantize:
        return quantize_only();
      case RowOp::rope:
        return rope();
      case RowOp::softmax:
        return softmax();
      case RowOp::activation:
      case RowOp::gate:
      case RowOp::add:
        return elementwise();
      case RowOp::scale:
      case RowOp::softcap:
      case RowOp::clip:
        return scale();
    }
  }

  // Blocks of a group that is short enough to stay in registers between its two passes.
  int64_t held_blocks() const { return v_.wide() ? 8 : 2; }

  // A block of a row that is read for the first time.
  Reg load_new(const Mem& from, const Mask* mask) {
    v_.cc().prefetcht0(from.cloneAdjusted(kIntoL1Ahead));
    v_.cc().prefetcht2(from.cloneAdjusted(kIntoL2Ahead));
    return v_.load(from, mask);
  }

  // ---- norms ----

  // Weights and biases are a layer's own and come from memory: into the L2, while the row is read.
  void fetch_weights(const Gp& i) {
    v_.cc().prefetcht1(element(weight_, i));
    if (spec_.bias) v_.cc().prefetcht1(element(bias_, i));
  }

  // Stores x + residual where there is one; `use` sees every block of the row to normalise.
  Gp norm_input(const std::function<void(const Reg&)>& use) {
    const Gp x = x_row();
    const Gp i = v_.zero_gp("i");
    if (!spec_.residual) {
      v_.blocks(i, spec_.n, [&](const Mask* mask, int) {
        fetch_weights(i);
        use(load_new(element(x, i), mask));
      });
      return x;
    }
    const Gp residual = x2_row();
    const Gp sum = sum_row();
    v_.blocks(i, spec_.n, [&](const Mask* mask, int) {
      fetch_weights(i);
      const Reg s = v_.add(load_new(element(x, i), mask), load_new(element(residual, i), mask));
      v_.store(element(sum, i), s, mask);
      use(s);
    });
    return sum;
  }

  // 1 / sqrt(squares / n + eps)
  Reg inverse_deviation(const Reg& squares) {
    const Reg mean = v_.div_uniform(v_.reduce_add(squares), v_.imm(static_cast<float>(spec_.n)));
    const Reg eps = v_.broadcast(v_.field(offsetof(RowArgs, eps), 4));
    return v_.div_uniform(v_.imm(1.0F), v_.sqrt(v_.add(mean, eps)));
  }

  void norm() {
    const bool layer = spec_.op == RowOp::layer_norm;
    weight_ = v_.load_gp(v_.field(offsetof(RowArgs, weight)), "weight");
    if (spec_.bias) bias_ = v_.load_gp(v_.field(offsetof(RowArgs, bias)), "bias");
    const Reg total = v_.accumulator(v_.imm(0.0F));
    const Gp s = norm_input([&](const Reg& x) {
      if (layer) {
        v_.assign(total, v_.add(total, x));
      } else {
        v_.fma_into(total, x, x);
      }
    });
    Reg mean = total;
    Reg squares = total;
    if (layer) {
      mean = v_.div_uniform(v_.reduce_add(total), v_.imm(static_cast<float>(spec_.n)));
      squares = v_.accumulator(v_.imm(0.0F));
      const Gp i = v_.zero_gp("i");
      v_.blocks(i, spec_.n, [&](const Mask* mask, int) {
        Reg d = v_.sub(v_.load(element(s, i), mask), mean);
        if (mask != nullptr) d = v_.keep(*mask, d);
        v_.fma_into(squares, d, d);
      });
    }
    const Reg inverse = inverse_deviation(squares);
    norm_output([&](const Place& at, const Mask* mask) {
      Reg d = v_.load(element(s, at), mask);
      if (layer) d = v_.sub(d, mean);
      const Reg y = v_.mul(v_.mul(d, inverse), v_.load(element(weight_, at), mask));
      return spec_.bias ? v_.add(y, v_.load(element(bias_, at), mask)) : y;
    });
  }

  void norm_output(const Value& value) {
    if (!spec_.quantize) {
      const Gp y = y_row();
      const Gp i = v_.zero_gp("i");
      v_.blocks(i, spec_.n,
                [&](const Mask* mask, int) { v_.store(element(y, i), value({i}, mask), mask); });
      return;
    }
    if (!spec_.f32_out) return spec_.bf16 ? round_row(value) : quantize_row(value, value);
    // The first pass stores y, which may replace the row it is computed from; the second reads y.
    const Gp y = y_row();
    if (spec_.bf16) {
      return round_row([&](const Place& at, const Mask* mask) {
        Reg result = value(at, mask);
        v_.store(element(y, at), result, mask);
        return result;
      });
    }
    quantize_row(
        [&](const Place& at, const Mask* mask) {
          Reg result = value(at, mask);
          v_.store(element(y, at), result, mask);
          return result;
        },
        [&](const Place& at, const Mask* mask) { return v_.load(element(y, at), mask); });
  }

  // ---- quantization ----

  void quantize_only() {
    const Gp x = x_row();
    const Value first = [&](const Place& at, const Mask* mask) {
      return load_new(element(x, at), mask);
    };
    if (spec_.bf16) return round_row(first);
    quantize_row(first,
                 [&](const Place& at, const Mask* mask) { return v_.load(element(x, at), mask); });
  }

  void round_row(const Value& value) {
    const Gp q = row_pointer(offsetof(RowArgs, q), offsetof(RowArgs, q_stride), 1, "q");
    const Gp i = v_.zero_gp("i");
    v_.blocks(i, spec_.n, [&](const Mask* mask, int lanes) {
      Reg words = v_.to_bf16_activation(value({i}, mask));
      if (mask != nullptr) words = v_.keep(*mask, words);
      v_.store_words(x86::ptr(q, i, 1), words, lanes <= 8 ? 8 : 16);
    });
  }

  // `first` and `second` give the same values in the two passes over each group; short groups are
  // kept from the first one.
  void quantize_row(const Value& first, const Value& second) {
    const int64_t group = spec_.group == 0 || spec_.group > spec_.n ? spec_.n : spec_.group;
    q_ = row_pointer(offsetof(RowArgs, q), offsetof(RowArgs, q_stride), 1, "q");
    q_scale_ = row_pointer(offsetof(RowArgs, q_scale), offsetof(RowArgs, q_groups), 4, "q_scale");
    q_sum_ = row_pointer(offsetof(RowArgs, q_sum), offsetof(RowArgs, q_sum_words), 4, "q_sum");
    const Gp begin = v_.zero_gp("begin");
    const int64_t whole = spec_.n - spec_.n % group;
    const auto quantize_group = [&](int64_t length) {
      if (length <= 16 * held_blocks()) return quantize_held(begin, length, first);
      quantize_in_two_passes(begin, length, first, second);
    };
    v_.loop(begin, whole, group, [&] { quantize_group(group); });
    if (whole < spec_.n) quantize_group(spec_.n - whole);
  }

  void quantize_held(const Gp& begin, int64_t length, const Value& first) {
    struct Block {
      Place at;
      int lanes;
      Reg x;
    };
    std::vector<Block> blocks;
    Reg largest;
    for (int64_t done = 0; done < length; done += 16) {
      const Place at{begin, static_cast<int32_t>(done)};
      const int lanes = static_cast<int>(std::min<int64_t>(16, length - done));
      Reg x;
      if (lanes == 16) {
        x = first(at, nullptr);
      } else {
        const Mask mask = v_.first_lanes(lanes);
        x = v_.keep(mask, first(at, &mask));
      }
      blocks.push_back({at, lanes, x});
      largest = done == 0 ? v_.abs(x) : v_.int_max(largest, v_.abs(x));
    }
    const GroupScale scale = store_scale(largest);
    const int64_t part = summed_together(length);
    Reg total;
    for (const Block& block : blocks) {
      const Reg q = quantized(scale, block.x);
      const int64_t end = block.at.offset + 16;
      total = block.at.offset % part == 0 ? q : v_.int_add(total, q);
      v_.store_int8(x86::ptr(q_, block.at.i, 0, block.at.offset), q, block.lanes <= 8 ? 8 : 16);
      if (end % part == 0 || end >= length) store_sum(total);
    }
  }

  void quantize_in_two_passes(const Gp& begin, int64_t length, const Value& first,
                              const Value& second) {
    const Reg largest = v_.accumulator(v_.imm(0.0F));
    const Gp i = copy(begin, "i");
    v_.blocks(i, length, [&](const Mask* mask, int) {
      Reg x = v_.abs(first({i}, mask));
      if (mask != nullptr) x = v_.keep(*mask, x);
      v_.assign(largest, v_.int_max(largest, x));
    });
    const GroupScale scale = store_scale(largest);
    v_.cc().mov(i, begin);
    const int64_t part = summed_together(length);
    const Gp done = v_.zero_gp("done");
    v_.loop(done, length, part, [&] {
      const Reg total = v_.accumulator(v_.imm(0.0F));
      v_.blocks(i, part, [&](const Mask* mask, int lanes) {
        Reg q = quantized(scale, second({i}, mask));
        if (mask != nullptr) q = v_.keep(*mask, q);
        v_.assign(total, v_.int_add(total, q));
        v_.store_int8(x86::ptr(q_, i), q, lanes <= 8 ? 8 : 16);
      });
      store_sum(total);
    });
  }

  // Elements of a group of this length that have one sum.
  int64_t summed_together(int64_t length) const {
    return spec_.sum_group == 0 ? length : spec_.sum_group;
  }

  // What a group's elements are multiplied by, where they are not too small or not finite.
  struct GroupScale {
    Reg inverse;
    Mask usable;
  };

  // From a group's magnitudes, the largest of each lane. Their bits order as integers, with
  // infinity and NaN on top.
  GroupScale store_scale(const Reg& largest) {
    const Reg amax = v_.reduce_int_max(largest);
    const Reg scale = v_.add(v_.div_uniform(amax, v_.imm(127.0F)), v_.sub(amax, amax));
    v_.store_lane0(x86::dword_ptr(q_scale_), scale);
    v_.cc().add(q_scale_, 4);
    constexpr uint32_t kInfinity = 0x7F800000U;
    const uint32_t below_tiny = std::bit_cast<uint32_t>(kQuantizeTiny) - 1;
    const Mask usable = v_.both(v_.int_greater(amax, v_.imm_bits(below_tiny)),
                                v_.int_greater(v_.imm_bits(kInfinity), amax));
    return {v_.div_uniform(v_.imm(127.0F), amax), usable};
  }

  Reg quantized(const GroupScale& scale, const Reg& x) {
    return v_.to_int(scale.usable, v_.mul(x, scale.inverse));
  }

  void store_sum(const Reg& total) {
    const Gp sum = v_.gp("sum");
    v_.cc().vmovd(sum.r32(), v_.reduce_int_add(total).part[0].xmm());
    v_.cc().imul(sum.r32(), sum.r32(), -spec_.zero);
    if (spec_.word_sums) {
      v_.cc().mov(x86::word_ptr(q_sum_), sum.r16());
    } else {
      v_.cc().mov(x86::dword_ptr(q_sum_), sum.r32());
    }
    v_.cc().add(q_sum_, spec_.word_sums ? 2 : 4);
  }

  // ---- rope ----

  void rope() {
    const Gp cos = x2_row();
    const Gp sin = x3_row();
    const Gp head = y_row();
    const Gp heads = v_.load_gp(v_.field(offsetof(RowArgs, heads)), "heads");
    const Gp h = v_.zero_gp("h");
    v_.loop(h, heads, 1, [&] {
      if (spec_.interleaved) {
        rotate_neighbours(head, cos, sin);
      } else {
        rotate_halves(head, cos, sin);
      }
      v_.cc().add(head, spec_.n * 4);
    });
  }

  void rotate_halves(const Gp& head, const Gp& cos_row, const Gp& sin_row) {
    const int64_t half = spec_.rotary / 2;
    const Gp i = v_.zero_gp("i");
    v_.blocks(i, half, [&](const Mask* mask, int) {
      const Mem first = element(head, i);
      const Mem second = first.cloneAdjusted(half * 4);
      const Reg a = v_.load(first, mask);
      const Reg b = v_.load(second, mask);
      const Reg cos = v_.load(element(cos_row, i), mask);
      const Reg sin = v_.load(element(sin_row, i), mask);
      v_.store(first, v_.fma(a, cos, v_.neg(v_.mul(b, sin))), mask);
      v_.store(second, v_.fma(b, cos, v_.mul(a, sin)), mask);
    });
  }

  // Eight pairs a block. With the pair swapped, both halves of the rotation are one fmaddsub: even
  // lanes a * cos - b * sin, odd lanes b * cos + a * sin.
  void rotate_neighbours(const Gp& head, const Gp& cos_row, const Gp& sin_row) {
    const Gp i = v_.zero_gp("i");
    v_.blocks(i, spec_.rotary, [&](const Mask* mask, int lanes) {
      const Reg x = v_.load(element(head, i), mask);
      const Reg cos = v_.load_twice(x86::ptr(cos_row, i, 1), lanes / 2);
      const Reg sin = v_.load_twice(x86::ptr(sin_row, i, 1), lanes / 2);
      const Reg turned = v_.mul(v_.swap_neighbours(x), sin);
      v_.store(element(head, i), v_.fma_sub_add(x, cos, turned), mask);
    });
  }

  // ---- softmax and elementwise ----

  void softmax() {
    const Gp x = x_row();
    const Gp y = y_row();
    const Gp n = v_.load_gp(v_.field(offsetof(RowArgs, n)), "n");
    const Gp i = v_.gp("i");
    constexpr uint32_t kMinusInfinity = 0xFF800000U;
    const Reg lowest = v_.imm_bits(kMinusInfinity);
    const Reg largest = v_.accumulator(lowest);
    v_.blocks(i, n, [&](const Mask* mask, int) {
      Reg value = v_.load(element(x, i), mask);
      if (mask != nullptr) value = v_.select(*mask, value, lowest);
      v_.assign(largest, v_.max(value, largest));
    });
    const Reg max = v_.reduce_max(largest);
    const Reg total = v_.accumulator(v_.imm(0.0F));
    v_.blocks(i, n, [&](const Mask* mask, int) {
      Reg p = vector_exp(v_, v_.sub(v_.load(element(x, i), mask), max));
      if (mask != nullptr) p = v_.keep(*mask, p);
      v_.store(element(y, i), p, mask);
      v_.assign(total, v_.add(total, p));
    });
    const Reg sum = v_.reduce_add(total);
    v_.blocks(i, n, [&](const Mask* mask, int) {
      v_.store(element(y, i), v_.div(v_.load(element(y, i), mask), sum), mask);
    });
  }

  void elementwise() {
    const Gp x = x_row();
    const Gp x2 = spec_.op == RowOp::activation ? x : x2_row();
    const Gp y = y_row();
    const Gp i = v_.zero_gp("i");
    v_.blocks(i, spec_.n, [&](const Mask* mask, int) {
      Reg value = v_.load(element(x, i), mask);
      if (spec_.op == RowOp::add) {
        value = v_.add(value, v_.load(element(x2, i), mask));
      } else {
        value = vector_activation(v_, spec_.activation, value);
        if (spec_.op == RowOp::gate) value = v_.mul(value, v_.load(element(x2, i), mask));
      }
      v_.store(element(y, i), value, mask);
    });
  }

  void scale() {
    const Gp x = x_row();
    const Gp y = y_row();
    const Gp n = v_.load_gp(v_.field(offsetof(RowArgs, n)), "n");
    const Gp i = v_.gp("i");
    const Reg factor = v_.broadcast(v_.field(offsetof(RowArgs, scale), 4));
    const Reg cap = v_.broadcast(v_.field(offsetof(RowArgs, cap), 4));
    v_.blocks(i, n, [&](const Mask* mask, int) {
      Reg value = v_.load(element(x, i), mask);
      if (spec_.op == RowOp::clip) {
        value = v_.max(v_.sub(v_.imm(0.0F), cap), v_.min(cap, value));
      } else {
        value = v_.mul(value, factor);
        if (spec_.op == RowOp::softcap) value = v_.mul(cap, vector_tanh(v_, value));
      }
      v_.store(element(y, i), value, mask);
    });
  }

  Gp copy(const Gp& from, const char* name) {
    Gp to = v_.gp(name);
    v_.cc().mov(to, from);
    return to;
  }

  RowSpec spec_;
  CompilerMath v_;
  Gp row_;
  Gp weight_, bias_;        // a norm's
  Gp q_, q_scale_, q_sum_;  // this row's; scale and sum move on with what they are of
};

}  // namespace

std::vector<uint8_t> generate_row(const RowSpec& spec, Isa isa) {
  check_row_spec(spec);
  return RowGenerator(spec, isa).generate();
}

}  // namespace nibble::jit
