// Where an attention kernel keeps what it knows of its rows: byte offsets into
// AttentionArgs::scratch. Shared by the generator and by attention_scratch_bytes().
//
//   lo, hi, first, end   int64 [rows]  visible positions; those of them in the present split
//   max, sum             f32 [rows]    of the present page so far
//   all_max, all_sum     f32 [rows]    of all pages before it
//   keep, add            f32 [rows]    merge factors of what is there and of what is new
//   slope                f32 [rows]
//   query                f32 [rows][width]   width = head_dim rounded up to 16
//   weights              f32 [rows][kKvSplit]  scores of the present split, then exp of them
//   partial, output      f32 [rows][width]   output of the present split, of its page so far
//   all_output           f32 [rows][width]   of all pages before it
#pragma once

#include <cstdint>

#include "jit/attention.h"
#include "jit/kernel_spec.h"

namespace nibble::jit {

inline constexpr int64_t kMaxHeadDim = 1024;

struct AttentionScratch {
  int32_t lo, hi, first, end;
  int32_t max, sum, all_max, all_sum, keep, add, slope;
  int32_t query, weights, partial, output, all_output;
  int32_t width_bytes;  // of one row of query, partial and outputs
  int32_t bytes;

  static constexpr AttentionScratch of(const AttentionSpec& spec) {
    AttentionScratch s{};
    int32_t next = 0;
    const auto take = [&next](int32_t size) {
      const int32_t at = next;
      next += (size + 63) / 64 * 64;
      return at;
    };
    s.width_bytes = static_cast<int32_t>((spec.head_dim + 15) / 16 * 64);
    for (int32_t* field : {&s.lo, &s.hi, &s.first, &s.end}) *field = take(8 * spec.rows);
    for (int32_t* field : {&s.max, &s.sum, &s.all_max, &s.all_sum, &s.keep, &s.add, &s.slope}) {
      *field = take(4 * spec.rows);
    }
    s.weights = take(static_cast<int32_t>(kKvSplit) * 4 * spec.rows);
    for (int32_t* field : {&s.query, &s.partial, &s.output, &s.all_output}) {
      *field = take(s.width_bytes * spec.rows);
    }
    s.bytes = next;
    return s;
  }
};

// The same for the types whose elements lie in pairs or fours. Fields of a number a row are taken
// 16 rows at a time, so they are as long as the rows rounded up to 16. width: head_dim rounded up
// to 16 (bf16_pairs: to 32); span: kKvSplit (bf16_pairs: kKvPage).
//
//   lo, hi                int64 [rows]   visible positions
//   first, end            int32 [rows]   those of them in the present split or page, relative to it
//   newest                int32 [rows]   hi - 1
//   max, sum              f32 [rows]     of the present page so far
//   all_max, all_sum      f32 [rows]     of all pages before it
//   split_max, split_sum  f32 [rows]     of the present split
//   factor                f32 [rows]     what one unit of the present split's dot is worth; merge
//                                        factor of the page
//   inverse               f32 [rows]     one over factor, for rounding weights
//   keep                  f32 [rows]     merge factor of what is there
//   slope                 f32 [rows]
//   row_scale             f32 [rows]     what one unit of a key's dot is worth, over its scale
//   query_start           int32 [rows]   what an int8 key's dot begins with: -128 * sum of the
//   query query                 int16 [rows][width], or int8 in the first half of a row; of
//   bf16_pairs
//                         bf16, or f32 for vectors
//   scores                s32, then f32 [rows][span]; of bf16_pairs f32, then weights for vectors
//   weights               int16 [rows][span], or uint8 in the first half of a row; of bf16_pairs
//                         bf16, for tiles
//   output                f32 [rows][width]   of the present page so far
//   all_output            f32 [rows][width]   of all pages before it
struct PairedAttentionScratch {
  int32_t lo, hi, first, end, newest;
  int32_t max, sum, all_max, all_sum, split_max, split_sum, factor, inverse, keep, slope, row_scale;
  int32_t query_start;
  int32_t query, scores, weights, output, all_output;
  int32_t width;                                                 // elements
  int32_t query_bytes, score_bytes, weight_bytes, output_bytes;  // of one row
  int32_t bytes;

  static constexpr PairedAttentionScratch of(const AttentionSpec& spec) {
    PairedAttentionScratch s{};
    const bool integers = is_integer(spec.kv);
    const int32_t rows = (spec.rows + 15) / 16 * 16;
    const auto unit = static_cast<int32_t>(integers ? 16 : kBf16Step);
    const auto span = static_cast<int32_t>(integers ? kKvSplit : kKvPage);
    int32_t next = 0;
    const auto take = [&next](int32_t size) {
      const int32_t at = next;
      next += (size + 63) / 64 * 64;
      return at;
    };
    s.width = (static_cast<int32_t>(spec.head_dim) + unit - 1) / unit * unit;
    s.query_bytes = s.width * (integers ? 2 : 4);
    s.score_bytes = span * 4;
    s.weight_bytes = span * 2;
    s.output_bytes = s.width * 4;
    for (int32_t* field : {&s.lo, &s.hi}) *field = take(8 * rows);
    for (int32_t* field :
         {&s.first, &s.end, &s.newest, &s.max, &s.sum, &s.all_max, &s.all_sum, &s.split_max,
          &s.split_sum, &s.factor, &s.inverse, &s.keep, &s.slope, &s.row_scale, &s.query_start}) {
      *field = take(4 * rows);
    }
    s.query = take(s.query_bytes * rows);
    s.scores = take(s.score_bytes * rows);
    s.weights = take(s.weight_bytes * rows);
    s.output = take(s.output_bytes * rows);
    s.all_output = take(s.output_bytes * rows);
    s.bytes = next;
    return s;
  }
};

}  // namespace nibble::jit
