// The operators of domain "nibble": what passes fuse to, what lower() accepts, what the interpreter
// also runs as reference. x is [B,S,K] fp32; "?" marks an optional input (kNoValue when absent).
//
//   Embedding(ids, table, position_table?)   table [V,K]: TensorData, MatrixSource or PackedMatrix
//   with n = V.
//       attrs: scale f (1), position_offset i (0): adds position_table[position + offset].
//   RMSNorm(x, weight, residual?) -> y, sum?        attrs: epsilon f
//   LayerNorm(x, weight, bias?, residual?) -> y, sum?    attrs: epsilon f
//       residual: normalises x + residual; sum = x + residual when it has other users.
//   Linear(x, weight, bias?, residual?) -> y        weight: MatrixSource or PackedMatrix [n][k]
//       attrs: activation s ("none"), gate i (0): weight's column blocks alternate 16 gate and 16
//       up columns (each half padded to 16); columns i: valid output columns; compute s ("int8",
//       "f32" or "bf16"). y = act(x W^T + bias) (+ residual); gated: y = act(gate) * up.
//   LogitScale(x) -> y      attrs: scale f (1), softcap f (0 = none): y = scale * x, or
//       softcap * tanh(scale * x / softcap). The last node, after the Linear that makes the logits.
//   Activation(x) -> y      attrs: activation s;       Gate(g, u) -> act(g) * u   attrs: activation
//   s Add(a, b) -> y          same shapes Attention(qkv, inv_freq?, slopes?, q_norm?, k_norm?) -> y
//   [B,S,heads*head_dim], layer's KV cache implied.
//       qkv [B,S,(heads + 2 kv_heads) * head_dim] in the order Q heads, K heads, V heads.
//       attrs: layer i, heads i, kv_heads i, head_dim i, scale f, window i (0 = none; w: the last w
//       positions including the current one), softcap f (0), rotary i (0 = none, else rotated
//       dims), interleaved i, rope_scale f (1: factor on cos and sin), norm_epsilon f, norm_last i
//       (0: the norms come before the rotation; 1: behind it). inv_freq f32 [rotary/2]: angle =
//       position * inv_freq. slopes f32 [heads]: ALiBi.
//   HeadNorm(qkv, weight, bias?) -> y     Q and K of an Attention's qkv normalised, V as it was.
//       attrs: heads i, kv_heads i, head_dim i as Attention has them; whole i (0: each head by
//       itself; 1: all Q heads at once, and all K heads at once); centre i (0: RMSNorm, 1:
//       LayerNorm); epsilon f. weight, bias f32 [(heads + kv_heads) * head_dim]: of each column.
//   Clip(x) -> y            attrs: limit f: y = max(-limit, min(limit, x))
#pragma once

#include <string_view>

namespace nibble::graph {

inline constexpr std::string_view kNibbleDomain = "nibble";
inline constexpr std::string_view kMicrosoftDomain = "com.microsoft";

}  // namespace nibble::graph
