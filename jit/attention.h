// Attention of query rows of one head over one KV head's cache; calling convention and reference.
//
// The cache of one KV head, capacity T positions (a multiple of 16):
//   keys    [T/16][head_dim][16]   16 positions side by side, so scores need no horizontal sum
//   values  [T][head_dim]
// in f32 or f16.
//
// Positions are cut into splits of kKvSplit at absolute multiples of kKvSplit. For a query row that
// may see positions [lo, hi):
//   score[t] = fma chain over d ascending of q[d] * key[d][t] from 0; s = score * scale;
//              softcap: s = cap * tanh(s / cap); alibi: s = fma(slope, float(t - (hi-1)), s)
//   split    m_s = max s; p[t] = exp(s - m_s), 0 outside [lo, hi); l_s = sum of p in 16 lanes (t
//   mod 16)
//            and the fixed tree; o_s[d] = fma chain over t ascending of p[t] * value[t][d]
//   merge    in ascending order: m' = max(m, m_s); a = exp(m - m'); b = exp(m_s - m');
//            o = fma(o, a, o_s * b); l = fma(l, a, l_s * b)      (first split: o = o_s, l = l_s)
//   out[d] = o[d] / l
// so the result does not depend on how the prompt was cut, on threads or on the ISA.
#pragma once

#include <cstdint>

#include "jit/kernel_spec.h"

namespace nibble::jit {

inline constexpr int64_t kKvSplit = 64;
inline constexpr int kMaxAttentionRows = 8;

struct AttentionArgs {
  const float* q = nullptr;  // row r at q + r * q_stride
  int64_t q_stride = 0;
  const void* keys = nullptr;
  const void* values = nullptr;
  const int64_t* lo = nullptr;   // [rows] first visible position of each row
  const int64_t* hi = nullptr;   // [rows] one past the last; hi > lo
  const float* slope = nullptr;  // [rows], ALiBi
  float scale = 1, softcap = 0;
  float* out = nullptr;  // row r at out + r * out_stride
  int64_t out_stride = 0;
  int64_t rows = 0;         // 1..spec.rows
  void* scratch = nullptr;  // attention_scratch_bytes() bytes, 64-byte aligned, one a thread
};

using AttentionFn = void (*)(const AttentionArgs*);

int64_t attention_scratch_bytes(const AttentionSpec& spec);
void attention_reference(const AttentionSpec& spec, const AttentionArgs& args);

}  // namespace nibble::jit
