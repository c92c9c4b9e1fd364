// Where an attention kernel keeps what it knows of its rows: byte offsets into
// AttentionArgs::scratch. Shared by the generator and by attention_scratch_bytes().
//
//   lo, hi, first, end   int64 [rows]  visible positions; those of them in the present split
//   max, sum             f32 [rows]    merged so far
//   keep, add            f32 [rows]    merge factors of what is there and of the new split
//   slope                f32 [rows]
//   query                f32 [rows][width]   width = head_dim rounded up to 16
//   weights              f32 [rows][kKvSplit]  scores of the present split, then exp of them
//   partial, output      f32 [rows][width]   the present split's output, all splits' merged output
#pragma once

#include <cstdint>

#include "jit/attention.h"
#include "jit/kernel_spec.h"

namespace nibble::jit {

inline constexpr int64_t kMaxHeadDim = 1024;

struct AttentionScratch {
  int32_t lo, hi, first, end;
  int32_t max, sum, keep, add, slope;
  int32_t query, weights, partial, output;
  int32_t width_bytes;  // of one row of query, partial and output
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
    for (int32_t* field : {&s.max, &s.sum, &s.keep, &s.add, &s.slope}) *field = take(4 * spec.rows);
    s.weights = take(static_cast<int32_t>(kKvSplit) * 4 * spec.rows);
    for (int32_t* field : {&s.query, &s.partial, &s.output}) {
      *field = take(s.width_bytes * spec.rows);
    }
    s.bytes = next;
    return s;
  }
};

}  // namespace nibble::jit
