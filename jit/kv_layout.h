// The memory of one KV head's cache, and writing into it. Called by whoever appends positions; the
// memory is the caller's. Positions are cut into splits of kKvSplit, and a split is one record that
// is read from its beginning to its end:
//
//   f32, f16, bf16   keys          [64/16][head_dim][16]      16 positions side by side
//                    values        [64][head_dim]
//   int16            keys          [64/16][width/2][16][2]    pairs of elements of 16 positions
//                    key_scales    f32 [64]
//                    value_scales  f32 [64]
//                    values        [64/2][width][2]           pairs of positions
//   int8             keys          [64/16][width/4][16][4]    fours of elements, 128 added
//                    key_scales    f32 [64]
//                    value_logs    f32 [64]                   log2 of the values' scales
//                    value_inverses  f32 [64]                 one over them
//                    values        [64/4][width][4]           fours of positions
//   bf16_pairs       keys          [64/16][width/2][16][2]    as of int16
//                    values        [64/32][16][width][2]      positions t and t + 16 of each 32
//
// where width is head_dim rounded up to 16 (bf16_pairs: to 32), its padding zero: pairs and fours
// are what one dot product instruction multiplies and adds in a 32-bit lane, of bytes unsigned ones
// by signed ones. Of bf16_pairs, 16 lines of 64 bytes are a tile B (amx_plan.h): of keys one after
// another, 16 positions by 32 elements; of values width * 4 bytes apart, 16 elements by 32
// positions. Positions 16 apart are those of two vectors of weights, which become pairs by a shift
// and an OR.
//
// The records of kKvPage positions make a page,
// and the pages of a head lie a stride apart: those of other heads lie between them, so that a
// cache grows with its positions. Reading a page is one stream, long enough for the hardware's
// looking ahead past its end not to matter (decode of 32 heads over 4096 positions, int16, 2 cores
// of a Zen 4: 0.72 of the read roof when a page is one split, 0.92 when it is all).
#pragma once

#include <cstddef>
#include <cstdint>

#include "jit/kernel_spec.h"

namespace nibble::jit {

// Positions of a page, of a split, and those that lie side by side in a split's keys.
inline constexpr int64_t kKvPage = 256;
inline constexpr int64_t kKvSplit = 64;
inline constexpr int64_t kKeyBlock = 16;
// What an element of an int8 key lies above its number.
inline constexpr int kInt8KeyOffset = 128;

// Where one KV head keeps its positions: page i at pages + i * page_stride bytes.
struct KvHead {
  std::byte* pages = nullptr;  // 64-byte aligned
  int64_t page_stride = 0;
};

// Where the record of a split has what: bytes from its beginning (the keys are there), and in all,
// multiples of 64. Parts that a type has not are at 0. What was never appended to is zero where the
// type is bf16_pairs: its values are multiplied before anyone looks which positions count.
struct KvRecord {
  int64_t key_scales = 0, value_scales = 0;    // int16, int8; int16
  int64_t value_logs = 0, value_inverses = 0;  // int8
  int64_t values = 0, bytes = 0;
};
KvRecord kv_record(KvType type, int64_t head_dim);
int64_t kv_page_bytes(KvType type, int64_t head_dim);
// The record of a split of a head whose records are laid out so.
std::byte* kv_split(const KvRecord& record, const KvHead& head, int64_t split);
// Bytes of the keys (or of the values, which need as many) of so many positions of one KV head.
int64_t kv_bytes(KvType type, int64_t head_dim, int64_t positions);

// Writes `rows` positions of one KV head, from `position` on: key and value point to head_dim
// floats of the first one, and those of the next lie `stride` floats further. Positions of a head
// that lie in the same kKeyBlock must not be written at the same time. f16 and bf16 are rounded to
// nearest even. An integer type stores rne(x / s), saturated, beside s:
//   int8           s = max |x| / 127; beside a value lie log2(s) and 1 / s
//   int16 values   s = max |x| / 16383
//   int16 keys     s = max(|x|_2 / 46000, max |x| / 32767), so that no dot product of two such
//                  vectors leaves int32 (attention.h)
// Where the key or the value has an element that is not finite, the key's scale is NaN, and so is
// the score of whoever sees the position. bf16_pairs are bf16_factor (float16.h), and values
// finite: one that is not is stored as 0. Where the key or the value has such an element, the first
// of the key is NaN. So whoever sees the position has a NaN for a score, and to whoever does not it
// is nothing: 0 times its values is 0.
void kv_append(KvType type, int64_t head_dim, int64_t position, const float* key,
               const float* value, const KvHead& head, int64_t rows = 1, int64_t stride = 0);

// The element at index d of position t as it was stored, times its scale. For tests and references.
float kv_key(KvType type, int64_t head_dim, const KvHead& head, int64_t t, int64_t d);
float kv_value(KvType type, int64_t head_dim, const KvHead& head, int64_t t, int64_t d);

}  // namespace nibble::jit
