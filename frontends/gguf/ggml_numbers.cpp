#include "frontends/gguf/ggml_numbers.h"

#include <cstring>
#include <vector>

#include "jit/error.h"
#include "jit/float16.h"

namespace nibble::frontends::gguf {
namespace {

uint8_t byte_at(const std::byte* p, int64_t i) { return std::to_integer<uint8_t>(p[i]); }
int8_t signed_at(const std::byte* p, int64_t i) { return static_cast<int8_t>(byte_at(p, i)); }

uint32_t bits32(const std::byte* p) {
  uint32_t bits;
  std::memcpy(&bits, p, sizeof(bits));
  return bits;
}
float half(const std::byte* p) {
  uint16_t bits;
  std::memcpy(&bits, p, sizeof(bits));
  return jit::f16_to_f32(bits);
}

// Where the numbers of one block go. The zero point of symmetric formats is in q already.
struct Numbers {
  uint8_t* q;
  float* scale;
  float* minimum;                  // of formats with minimums
  float* super_scale = nullptr;    // what the 256 weights' scales and
  float* super_minimum = nullptr;  // minimums are multiples of
  void put(int64_t i, int value) const { q[i] = static_cast<uint8_t>(value); }
  void put_above(float scales, float minimums) const {
    super_scale[0] = scales;
    if (super_minimum != nullptr) super_minimum[0] = minimums;
  }
};

// Zero points of symmetric formats.
constexpr int kMiddle4 = jit::middle_value(jit::WeightType::u4),
              kMiddle6 = jit::middle_value(jit::WeightType::u6),
              kMiddle8 = jit::middle_value(jit::WeightType::u8);

// ---- 32 weights: a scale (and a minimum), then nibbles or bytes. The low nibbles are the first 16
// weights, the high ones the last 16; the fifth bits of q5 stand in one word. ----

void nibbles(const std::byte* from, const Numbers& out) {
  for (int i = 0; i < 16; ++i) {
    const int q = byte_at(from, i);
    out.put(i, q & 15);
    out.put(i + 16, q >> 4);
  }
}

void five_bits(const std::byte* fifth, const std::byte* from, int offset, const Numbers& out) {
  const uint32_t high = bits32(fifth);
  nibbles(from, out);
  for (int i = 0; i < 32; ++i) {
    out.put(i, (out.q[i] | static_cast<int>(high >> i & 1U) << 4) + offset);
  }
}

void q4_0(const std::byte* b, const Numbers& out) {
  out.scale[0] = half(b);
  nibbles(b + 2, out);
}

void q4_1(const std::byte* b, const Numbers& out) {
  out.scale[0] = half(b);
  out.minimum[0] = half(b + 2);
  nibbles(b + 4, out);
}

void q5_0(const std::byte* b, const Numbers& out) {
  out.scale[0] = half(b);
  five_bits(b + 2, b + 6, kMiddle6 - 16, out);
}

void q5_1(const std::byte* b, const Numbers& out) {
  out.scale[0] = half(b);
  out.minimum[0] = half(b + 2);
  five_bits(b + 4, b + 8, 0, out);
}

void q8_0(const std::byte* b, const Numbers& out) {
  out.scale[0] = half(b);
  for (int i = 0; i < 32; ++i) out.put(i, signed_at(b, 2 + i) + kMiddle8);
}

// ---- 256 weights, in groups of 16 or 32 with a small scale each under a common one ----

// Two bits of weight i of group g: groups run 16 weights at a time, two of 32 bytes' lower and
// upper half, at four shifts.
int two_bits(const std::byte* quants, int g, int i) {
  const int half_block = g / 8, shift = g % 8 / 2 * 2, first = g % 2 * 16;
  return byte_at(quants, half_block * 32 + first + i) >> shift & 3;
}

// scales[16] of a nibble each (low: scale, high: minimum), quants[64] of 2 bits, d, dmin.
void q2_k(const std::byte* b, const Numbers& out) {
  const float d = half(b + 80), dmin = half(b + 82);
  out.put_above(d, -dmin);
  for (int g = 0; g < 16; ++g) {
    const int scale = byte_at(b, g);
    out.scale[g] = d * static_cast<float>(scale & 15);
    out.minimum[g] = -(dmin * static_cast<float>(scale >> 4));
    for (int i = 0; i < 16; ++i) out.put(g * 16 + i, two_bits(b + 16, g, i));
  }
}

// hmask[32] the third bits, quants[64] of 2 bits, scales[12] sixteen of 6 bits, d.
void q3_k(const std::byte* b, const Numbers& out) {
  const std::byte *high = b, *quants = b + 32, *packed = b + 96;
  const float d = half(b + 108);
  out.put_above(d, 0);
  for (int g = 0; g < 16; ++g) {
    const int low = g < 8 ? byte_at(packed, g) & 15 : byte_at(packed, g - 8) >> 4;
    const int upper = byte_at(packed, 8 + g % 4) >> (g / 4 * 2) & 3;
    out.scale[g] = d * static_cast<float>((low | upper << 4) - 32);
    for (int i = 0; i < 16; ++i) {
      const bool third = (byte_at(high, g % 2 * 16 + i) >> (g / 2) & 1) != 0;
      out.put(g * 16 + i, two_bits(quants, g, i) - (third ? 0 : 4) + kMiddle4);
    }
  }
}

struct SmallScale {
  int scale, minimum;
};
// Eight pairs of 6 bits in 12 bytes, of q4_k and q5_k.
SmallScale six_bits(const std::byte* p, int g) {
  if (g < 4) return {byte_at(p, g) & 63, byte_at(p, g + 4) & 63};
  return {(byte_at(p, g + 4) & 15) | (byte_at(p, g - 4) >> 6 << 4),
          (byte_at(p, g + 4) >> 4) | (byte_at(p, g) >> 6 << 4)};
}

// d, dmin, scales[12]: what q4_k and q5_k begin with.
void scales_and_minimums(const std::byte* b, const Numbers& out) {
  const float d = half(b), dmin = half(b + 2);
  out.put_above(d, -dmin);
  for (int g = 0; g < 8; ++g) {
    const auto [scale, minimum] = six_bits(b + 4, g);
    out.scale[g] = d * static_cast<float>(scale);
    out.minimum[g] = -(dmin * static_cast<float>(minimum));
  }
}

// Then quants[128] of 4 bits: 32 bytes are two groups of 32.
void q4_k(const std::byte* b, const Numbers& out) {
  scales_and_minimums(b, out);
  for (int g = 0; g < 8; ++g) {
    for (int i = 0; i < 32; ++i) {
      out.put(g * 32 + i, byte_at(b, 16 + g / 2 * 32 + i) >> (g % 2 * 4) & 15);
    }
  }
}

// Then the fifth bits [32], quants[128].
void q5_k(const std::byte* b, const Numbers& out) {
  scales_and_minimums(b, out);
  for (int g = 0; g < 8; ++g) {
    for (int i = 0; i < 32; ++i) {
      const int low = byte_at(b, 48 + g / 2 * 32 + i) >> (g % 2 * 4) & 15;
      out.put(g * 32 + i, low | (byte_at(b, 16 + i) >> g & 1) << 4);
    }
  }
}

// ql[128] of 4 bits, qh[64] of 2 bits, scales[16] int8, d.
void q6_k(const std::byte* b, const Numbers& out) {
  const std::byte *ql = b, *qh = b + 128, *scales = b + 192;
  const float d = half(b + 208);
  out.put_above(d, 0);
  for (int g = 0; g < 16; ++g) out.scale[g] = d * static_cast<float>(signed_at(scales, g));
  for (int n = 0; n < 2; ++n) {
    for (int part = 0; part < 4; ++part) {
      for (int i = 0; i < 32; ++i) {
        const int low = byte_at(ql, n * 64 + part % 2 * 32 + i) >> (part / 2 * 4) & 15;
        const int upper = byte_at(qh, n * 32 + i) >> (part * 2) & 3;
        out.put(n * 128 + part * 32 + i, low | upper << 4);
      }
    }
  }
}

struct Quantized {
  GgmlType type;
  jit::WeightType weights;
  int64_t group;
  bool minimum;
  void (*read)(const std::byte*, const Numbers&);
};

constexpr auto kU4 = jit::WeightType::u4, kU6 = jit::WeightType::u6, kU8 = jit::WeightType::u8;
constexpr Quantized kQuantized[] = {
    {GgmlType::q4_0, kU4, 32, false, q4_0}, {GgmlType::q4_1, kU4, 32, true, q4_1},
    {GgmlType::q5_0, kU6, 32, false, q5_0}, {GgmlType::q5_1, kU6, 32, true, q5_1},
    {GgmlType::q8_0, kU8, 32, false, q8_0}, {GgmlType::q2_k, kU4, 16, true, q2_k},
    {GgmlType::q3_k, kU4, 16, false, q3_k}, {GgmlType::q4_k, kU4, 32, true, q4_k},
    {GgmlType::q5_k, kU6, 32, true, q5_k},  {GgmlType::q6_k, kU6, 16, false, q6_k},
};

const Quantized* find(GgmlType type) {
  for (const Quantized& one : kQuantized) {
    if (one.type == type) return &one;
  }
  return nullptr;
}

const Quantized& known(GgmlType type) {
  const Quantized* found = find(type);
  if (found == nullptr) fail("{} is no quantized type of weights.", ggml_block(type).name);
  return *found;
}

}  // namespace

std::optional<jit::WeightFormat> packed_format(GgmlType type) {
  const Quantized* found = find(type);
  if (found == nullptr) return std::nullopt;
  const bool super_block = ggml_block(type).elements == jit::kSuperBlock;
  return jit::WeightFormat{.type = found->weights,
                           .group = found->group,
                           .asym = found->minimum,
                           .scale = super_block ? jit::ScaleType::q8 : jit::ScaleType::f16,
                           .minimum = found->minimum};
}

void read_numbers(GgmlType type, std::span<const std::byte> blocks, const NumbersOfBlocks& out) {
  const Quantized& numbers = known(type);
  const GgmlBlock& block = ggml_block(type);
  const bool super_block = block.elements == jit::kSuperBlock;
  const int64_t groups = block.elements / numbers.group;
  const auto count = static_cast<int64_t>(out.q.size()) / block.elements;
  for (int64_t i = 0; i < count; ++i) {
    numbers.read(blocks.data() + i * block.bytes,
                 {out.q.data() + i * block.elements, out.scales.data() + i * groups,
                  numbers.minimum ? out.minimums.data() + i * groups : nullptr,
                  super_block ? out.super_scales.data() + i : nullptr,
                  super_block && numbers.minimum ? out.super_minimums.data() + i : nullptr});
  }
}

void dequantize(GgmlType type, std::span<const std::byte> blocks, std::span<float> out) {
  const Quantized& numbers = known(type);
  const auto group = static_cast<size_t>(numbers.group);
  std::vector<uint8_t> q(out.size());
  std::vector<float> scales(out.size() / group), minimums(scales.size());
  std::vector<float> super_scales(out.size() / jit::kSuperBlock),
      super_minimums(super_scales.size());
  read_numbers(type, blocks, {q, scales, minimums, super_scales, super_minimums});
  // A product that a minimum is added to is exact: 17 bits by 5.
  const int zero = numbers.minimum ? 0 : jit::middle_value(numbers.weights);
  for (size_t i = 0; i < out.size(); ++i) {
    const float product = static_cast<float>(int{q[i]} - zero) * scales[i / group];
    out[i] = numbers.minimum ? product + minimums[i / group] : product;
  }
}

}  // namespace nibble::frontends::gguf
