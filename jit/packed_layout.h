// The packed weight layout that every ISA reads, and the plain C++ that writes and reads it.
//
// A weight matrix is W[n][k]: n output columns, k the reduction dimension. Columns are stored 16 at
// a time (a column block), k in quads (the VNNI order). kpad = k rounded up to 8.
//
//   u4    one 64-byte line = 16 columns x 8 k. Byte c*4+i of a line (c column, i = 0..3) holds
//         k0+i of column c in its low nibble and k0+4+i in its high nibble.
//         data: [nblocks][kpad/8] lines.
//   u6    a unit of 192 bytes = 16 columns x 16 k: two lines as of u4 with the low four bits of
//         k0..k0+7 and k0+8..k0+15, and one whose byte c*4+i holds the upper two bits of k0+4j+i in
//         its bits 2j and 2j+1. data: [nblocks][ceil(kpad/16)] units.
//   u8    one 64-byte line = 16 columns x 4 k: byte c*4+i holds k0+i. Signed 8-bit weights q are
//         stored as q + 128. data: [nblocks][kpad/4] lines.
//   f32   one 64-byte line = 16 columns x 1 k. data: [nblocks][k] lines (no padding of k).
//
// Scales [nblocks][groups][16] f16, bf16 or f32 lie apart from the data, and so do zero points
// [nblocks][groups][16] u8 or, in their place, minimums in the type of the scales. groups = ceil(k
// / group); the last group may be short; group 0 means the whole of k. A group is a multiple of 8,
// of 16 for u6. Columns past n have weight = zero point and scale 0; k past the end holds the zero
// point (activations are 0 there), or 0 where there are minimums.
//
// Scales and minimums of type q8 are a byte a group under an fp16 number for each 256 k
// (super_blocks.h), as ggml's K-quants have them: there are no zero points then, the group is 16,
// 32, 64 or 128, and k a multiple of 256. int8 activations have a scale for each 256 k too, and a
// sum for each group, of 16 bits where there are minimums.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string_view>

namespace nibble::jit {

enum class WeightType : uint8_t { u4, u8, f32, u6 };
enum class ScaleType : uint8_t { f16, f32, bf16, q8 };

inline constexpr int64_t kColumnBlock = 16;
inline constexpr int64_t kSuperBlock = 256;  // k of one fp16 number of q8 scales
inline constexpr int kLineBytes = 64;        // as many as a column block has of 32-bit numbers

// Of quantized types: the largest stored value, and the zero point of symmetric formats.
inline constexpr int weight_bits(WeightType type) {
  return type == WeightType::u4 ? 4 : type == WeightType::u6 ? 6 : 8;
}
inline constexpr uint8_t top_value(WeightType type) {
  return static_cast<uint8_t>((1 << weight_bits(type)) - 1);
}
inline constexpr uint8_t middle_value(WeightType type) {
  return static_cast<uint8_t>(1 << (weight_bits(type) - 1));
}

// Data is read in units of so many bytes, which hold so many k of a column block.
struct WeightUnit {
  int64_t bytes, k;
};
inline constexpr WeightUnit weight_unit(WeightType type) {
  switch (type) {
    case WeightType::u4:
      return {64, 8};
    case WeightType::u6:
      return {192, 16};
    case WeightType::u8:
      return {64, 4};
    case WeightType::f32:
      break;
  }
  return {64, 1};
}

// How a packed matrix is stored, and with it which number a stored q is:
//   symmetric   (q - 8) * scale, u6: (q - 32) * scale, u8: (q - 128) * scale
//   asym        (q - zero) * scale
//   minimum     q * scale + minimum, rounded once: what files have whose groups begin at any number
// Plain data; equality is identity of format.
struct WeightFormat {
  WeightType type = WeightType::u4;
  int64_t group = 32;  // k per scale, 0 = whole k; ignored for f32
  bool asym = false;   // zero points stored; otherwise 8 (u4) or 128 (u8)
  ScaleType scale = ScaleType::f16;
  bool minimum = false;  // only with asym: minimums in place of zero points
  friend bool operator==(const WeightFormat&, const WeightFormat&) = default;
};

// Sizes of a packed n x k matrix.
struct PackedShape {
  int64_t n = 0, k = 0;
  int64_t nblocks = 0;        // ceil(n / 16)
  int64_t kpad = 0;           // k rounded up to 8
  int64_t groups = 0;         // 0 for f32
  int64_t group = 0;          // effective group length (k rounded up to 8 for whole-k)
  int64_t supers = 0;         // super-blocks of q8 scales,
  int64_t super_groups = 0;   // and groups of one
  int64_t act_group = 0;      // k of one scale of int8 activations, group or kSuperBlock
  int64_t act_groups = 0;     // and how many there are
  int64_t act_sum_bytes = 0;  // of the sums of their groups, a row
  int64_t block_bytes = 0;    // data bytes of one column block
  int64_t scale_block_bytes = 0, zero_block_bytes = 0;
  int64_t data_bytes = 0, scale_bytes = 0, zero_bytes = 0;
};
PackedShape packed_shape(const WeightFormat& format, int64_t n, int64_t k);

// A view of one packed matrix; does not own. 64-byte aligned pointers.
struct PackedView {
  WeightFormat format;
  int64_t n = 0, k = 0;
  const uint8_t* data = nullptr;
  const void* scales = nullptr;    // null for f32
  const uint8_t* zeros = nullptr;  // null unless asym; the bytes of minimums where they are that
};

// Of q8 scales: the fp16 numbers over the bytes, scale[c*supers + s] and minimum likewise.
struct SuperNumbers {
  const float* scale = nullptr;
  const float* minimum = nullptr;
};

// Quantized values of one column block before packing: q[c*kpad + kk] up to top_value(),
// scale[c*groups + g] already rounded to the stored precision, zero[c*groups + g]; where the format
// has minimums, minimum[c*groups + g], rounded like the scales, and no zero. Scales and minimums of
// q8 are whole multiples, from -128 to 127, of the numbers in `supers`.
// Writes block `nb` of the matrix that the three base pointers start.
void pack_block(const WeightFormat& format, int64_t n, int64_t k, int64_t nb, const uint8_t* q,
                const float* scale, const uint8_t* zero, uint8_t* data, void* scales,
                uint8_t* zeros, const float* minimum = nullptr, const SuperNumbers& supers = {});
// The scales, and zero points or minimums, alone.
void pack_scales(const WeightFormat& format, const PackedShape& shape, int64_t nb,
                 const float* scale, const uint8_t* zero, const float* minimum,
                 const SuperNumbers& supers, void* scales, uint8_t* zeros);
// The same for f32 weights: w[c*k + kk].
void pack_block_f32(int64_t n, int64_t k, int64_t nb, const float* w, uint8_t* data);

// One element's parts (the first of column c of the block that starts at `block`), and one column
// dequantized, with one fp32 rounding. The zero point of a format with minimums is 0.
uint8_t unit_value(WeightType type, const uint8_t* block, int64_t c, int64_t kk);
void set_unit_value(WeightType type, uint8_t* block, int64_t c, int64_t kk, uint8_t q);
uint8_t packed_value(const PackedView& w, int64_t column, int64_t kk);
float packed_scale(const PackedView& w, int64_t column, int64_t group);
uint8_t packed_zero(const PackedView& w, int64_t column, int64_t group);
float packed_minimum(const PackedView& w, int64_t column, int64_t group);  // 0 where there is none
void unpack_column(const PackedView& w, int64_t column, std::span<float> out);  // out.size() == k

std::string_view weight_type_name(WeightType type);  // "u4", "u6", "u8", "f32"
std::string_view scale_type_name(ScaleType type);
std::optional<ScaleType> parse_scale_type(std::string_view name);
// Of one scale; of q8 without the number above it.
inline constexpr int64_t scale_bytes(ScaleType type) {
  return type == ScaleType::f32 ? 4 : type == ScaleType::q8 ? 1 : 2;
}
// Of one zero point or minimum of an asymmetric format.
inline constexpr int64_t zero_bytes(const WeightFormat& format) {
  return format.minimum ? scale_bytes(format.scale) : 1;
}
// The scales (or minimums) of 16 columns of one super-block of so many groups.
inline constexpr int64_t super_block_bytes(int64_t groups) { return kColumnBlock * (groups + 2); }
// The number that is stored for it: the nearest of the type, half to even. q8 stores products as
// they are or not at all.
float round_to(ScaleType type, float value);

}  // namespace nibble::jit
