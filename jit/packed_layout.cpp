#include "jit/packed_layout.h"

#include <algorithm>
#include <array>
#include <cmath>
#include <cstring>

#include "jit/error.h"
#include "jit/float16.h"
#include "jit/super_blocks.h"

namespace nibble::jit {
namespace {

// Keeps every product below far from int64's end, whatever a damaged file says.
constexpr int64_t kLargestDimension = int64_t{1} << 30;

// One line of u4, which holds the low four bits of u6 too.
template <typename Value>
void write_nibbles(uint8_t* line, int64_t k0, Value value) {
  for (int64_t c = 0; c < kColumnBlock; ++c) {
    for (int64_t i = 0; i < 4; ++i) {
      line[c * 4 + i] =
          static_cast<uint8_t>((value(c, k0 + i) & 15) | (value(c, k0 + 4 + i) & 15) << 4);
    }
  }
}

// Writes one column block's bytes. `value(c, kk)` is the quantized element with all padding done.
template <typename Value>
void write_lines(WeightType type, int64_t kpad, uint8_t* out, Value value) {
  const WeightUnit unit = weight_unit(type);
  for (int64_t k0 = 0; k0 < kpad; k0 += unit.k, out += unit.bytes) {
    if (type == WeightType::u4) {
      write_nibbles(out, k0, value);
      continue;
    }
    if (type == WeightType::u6) {
      write_nibbles(out, k0, value);
      write_nibbles(out + kLineBytes, k0 + 8, value);
    }
    for (int64_t c = 0; c < kColumnBlock; ++c) {
      for (int64_t i = 0; i < 4; ++i) {
        if (type == WeightType::u8) {
          out[c * 4 + i] = value(c, k0 + i);
          continue;
        }
        int upper = 0;
        for (int64_t j = 0; j < 4; ++j) upper |= value(c, k0 + 4 * j + i) >> 4 << (2 * j);
        out[2 * kLineBytes + c * 4 + i] = static_cast<uint8_t>(upper);
      }
    }
  }
}

uint16_t half_of(ScaleType type, float value) {
  return type == ScaleType::f16 ? f32_to_f16(value) : f32_to_bf16(value);
}
float from_half(ScaleType type, uint16_t half) {
  return type == ScaleType::f16 ? f16_to_f32(half) : bf16_to_f32(half);
}

// Scales and minimums.
void store(ScaleType type, void* numbers, int64_t index, float value) {
  if (type == ScaleType::f32) {
    static_cast<float*>(numbers)[index] = value;
    return;
  }
  if (!(round_to(type, value) == value)) {
    fail("A weight scale of {} is not representable in {}; round scales before packing.", value,
         scale_type_name(type));
  }
  static_cast<uint16_t*>(numbers)[index] = half_of(type, value);
}

float stored(ScaleType type, const void* numbers, int64_t index) {
  if (type == ScaleType::f32) return static_cast<const float*>(numbers)[index];
  return from_half(type, static_cast<const uint16_t*>(numbers)[index]);
}

int64_t entry_of(const PackedView& w, int64_t column, int64_t group) {
  const PackedShape shape = packed_shape(w.format, w.n, w.k);
  return (column / kColumnBlock * shape.groups + group) * kColumnBlock + column % kColumnBlock;
}

// The scale or minimum of a group, `numbers` being those of the whole matrix.
float read_number(const PackedView& w, const void* numbers, bool minimums, int64_t column,
                  int64_t group) {
  if (w.format.scale != ScaleType::q8) {
    return stored(w.format.scale, numbers, entry_of(w, column, group));
  }
  const PackedShape shape = packed_shape(w.format, w.n, w.k);
  const auto* block =
      static_cast<const uint8_t*>(numbers) + column / kColumnBlock * shape.scale_block_bytes;
  return SuperBlocks(shape.group, block, minimums).product(group, column % kColumnBlock);
}

void check_super_blocks(const WeightFormat& format, int64_t k) {
  if (format.asym && !format.minimum) fail("Scales of type q8 go with minimums, not zero points.");
  if (format.group < 16 || format.group > kSuperBlock / 2 || kSuperBlock % format.group != 0) {
    fail("Scales of type q8 take groups of 16, 32, 64 or 128; found {}.", format.group);
  }
  if (k % kSuperBlock != 0) {
    fail("Scales of type q8 need k to be a multiple of {}; found {}.", kSuperBlock, k);
  }
}

// The scales (or minimums) of one column block, number(c, g) under above(c, s).
template <typename Number, typename Above>
void pack_super_blocks(const PackedShape& shape, bool minimums, uint8_t* out, Number number,
                       Above above) {
  const SuperBlocks places(shape.group, out, minimums);
  for (int64_t g = 0; g < shape.groups; ++g) {
    for (int64_t c = 0; c < kColumnBlock; ++c) {
      const float product = number(c, g), over = above(c, g / shape.super_groups);
      const float byte = over == 0 ? 0 : std::nearbyint(product / over);
      const bool whole = byte >= -128 && byte <= 127 && byte * over == product;
      if (!whole || round_to(ScaleType::f16, over) != over) {
        fail("A weight scale of {} is no product of a byte and the fp16 number {}.", product, over);
      }
      out[places.byte_offset(g, c)] = static_cast<uint8_t>(static_cast<int8_t>(byte));
      const uint16_t half = f32_to_f16(over);
      out[places.number_offset(g, c)] = static_cast<uint8_t>(half & 0xff);
      out[places.number_offset(g, c) + 1] = static_cast<uint8_t>(half >> 8);
    }
  }
}

}  // namespace

PackedShape packed_shape(const WeightFormat& format, int64_t n, int64_t k) {
  if (n < 1 || k < 1 || n > kLargestDimension || k > kLargestDimension) {
    fail("A weight matrix of {} x {} cannot be packed: expected sides from 1 to {}.", n, k,
         kLargestDimension);
  }
  PackedShape shape;
  shape.n = n;
  shape.k = k;
  shape.nblocks = (n + kColumnBlock - 1) / kColumnBlock;
  shape.kpad = (k + 7) / 8 * 8;
  if (format.type == WeightType::f32) {
    shape.block_bytes = k * kLineBytes;
    shape.data_bytes = shape.nblocks * shape.block_bytes;
    return shape;
  }
  if (format.group < 0 || format.group % 8 != 0) {
    fail("A weight group of {} is not possible: expected a multiple of 8, or 0 for the whole of k.",
         format.group);
  }
  if (format.type == WeightType::u6 && format.group % 16 != 0) {
    fail("A group of {} is not possible for u6: expected a multiple of 16, or 0.", format.group);
  }
  if (format.minimum && !format.asym) fail("A format with minimums is asymmetric.");
  shape.group = format.group == 0 ? shape.kpad : format.group;
  shape.groups = (k - 1) / shape.group + 1;
  const WeightUnit unit = weight_unit(format.type);
  shape.block_bytes = (shape.kpad + unit.k - 1) / unit.k * unit.bytes;
  shape.data_bytes = shape.nblocks * shape.block_bytes;
  const int64_t entries = shape.groups * kColumnBlock;
  shape.act_group = shape.group;
  shape.act_groups = shape.groups;
  shape.act_sum_bytes = shape.groups * 4;
  shape.scale_block_bytes = entries * scale_bytes(format.scale);
  shape.zero_block_bytes = format.asym ? entries * zero_bytes(format) : 0;
  if (format.scale == ScaleType::q8) {
    check_super_blocks(format, k);
    shape.act_group = kSuperBlock;
    shape.act_groups = shape.supers = k / kSuperBlock;
    shape.super_groups = kSuperBlock / shape.group;
    shape.scale_block_bytes = shape.supers * super_block_bytes(shape.super_groups);
    shape.zero_block_bytes = format.asym ? shape.scale_block_bytes : 0;
    if (format.asym) shape.act_sum_bytes = shape.groups * 2;
  }
  shape.scale_bytes = shape.nblocks * shape.scale_block_bytes;
  shape.zero_bytes = shape.nblocks * shape.zero_block_bytes;
  return shape;
}

void pack_block(const WeightFormat& format, int64_t n, int64_t k, int64_t nb, const uint8_t* q,
                const float* scale, const uint8_t* zero, uint8_t* data, void* scales,
                uint8_t* zeros, const float* minimum, const SuperNumbers& supers) {
  if (format.type == WeightType::f32) fail("f32 weights are packed by pack_block_f32.");
  const PackedShape shape = packed_shape(format, n, k);
  const int64_t columns = std::clamp<int64_t>(n - nb * kColumnBlock, 0, kColumnBlock);
  const uint8_t default_zero = middle_value(format.type);
  const uint8_t limit = top_value(format.type);
  const int64_t last = shape.groups - 1;

  std::array<uint8_t, kColumnBlock> padding{};  // what k past the end holds, a column
  for (int64_t c = 0; c < kColumnBlock; ++c) {
    const bool given = c < columns && format.asym && !format.minimum;
    padding[c] = format.minimum ? uint8_t{0} : given ? zero[c * shape.groups + last] : default_zero;
  }
  uint8_t worst = 0;
  const auto value = [&](int64_t c, int64_t kk) -> uint8_t {
    const uint8_t v = c < columns && kk < k ? q[c * shape.kpad + kk] : padding[c];
    worst = std::max(worst, v);
    return v;
  };
  write_lines(format.type, shape.kpad, data + nb * shape.block_bytes, value);
  if (worst > limit) {
    fail("A quantized weight of {} in column block {} does not fit {}.", worst, nb,
         weight_type_name(format.type));
  }
  pack_scales(format, shape, nb, scale, zero, minimum, supers, scales, zeros);
}

void pack_scales(const WeightFormat& format, const PackedShape& shape, int64_t nb,
                 const float* scale, const uint8_t* zero, const float* minimum,
                 const SuperNumbers& supers, void* scales, uint8_t* zeros) {
  const int64_t columns = std::clamp<int64_t>(shape.n - nb * kColumnBlock, 0, kColumnBlock);
  if (format.scale == ScaleType::q8) {
    const auto pack = [&](bool minimums, uint8_t* out, const float* products, const float* over) {
      pack_super_blocks(
          shape, minimums, out + nb * shape.scale_block_bytes,
          [&](int64_t c, int64_t g) { return c < columns ? products[c * shape.groups + g] : 0.0F; },
          [&](int64_t c, int64_t s) { return c < columns ? over[c * shape.supers + s] : 0.0F; });
    };
    pack(false, static_cast<uint8_t*>(scales), scale, supers.scale);
    if (format.minimum) pack(true, zeros, minimum, supers.minimum);
    return;
  }
  for (int64_t g = 0; g < shape.groups; ++g) {
    for (int64_t c = 0; c < kColumnBlock; ++c) {
      const int64_t to = (nb * shape.groups + g) * kColumnBlock + c;
      const int64_t from = c * shape.groups + g;
      store(format.scale, scales, to, c < columns ? scale[from] : 0.0F);
      if (format.minimum) {
        store(format.scale, zeros, to, c < columns ? minimum[from] : 0.0F);
      } else if (format.asym) {
        zeros[to] = c < columns ? zero[from] : middle_value(format.type);
      }
    }
  }
}

void pack_block_f32(int64_t n, int64_t k, int64_t nb, const float* w, uint8_t* data) {
  const int64_t columns = std::clamp<int64_t>(n - nb * kColumnBlock, 0, kColumnBlock);
  uint8_t* out = data + nb * k * kLineBytes;
  for (int64_t kk = 0; kk < k; ++kk, out += kLineBytes) {
    std::array<float, kColumnBlock> line{};
    for (int64_t c = 0; c < columns; ++c) line[c] = w[c * k + kk];
    std::memcpy(out, line.data(), kLineBytes);
  }
}

uint8_t unit_value(WeightType type, const uint8_t* block, int64_t c, int64_t kk) {
  const WeightUnit unit = weight_unit(type);
  const uint8_t* from = block + kk / unit.k * unit.bytes;
  const int64_t in_unit = kk % unit.k, byte = c * 4 + kk % 4;
  if (type == WeightType::u8) return from[byte];
  const uint8_t pair = from[in_unit / 8 * kLineBytes + byte];
  const int low = in_unit % 8 < 4 ? pair & 15 : pair >> 4;
  if (type == WeightType::u4) return static_cast<uint8_t>(low);
  const int upper = from[2 * kLineBytes + byte] >> (2 * (in_unit / 4)) & 3;
  return static_cast<uint8_t>(low | upper << 4);
}

void set_unit_value(WeightType type, uint8_t* block, int64_t c, int64_t kk, uint8_t q) {
  const WeightUnit unit = weight_unit(type);
  uint8_t* to = block + kk / unit.k * unit.bytes;
  const int64_t in_unit = kk % unit.k, byte = c * 4 + kk % 4;
  const auto put = [](uint8_t& out, int value, int shift, int mask) {
    out = static_cast<uint8_t>((out & ~(mask << shift)) | (value & mask) << shift);
  };
  if (type == WeightType::u8) {
    to[byte] = q;
    return;
  }
  put(to[in_unit / 8 * kLineBytes + byte], q, in_unit % 8 < 4 ? 0 : 4, 15);
  if (type == WeightType::u4) return;
  put(to[2 * kLineBytes + byte], q >> 4, static_cast<int>(2 * (in_unit / 4)), 3);
}

uint8_t packed_value(const PackedView& w, int64_t column, int64_t kk) {
  if (w.format.type == WeightType::f32) fail("f32 weights have no quantized values.");
  const PackedShape shape = packed_shape(w.format, w.n, w.k);
  const uint8_t* block = w.data + column / kColumnBlock * shape.block_bytes;
  return unit_value(w.format.type, block, column % kColumnBlock, kk);
}

float packed_scale(const PackedView& w, int64_t column, int64_t group) {
  return read_number(w, w.scales, false, column, group);
}

uint8_t packed_zero(const PackedView& w, int64_t column, int64_t group) {
  if (!w.format.asym) return middle_value(w.format.type);
  return w.format.minimum ? uint8_t{0} : w.zeros[entry_of(w, column, group)];
}

float packed_minimum(const PackedView& w, int64_t column, int64_t group) {
  if (!w.format.minimum) return 0;
  return read_number(w, w.zeros, true, column, group);
}

void unpack_column(const PackedView& w, int64_t column, std::span<float> out) {
  if (static_cast<int64_t>(out.size()) != w.k) {
    fail("A column of {} weights was asked for in a buffer of {}.", w.k, out.size());
  }
  const PackedShape shape = packed_shape(w.format, w.n, w.k);
  const int64_t c = column % kColumnBlock;
  const uint8_t* block = w.data + column / kColumnBlock * shape.block_bytes;
  if (w.format.type == WeightType::f32) {
    for (int64_t kk = 0; kk < w.k; ++kk) {
      std::memcpy(&out[kk], block + kk * kLineBytes + c * 4, sizeof(float));
    }
    return;
  }
  for (int64_t g = 0; g < shape.groups; ++g) {
    const float scale = packed_scale(w, column, g);
    const int zero = packed_zero(w, column, g);
    const float minimum = packed_minimum(w, column, g);
    const int64_t end = std::min(w.k, (g + 1) * shape.group);
    for (int64_t kk = g * shape.group; kk < end; ++kk) {
      const int q = unit_value(w.format.type, block, c, kk);
      const auto whole = static_cast<float>(q - zero);
      out[kk] = w.format.minimum ? std::fma(whole, scale, minimum) : whole * scale;
    }
  }
}

std::string_view weight_type_name(WeightType type) {
  switch (type) {
    case WeightType::u4:
      return "u4";
    case WeightType::u6:
      return "u6";
    case WeightType::u8:
      return "u8";
    case WeightType::f32:
      return "f32";
  }
  return "unknown";
}

std::string_view scale_type_name(ScaleType type) {
  switch (type) {
    case ScaleType::f16:
      return "f16";
    case ScaleType::f32:
      return "f32";
    case ScaleType::bf16:
      return "bf16";
    case ScaleType::q8:
      return "q8";
  }
  return "unknown";
}

std::optional<ScaleType> parse_scale_type(std::string_view name) {
  for (const ScaleType type : {ScaleType::f16, ScaleType::f32, ScaleType::bf16, ScaleType::q8}) {
    if (name == scale_type_name(type)) return type;
  }
  return std::nullopt;
}

float round_to(ScaleType type, float value) {
  const bool as_it_is = type == ScaleType::f32 || type == ScaleType::q8;
  return as_it_is ? value : from_half(type, half_of(type, value));
}

}  // namespace nibble::jit
