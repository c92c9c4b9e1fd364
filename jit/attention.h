// Attention of query rows of one head over one KV head's cache (kv_layout.h); calling convention
// and reference.
//
// Positions are cut into pages of kKvPage at absolute multiples of kKvPage, and pages into splits
// of kKvSplit. The splits of a page are merged in ascending order into the page's state, and the
// states of pages in ascending order. A query row may see positions [lo, hi). Its result does not
// depend on how the prompt was cut, on threads, on the ISA or on the rows beside it.
//
// f32, f16, bf16: the cache widened to fp32.
//   score[t] = fma chain over d ascending of q[d] * key[d][t] from 0; s = score * scale;
//              softcap: s = cap * tanh(s / cap); alibi: s = fma(slope, float(t - (hi-1)), s)
//   split    m_s = max s; p[t] = exp(s - m_s), 0 outside [lo, hi); l_s = sum of p in 16 lanes
//            (t mod 16) and the fixed tree; o_s[d] = fma chain over t ascending of p[t] *
//            value[t][d]
//   merge    m' = max(m, m_s); a = exp(m - m'); b = exp(m_s - m');
//            o = fma(o, a, o_s * b); l = fma(l, a, l_s * b)      (the first: o = o_s, l = l_s)
//   pages    the same, of pages' m, l, o for those of splits
//   out[d] = o[d] / l
//
// int16: dot products are exact in int32, so they have no order; weights are powers of 2.
//   query    qi[d], qs = q by kNormRule (kv_quantize.h)
//   score    s = (float(sum_d qi[d] * key[t][d]) * key_scale[t]) * r,   r = (qs * scale) * log2(e);
//            with softcap or alibi r = qs * scale, then as above, then s = s * log2(e)
//   split    m_s = max(kLowScore, s); p[t] = exp2(s - m_s), 0 outside [lo, hi); l_s as above;
//            w[t] = p[t] * value_scale[t]; u = max(max w / 32767, sum w / 131000), at least 1e-30;
//            pi[t] = rne(w[t] * (1 / u));   d_s[d] = sum_t pi[t] * value[t][d]
//   merge    from m = kLowScore, l = 0, o = 0: m' = max(m, m_s); a = exp2(m - m');
//            b = exp2(m_s - m'); l = fma(l, a, l_s * b); o = fma(o, a, float(d_s) * (u * b))
//   pages    likewise, from the same, of their m, l, o; o = fma(o, a, o_p * b)
//   out[d] = (o[d] + 0) / l
// A query's and a key's norm is at most 46000, so their dot is below 2^31; the weights of a split
// sum to 131032 at most and a value is at most 16383.
//
// int8: the same but for
//   query    qi[d], qs = q by kInt8Rule; qs is NaN where an element of q is not finite
//   score    s = fma(float(sum_d qi[d] * key[t][d]) * key_scale[t], r, value_log[t]);
//            with softcap or alibi as above, then s = s * log2(e) + value_log[t]
//   split    m_s as above; w[t] = byte_weight(s - m_s) (attention_integer.h), 255 * 2^(s - m_s);
//            l_s = sum of w[t] * value_inverse[t], an fma chain in each of 16 lanes, and the fixed
//            tree; pi[t] = rne(w[t]), 0..255; d_s as above
//   merge    as above with u = 1
// value_log[t] is log2 of the scale of value[t], and value_inverse[t] one over it: a weight is that
// of the value's integers, the largest of a split is known once its scores are, and l sums the
// weights of the values. No dot is above 1024 * 128 * 127 or 64 * 255 * 127.
//
// bf16_pairs: the products of tiles (TDPBF16PS), and no splits; weights are powers of 2.
//   query    qb[d] = bf16_factor(q[d] * r),   r = scale * log2(e); with softcap or alibi r = scale
//   score    s = sum_d qb[d] * key[t][d] by steps of kBf16Step d, as below; with softcap or alibi
//   as
//            above, then s = s * log2(e)
//   page     m_p = max(kLowScore, s);  p[t] = 2^(s - m_p) as bf16 (bf16_weight of s - (m_p + 0.5)),
//            0 outside [lo, hi) and below 2^-56;  l_p as l_s above
//            o_p[d] = sum_t p[t] * value[t][d] by steps of kBf16Step positions, as below
//   pages    as those of the integers
//   out[d] = (o[d] + 0) / l
//   A sum goes step by step, from 0: sum = sum + (low + high), each a chain of FMA from 0,
//   ascending. Of d, low takes the even ones of a step and high the odd ones; of t, low its first
//   16 positions and high the others. No factor of a product is between 0 and 2^-56, so no sum is
//   subnormal. A row that sees an infinity or NaN has no finite result (kv_append).
//
// Threads share a long context by pages: calls of AttentionPart::pages leave the state of each page
// in memory, and when all are there one of AttentionPart::merge goes on as a call for the whole
// would have. The state of a row is one record:
//
//   f32   o [head_dim rounded up to 16]   m   l   padding to a multiple of 64 bytes
#pragma once

#include <cstddef>
#include <cstdint>

#include "jit/kernel_spec.h"
#include "jit/kv_layout.h"

namespace nibble::jit {

// Query rows one call may take.
inline constexpr int kMaxAttentionRows = 32;
inline constexpr int most_attention_rows(KvType type) {
  return is_paired(type) ? kMaxAttentionRows : 8;
}

// What a call computes: the result; the states of pages alone; or the result, from the states.
enum class AttentionPart : int64_t { whole, pages, merge };

struct AttentionArgs {
  const float* q = nullptr;  // row r at q + r * q_stride
  int64_t q_stride = 0;
  KvHead cache;
  const int64_t* lo = nullptr;   // [rows] first visible position of each row
  const int64_t* hi = nullptr;   // [rows] one past the last; hi > lo
  const float* slope = nullptr;  // [rows], ALiBi
  float scale = 1, softcap = 0;
  float* out = nullptr;  // row r at out + r * out_stride
  int64_t out_stride = 0;
  int64_t rows = 0;         // 1..spec.rows
  void* scratch = nullptr;  // attention_scratch_bytes() bytes, 64-byte aligned, one a thread

  AttentionPart part = AttentionPart::whole;
  int64_t begin = 0, end = 0;  // pages: those of these positions, multiples of kKvPage
  // Row r's state of page i at states + i * state_stride + r * attention_state_bytes(), 64-byte
  // aligned. Pages that no row of the call sees have none.
  std::byte* states = nullptr;
  int64_t state_stride = 0;
};

using AttentionFn = void (*)(const AttentionArgs*);

int64_t attention_scratch_bytes(const AttentionSpec& spec);
constexpr int64_t attention_state_bytes(int64_t head_dim) { return (head_dim + 15) / 16 * 64 + 64; }
void attention_reference(const AttentionSpec& spec, const AttentionArgs& args);
// Its parts for the integer types and for bf16_pairs.
void integer_attention_reference(const AttentionSpec& spec, const AttentionArgs& args);
void bf16_attention_reference(const AttentionSpec& spec, const AttentionArgs& args);

}  // namespace nibble::jit
