// The plain C++ matmul: the contract of kernel_spec.h spelled out, one column block of 16 at a
// time. It is the oracle of every generated kernel and what runs where executable memory is
// refused; for the latter the same source is compiled a second time for AVX2 and FMA.
#include <algorithm>
#include <array>
#include <cmath>
#include <cstdint>
#include <cstring>

#include "jit/float16.h"
#include "jit/gemm.h"
#include "jit/scalar_math.h"
#include "jit/super_blocks.h"

#define NIBBLE_INLINE inline __attribute__((always_inline))

namespace nibble::jit {
namespace {

constexpr int kWidth = static_cast<int>(kColumnBlock);
using Block = std::array<float, kColumnBlock>;

// One spec with its sizes and the pointers of one call.
struct Problem {
  const GemmSpec& spec;
  const GemmArgs& args;
  PackedShape shape;

  NIBBLE_INLINE const uint8_t* data(int64_t nb) const { return args.w + nb * shape.block_bytes; }
  NIBBLE_INLINE float stored(const void* numbers, int64_t index) const {
    if (spec.weight.scale == ScaleType::f32) return static_cast<const float*>(numbers)[index];
    const uint16_t half = static_cast<const uint16_t*>(numbers)[index];
    return spec.weight.scale == ScaleType::f16 ? f16_to_f32(half) : bf16_to_f32(half);
  }
  NIBBLE_INLINE int64_t entry(int64_t nb, int64_t group, int c) const {
    return (nb * shape.groups + group) * kColumnBlock + c;
  }
  NIBBLE_INLINE bool has_super_blocks() const { return spec.weight.scale == ScaleType::q8; }
  NIBBLE_INLINE SuperBlocks super_scales(int64_t nb) const {
    const auto* scales = static_cast<const uint8_t*>(args.w_scale);
    return {shape.group, scales + nb * shape.scale_block_bytes, false};
  }
  NIBBLE_INLINE SuperBlocks super_minimums(int64_t nb) const {
    const auto* minimums = static_cast<const uint8_t*>(args.w_zero);
    return {shape.group, minimums + nb * shape.zero_block_bytes, true};
  }
  NIBBLE_INLINE int32_t sum(int64_t row, int64_t group) const {
    const auto* sums = static_cast<const uint8_t*>(args.a_sum) + row * shape.act_sum_bytes;
    if (shape.act_sum_bytes == shape.groups * 4) {
      return reinterpret_cast<const int32_t*>(sums)[group];
    }
    return reinterpret_cast<const int16_t*>(sums)[group];
  }
  NIBBLE_INLINE float scale(int64_t nb, int64_t group, int c) const {
    if (has_super_blocks()) return super_scales(nb).product(group, c);
    return stored(args.w_scale, entry(nb, group, c));
  }
  NIBBLE_INLINE int zero(int64_t nb, int64_t group, int c) const {
    if (spec.weight.minimum) return 0;
    if (!spec.weight.asym) return middle_value(spec.weight.type);
    return static_cast<const uint8_t*>(args.w_zero)[entry(nb, group, c)];
  }
  NIBBLE_INLINE float minimum(int64_t nb, int64_t group, int c) const {
    if (!spec.weight.minimum) return 0.0F;
    if (has_super_blocks()) return super_minimums(nb).product(group, c);
    return stored(args.w_zero, entry(nb, group, c));
  }
  NIBBLE_INLINE int64_t group_end(int64_t group, int64_t end) const {
    return std::min((group + 1) * shape.group, end);
  }
};

// sums[c] += the integer products of k in [begin, end), both multiples of 8. Unsigned, so that a
// sum which only passes int32's range on its way wraps as the instructions do.
NIBBLE_INLINE void dot_s8(WeightType type, const uint8_t* block, const int8_t* a, int64_t begin,
                          int64_t end, std::array<uint32_t, kColumnBlock>& sums) {
  if (type == WeightType::u6) {
    for (int64_t kk = begin; kk < end; ++kk) {
      for (int c = 0; c < kWidth; ++c) {
        sums[c] += static_cast<uint32_t>(unit_value(type, block, c, kk) * a[kk]);
      }
    }
    return;
  }
  for (int64_t k0 = begin; k0 < end; k0 += 4) {
    const bool nibbles = type == WeightType::u4;
    const uint8_t* line = block + (nibbles ? k0 / 8 : k0 / 4) * 64;
    const int shift = nibbles && k0 % 8 != 0 ? 4 : 0;
    const int mask = nibbles ? 15 : 255;
    for (int c = 0; c < kWidth; ++c) {
      int32_t quad = 0;
      for (int i = 0; i < 4; ++i) quad += ((line[c * 4 + i] >> shift) & mask) * a[k0 + i];
      sums[c] += static_cast<uint32_t>(quad);
    }
  }
}

// q8 scales: the groups of a super-block add up under its number.
NIBBLE_INLINE Block block_s8_super(const Problem& p, int64_t row, int64_t nb) {
  const auto* a = static_cast<const int8_t*>(p.args.a) + row * p.args.a_stride;
  const SuperBlocks scales = p.super_scales(nb);
  const int64_t groups = p.shape.super_groups;
  Block acc{};
  for (int64_t s = 0; s < p.shape.supers; ++s) {
    const float a_scale = p.args.a_scale[row * p.shape.supers + s];
    Block super{};
    std::array<int32_t, kColumnBlock> minimums{};
    for (int64_t g = s * groups; g < (s + 1) * groups; ++g) {
      const int32_t a_sum = p.sum(row, g);
      std::array<uint32_t, kColumnBlock> sums{};
      if (!p.spec.weight.asym) sums.fill(static_cast<uint32_t>(a_sum));
      dot_s8(p.spec.weight.type, p.data(nb), a, g * p.shape.group, (g + 1) * p.shape.group, sums);
      for (int c = 0; c < kWidth; ++c) {
        super[c] = std::fma(static_cast<float>(static_cast<int32_t>(sums[c])),
                            static_cast<float>(scales.byte(g, c)), super[c]);
        if (p.spec.weight.minimum) minimums[c] += p.super_minimums(nb).byte(g, c) * a_sum;
      }
    }
    for (int c = 0; c < kWidth; ++c) {
      acc[c] = std::fma(super[c], scales.number(s * groups, c) * a_scale, acc[c]);
      if (p.spec.weight.minimum) {
        acc[c] = std::fma(-static_cast<float>(minimums[c]),
                          p.super_minimums(nb).number(s * groups, c) * a_scale, acc[c]);
      }
    }
  }
  return acc;
}

NIBBLE_INLINE Block block_s8(const Problem& p, int64_t row, int64_t nb) {
  if (p.has_super_blocks()) return block_s8_super(p, row, nb);
  const auto* a = static_cast<const int8_t*>(p.args.a) + row * p.args.a_stride;
  Block acc{};
  for (int64_t g = 0; g < p.shape.groups; ++g) {
    const int64_t index = row * p.shape.groups + g;
    const int32_t a_sum = p.sum(row, g);
    const float a_scale = p.args.a_scale[index];
    std::array<uint32_t, kColumnBlock> sums{};
    if (!p.spec.weight.asym) sums.fill(static_cast<uint32_t>(a_sum));
    dot_s8(p.spec.weight.type, p.data(nb), a, g * p.shape.group, p.group_end(g, p.shape.kpad),
           sums);
    for (int c = 0; c < kWidth; ++c) {
      float isum = static_cast<float>(static_cast<int32_t>(sums[c]));
      if (p.spec.weight.asym && !p.spec.weight.minimum) {
        isum = std::fma(static_cast<float>(p.zero(nb, g, c)), static_cast<float>(a_sum), isum);
      }
      acc[c] = std::fma(isum, p.scale(nb, g, c) * a_scale, acc[c]);
      if (p.spec.weight.minimum) {
        acc[c] = std::fma(-p.minimum(nb, g, c), static_cast<float>(a_sum) * a_scale, acc[c]);
      }
    }
  }
  return acc;
}

// f32 activations over quantized weights, dequantized one by one.
NIBBLE_INLINE Block block_dequantized(const Problem& p, int64_t row, int64_t nb) {
  const float* a = static_cast<const float*>(p.args.a) + row * p.args.a_stride;
  const bool nibbles = p.spec.weight.type == WeightType::u4;
  const bool six = p.spec.weight.type == WeightType::u6;
  const int mask = nibbles ? 15 : 255;
  Block acc{};
  for (int64_t g = 0; g < p.shape.groups; ++g) {
    Block scale{}, minimum{};
    std::array<int, kColumnBlock> zero{};
    for (int c = 0; c < kWidth; ++c) {
      scale[c] = p.scale(nb, g, c);
      zero[c] = p.zero(nb, g, c);
      minimum[c] = p.minimum(nb, g, c);
    }
    const int64_t end = p.group_end(g, p.spec.k);
    for (int64_t kk = g * p.shape.group; kk < end; ++kk) {
      const uint8_t* line = p.data(nb) + (nibbles ? kk / 8 : kk / 4) * 64 + kk % 4;
      const int shift = nibbles && kk % 8 >= 4 ? 4 : 0;
      for (int c = 0; c < kWidth; ++c) {
        const int q = six ? unit_value(p.spec.weight.type, p.data(nb), c, kk)
                          : (line[int64_t{c} * 4] >> shift) & mask;
        const auto whole = static_cast<float>(q - zero[c]);
        const float w =
            p.spec.weight.minimum ? std::fma(whole, scale[c], minimum[c]) : whole * scale[c];
        acc[c] = std::fma(a[kk], w, acc[c]);
      }
    }
  }
  return acc;
}

// bf16 activations times the whole numbers q - zero, two chains a step.
NIBBLE_INLINE Block block_bf16(const Problem& p, int64_t row, int64_t nb) {
  const auto* a = static_cast<const uint16_t*>(p.args.a) + row * p.args.a_stride;
  const bool nibbles = p.spec.weight.type == WeightType::u4;
  const int mask = nibbles ? 15 : 255;
  Block acc{};
  for (int64_t g = 0; g < p.shape.groups; ++g) {
    std::array<int, kColumnBlock> zero{};
    for (int c = 0; c < kWidth; ++c) zero[c] = p.zero(nb, g, c);
    Block sum{};
    const int64_t end = p.group_end(g, p.spec.k);
    for (int64_t first = g * p.shape.group; first < end; first += kBf16Step) {
      std::array<Block, 2> chains{};  // of even and of odd k
      for (int64_t kk = first; kk < std::min(first + kBf16Step, end); ++kk) {
        const uint8_t* line = p.data(nb) + (nibbles ? kk / 8 : kk / 4) * 64 + kk % 4;
        const int shift = nibbles && kk % 8 >= 4 ? 4 : 0;
        const float x = bf16_to_f32(a[kk]);
        Block& chain = chains[static_cast<size_t>(kk % 2)];
        for (int c = 0; c < kWidth; ++c) {
          const int q = (line[int64_t{c} * 4] >> shift) & mask;
          chain[c] = std::fma(x, static_cast<float>(q - zero[c]), chain[c]);
        }
      }
      for (int c = 0; c < kWidth; ++c) sum[c] += chains[0][c] + chains[1][c];
    }
    for (int c = 0; c < kWidth; ++c) acc[c] = std::fma(sum[c], p.scale(nb, g, c), acc[c]);
  }
  return acc;
}

NIBBLE_INLINE Block block_f32(const Problem& p, int64_t row, int64_t nb) {
  const float* a = static_cast<const float*>(p.args.a) + row * p.args.a_stride;
  Block acc{};
  for (int64_t kk = 0; kk < p.spec.k; ++kk) {
    Block w;
    std::memcpy(w.data(), p.data(nb) + kk * 64, sizeof(w));
    for (int c = 0; c < kWidth; ++c) acc[c] = std::fma(a[kk], w[c], acc[c]);
  }
  return acc;
}

// One column block of one row: products and bias. Columns past n have no bias to read.
NIBBLE_INLINE Block compute_block(const Problem& p, int64_t row, int64_t nb) {
  Block acc = p.spec.act == ActType::s8               ? block_s8(p, row, nb)
              : p.spec.act == ActType::bf16           ? block_bf16(p, row, nb)
              : p.spec.weight.type == WeightType::f32 ? block_f32(p, row, nb)
                                                      : block_dequantized(p, row, nb);
  if (!p.spec.bias) return acc;
  const int64_t valid = std::min<int64_t>(kWidth, p.spec.n - nb * kColumnBlock);
  for (int64_t c = 0; c < valid; ++c) acc[c] += p.args.bias[nb * kColumnBlock + c];
  return acc;
}

NIBBLE_INLINE float activate(Activation activation, float x) {
  if (activation == Activation::none) return x;
  ScalarMath math;
  return vector_activation(math, activation, x);
}

// The rest of the epilogue and the store of one output block.
NIBBLE_INLINE void store_block(const Problem& p, int64_t row, int64_t first, Block out) {
  const int64_t valid = std::min<int64_t>(kWidth, p.args.c_columns - first);
  for (int64_t c = 0; c < valid; ++c) {
    float value = out[c];
    if (p.spec.residual) value += p.args.residual[row * p.args.residual_stride + first + c];
    p.args.c[row * p.args.c_stride + first + c] = value;
  }
}

NIBBLE_INLINE void run_problem(const Problem& p) {
  const int64_t step = p.spec.gate ? 2 : 1;
  for (int64_t nb = p.args.nb_begin; nb < p.args.nb_end; nb += step) {
    const int64_t first = nb / step * kColumnBlock;
    for (int64_t row = 0; row < p.args.m; ++row) {
      Block out = compute_block(p, row, nb);
      for (float& value : out) value = activate(p.spec.activation, value);
      if (p.spec.gate) {
        const Block up = compute_block(p, row, nb + 1);
        for (int c = 0; c < kWidth; ++c) out[c] *= up[c];
      }
      store_block(p, row, first, out);
    }
  }
}

void run_plain(const Problem& p) { run_problem(p); }
__attribute__((target("avx2,fma"))) void run_avx2(const Problem& p) { run_problem(p); }

}  // namespace

void gemm_reference(const GemmSpec& spec, const GemmArgs& args) {
  const Problem problem{spec, args, packed_shape(spec.weight, spec.n, spec.k)};
  if (cpu().avx2 && cpu().fma) {
    run_avx2(problem);
  } else {
    run_plain(problem);
  }
}

}  // namespace nibble::jit
