#include "frontends/gguf/ggml_types.h"

#include <array>
#include <bit>
#include <cstring>

#include "jit/error.h"
#include "jit/float16.h"

namespace nibble::frontends::gguf {
namespace {

constexpr int64_t kSuper = 256;  // weights of a K-quant's block

constexpr GgmlBlock kBlocks[] = {
    {GgmlType::f32, "f32", 1, 4},          {GgmlType::f16, "f16", 1, 2},
    {GgmlType::bf16, "bf16", 1, 2},        {GgmlType::q4_0, "q4_0", 32, 18},
    {GgmlType::q4_1, "q4_1", 32, 20},      {GgmlType::q5_0, "q5_0", 32, 22},
    {GgmlType::q5_1, "q5_1", 32, 24},      {GgmlType::q8_0, "q8_0", 32, 34},
    {GgmlType::q2_k, "q2_k", kSuper, 84},  {GgmlType::q3_k, "q3_k", kSuper, 110},
    {GgmlType::q4_k, "q4_k", kSuper, 144}, {GgmlType::q5_k, "q5_k", kSuper, 176},
    {GgmlType::q6_k, "q6_k", kSuper, 210}, {GgmlType::i8, "i8", 1, 1},
    {GgmlType::i16, "i16", 1, 2},          {GgmlType::i32, "i32", 1, 4},
    {GgmlType::i64, "i64", 1, 8},          {GgmlType::f64, "f64", 1, 8},
};

uint8_t byte_at(const std::byte* p, int64_t i) { return std::to_integer<uint8_t>(p[i]); }
int8_t signed_at(const std::byte* p, int64_t i) { return static_cast<int8_t>(byte_at(p, i)); }

uint16_t bits16(const std::byte* p) {
  uint16_t bits;
  std::memcpy(&bits, p, sizeof(bits));
  return bits;
}
uint32_t bits32(const std::byte* p) {
  uint32_t bits;
  std::memcpy(&bits, p, sizeof(bits));
  return bits;
}
float half(const std::byte* p) { return jit::f16_to_f32(bits16(p)); }

// ---- 32 weights: a scale (and a minimum), then nibbles or bytes. The low nibbles are the first 16
// weights, the high ones the last 16; the fifth bits of q5 stand in one word. ----

void q4_0(const std::byte* b, float* out) {
  const float d = half(b);
  for (int i = 0; i < 16; ++i) {
    const int q = byte_at(b, 2 + i);
    out[i] = static_cast<float>((q & 15) - 8) * d;
    out[i + 16] = static_cast<float>((q >> 4) - 8) * d;
  }
}

void q4_1(const std::byte* b, float* out) {
  const float d = half(b), m = half(b + 2);
  for (int i = 0; i < 16; ++i) {
    const int q = byte_at(b, 4 + i);
    out[i] = static_cast<float>(q & 15) * d + m;
    out[i + 16] = static_cast<float>(q >> 4) * d + m;
  }
}

int fifth(uint32_t bits, int i) { return static_cast<int>(bits >> i & 1U) << 4; }

void q5_0(const std::byte* b, float* out) {
  const float d = half(b);
  const uint32_t high = bits32(b + 2);
  for (int i = 0; i < 16; ++i) {
    const int q = byte_at(b, 6 + i);
    out[i] = static_cast<float>(((q & 15) | fifth(high, i)) - 16) * d;
    out[i + 16] = static_cast<float>(((q >> 4) | fifth(high, i + 16)) - 16) * d;
  }
}

void q5_1(const std::byte* b, float* out) {
  const float d = half(b), m = half(b + 2);
  const uint32_t high = bits32(b + 4);
  for (int i = 0; i < 16; ++i) {
    const int q = byte_at(b, 8 + i);
    out[i] = static_cast<float>((q & 15) | fifth(high, i)) * d + m;
    out[i + 16] = static_cast<float>((q >> 4) | fifth(high, i + 16)) * d + m;
  }
}

void q8_0(const std::byte* b, float* out) {
  const float d = half(b);
  for (int i = 0; i < 32; ++i) out[i] = static_cast<float>(signed_at(b, 2 + i)) * d;
}

// ---- 256 weights, in groups of 16 or 32 with a small scale each under a common one ----

// scales[16] of a nibble each (low: scale, high: minimum), quants[64] of 2 bits, d, dmin.
void q2_k(const std::byte* b, float* out) {
  const std::byte* quants = b + 16;
  const float d = half(b + 80), dmin = half(b + 82);
  for (int g = 0; g < 16; ++g) {
    const int scale = byte_at(b, g);
    const float dl = d * static_cast<float>(scale & 15);
    const float ml = dmin * static_cast<float>(scale >> 4);
    // Groups run 16 weights at a time: two of 32 bytes' lower and upper half, four shifts.
    const int half_block = g / 8, shift = g % 8 / 2 * 2, first = g % 2 * 16;
    for (int i = 0; i < 16; ++i) {
      const int q = byte_at(quants, half_block * 32 + first + i) >> shift & 3;
      out[g * 16 + i] = dl * static_cast<float>(q) - ml;
    }
  }
}

// hmask[32] the third bits, quants[64] of 2 bits, scales[12] sixteen of 6 bits, d.
void q3_k(const std::byte* b, float* out) {
  const std::byte *high = b, *quants = b + 32, *packed = b + 96;
  const float d = half(b + 108);
  for (int g = 0; g < 16; ++g) {
    const int low = g < 8 ? byte_at(packed, g) & 15 : byte_at(packed, g - 8) >> 4;
    const int upper = byte_at(packed, 8 + g % 4) >> (g / 4 * 2) & 3;
    const float dl = d * static_cast<float>((low | upper << 4) - 32);
    const int half_block = g / 8, shift = g % 8 / 2 * 2, first = g % 2 * 16;
    for (int i = 0; i < 16; ++i) {
      const int q = byte_at(quants, half_block * 32 + first + i) >> shift & 3;
      const bool third = (byte_at(high, first + i) >> (g / 2) & 1) != 0;
      out[g * 16 + i] = dl * static_cast<float>(q - (third ? 0 : 4));
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

// d, dmin, scales[12], quants[128] of 4 bits: 32 bytes are two groups of 32.
void q4_k(const std::byte* b, float* out) {
  const float d = half(b), dmin = half(b + 2);
  for (int g = 0; g < 8; ++g) {
    const auto [scale, minimum] = six_bits(b + 4, g);
    const float dl = d * static_cast<float>(scale), ml = dmin * static_cast<float>(minimum);
    for (int i = 0; i < 32; ++i) {
      const int q = byte_at(b, 16 + g / 2 * 32 + i) >> (g % 2 * 4) & 15;
      out[g * 32 + i] = dl * static_cast<float>(q) - ml;
    }
  }
}

// d, dmin, scales[12], the fifth bits [32], quants[128].
void q5_k(const std::byte* b, float* out) {
  const float d = half(b), dmin = half(b + 2);
  for (int g = 0; g < 8; ++g) {
    const auto [scale, minimum] = six_bits(b + 4, g);
    const float dl = d * static_cast<float>(scale), ml = dmin * static_cast<float>(minimum);
    for (int i = 0; i < 32; ++i) {
      const int low = byte_at(b, 48 + g / 2 * 32 + i) >> (g % 2 * 4) & 15;
      const int q = low | (byte_at(b, 16 + i) >> g & 1) << 4;
      out[g * 32 + i] = dl * static_cast<float>(q) - ml;
    }
  }
}

// ql[128] of 4 bits, qh[64] of 2 bits, scales[16] int8, d.
void q6_k(const std::byte* b, float* out) {
  const std::byte *ql = b, *qh = b + 128, *scales = b + 192;
  const float d = half(b + 208);
  for (int n = 0; n < 2; ++n) {
    for (int part = 0; part < 4; ++part) {
      for (int i = 0; i < 32; ++i) {
        const int low = byte_at(ql, n * 64 + part % 2 * 32 + i) >> (part / 2 * 4) & 15;
        const int upper = byte_at(qh, n * 32 + i) >> (part * 2) & 3;
        const int q = (low | upper << 4) - 32;
        const int scale = signed_at(scales, n * 8 + part * 2 + i / 16);
        out[n * 128 + part * 32 + i] = d * static_cast<float>(scale) * static_cast<float>(q);
      }
    }
  }
}

void one(GgmlType type, const std::byte* block, float* out) {
  switch (type) {
    case GgmlType::f32:
      *out = std::bit_cast<float>(bits32(block));
      return;
    case GgmlType::f16:
      *out = half(block);
      return;
    case GgmlType::bf16:
      *out = std::bit_cast<float>(uint32_t{bits16(block)} << 16);
      return;
    case GgmlType::q4_0:
      return q4_0(block, out);
    case GgmlType::q4_1:
      return q4_1(block, out);
    case GgmlType::q5_0:
      return q5_0(block, out);
    case GgmlType::q5_1:
      return q5_1(block, out);
    case GgmlType::q8_0:
      return q8_0(block, out);
    case GgmlType::q2_k:
      return q2_k(block, out);
    case GgmlType::q3_k:
      return q3_k(block, out);
    case GgmlType::q4_k:
      return q4_k(block, out);
    case GgmlType::q5_k:
      return q5_k(block, out);
    case GgmlType::q6_k:
      return q6_k(block, out);
    default:
      fail("{} is no type of weights.", ggml_block(type).name);
  }
}

}  // namespace

const GgmlBlock* ggml_block(uint32_t type) {
  for (const GgmlBlock& block : kBlocks) {
    if (static_cast<uint32_t>(block.type) == type) return &block;
  }
  return nullptr;
}

const GgmlBlock& ggml_block(GgmlType type) { return *ggml_block(static_cast<uint32_t>(type)); }

std::string_view ggml_type_names() {
  return "f32, f16, bf16, q4_0, q4_1, q5_0, q5_1, q8_0, q2_k, q3_k, q4_k, q5_k, q6_k";
}

bool is_weight(GgmlType type) {
  return type != GgmlType::f64 && (type < GgmlType::i8 || type > GgmlType::i64);
}

void dequantize(GgmlType type, std::span<const std::byte> blocks, std::span<float> out) {
  const GgmlBlock& block = ggml_block(type);
  const auto elements = static_cast<size_t>(block.elements);
  const std::byte* from = blocks.data();
  for (size_t i = 0; i < out.size(); i += elements) {
    one(type, from, &out[i]);
    from += block.bytes;
  }
}

}  // namespace nibble::frontends::gguf
