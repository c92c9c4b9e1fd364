// The memory of one KV head's cache, and writing into it. Called by whoever appends positions; the
// memory is the caller's. A cache of capacity T positions (a multiple of kKeyBlock) holds
//
//   f32, f16, bf16   keys    [T/16][head_dim][16]      16 positions side by side
//                    values  [T][head_dim]
//   int16, int8      keys    [T/16][width/2][16][2]    pairs of elements, positions side by side
//                    values  [T/2][width][2]           pairs of positions, elements side by side
//                    key_scales, value_scales   f32 [T]
//
// where width is head_dim rounded up to 16, its padding zero: pairs are what one 16-bit dot product
// instruction multiplies and adds in a 32-bit lane.
#pragma once

#include <cstdint>

#include "jit/kernel_spec.h"

namespace nibble::jit {

// Positions that lie side by side in the keys of one block; a capacity is a multiple of it.
inline constexpr int64_t kKeyBlock = 16;

// Where one KV head keeps its positions. Scales are null for all but the integer types.
struct KvHead {
  void* keys = nullptr;
  void* values = nullptr;
  float* key_scales = nullptr;
  float* value_scales = nullptr;
};

// Bytes of the keys (or of the values, which need as many) of one KV head, and of their scales.
int64_t kv_bytes(KvType type, int64_t head_dim, int64_t capacity);
int64_t kv_scale_bytes(KvType type, int64_t capacity);

// Writes one position of one KV head: key and value hold head_dim floats. f16 and bf16 are rounded
// to nearest even. An integer type stores rne(x / s), saturated, beside s:
//   int8           s = max |x| / 127
//   int16 values   s = max |x| / 16383
//   int16 keys     s = max(|x|_2 / 46000, max |x| / 32767)    so that no dot product of two such
//                                                             vectors leaves int32 (attention.h)
void kv_append(KvType type, int64_t head_dim, int64_t position, const float* key,
               const float* value, const KvHead& head);

// The element at index d of position t as it was stored, times its scale. For tests and references.
float kv_key(KvType type, int64_t head_dim, const KvHead& head, int64_t t, int64_t d);
float kv_value(KvType type, int64_t head_dim, const KvHead& head, int64_t t, int64_t d);

}  // namespace nibble::jit
