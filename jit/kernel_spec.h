// What a kernel computes. Plain data with ==, a hash, name() and parse(); how it computes it is a
// Tiling and an ISA. The name is the cache key, the perf-map symbol, the dump file's
// name, the test's parameter and the benchmark's label.
#pragma once

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <variant>

#include "jit/isa.h"
#include "jit/packed_layout.h"

namespace nibble::jit {

enum class ActType : uint8_t { s8, f32, bf16 };

// Activation functions. gelu is the erf form, gelu_tanh the tanh form, quick_gelu
// x*sigmoid(1.702x), relu2 max(x, 0)^2.
enum class Activation : uint8_t { none, silu, gelu, gelu_tanh, quick_gelu, relu, relu2 };

// k of one step of bf16 products: the pairs of a 64-byte row of a tile.
inline constexpr int64_t kBf16Step = 32;

// Whether there are kernels of bf16 activations for these weights.
inline constexpr bool multiplies_bf16(const WeightFormat& weights) {
  return (weights.type == WeightType::u4 || weights.type == WeightType::u8) && !weights.minimum &&
         weights.scale != ScaleType::q8;
}

inline constexpr int64_t act_bytes(ActType act) {
  return act == ActType::s8 ? 1 : act == ActType::bf16 ? 2 : 4;
}

// c[m][n] = epilogue(a[m][k] * w[n][k]^T).
//
// s8 activations (u4, u6 and u8 weights): per group in ascending order
//     isum = sum_k (q_w - zero) * q_a            exact, int32
//     acc  = fma(float(isum), w_scale * a_scale, acc)       w_scale * a_scale rounded once
//   where for asymmetric weights float(isum) = fma(float(zero), float(-sum q_a), float(sum q_w
//   q_a)),
//   and for those with minimums float(isum) = float(sum q_w q_a) and, after that,
//     acc = fma(-minimum, float(-sum q_a) * a_scale, acc)         the product rounded once
//   q8 scales (packed_layout.h), from super = 0 for every super-block of 256 k:
//     super = fma(float(isum), float(byte), super)          per group in ascending order, then
//     acc   = fma(super, number * a_scale, acc)             number * a_scale rounded once
//   and, with minimums, whose bytes and numbers are others, after that
//     acc   = fma(-float(sum of byte * (-sum q_a) over the groups), number * a_scale, acc)
// f32 activations: acc = fma(a[k], w[k], acc) in ascending k, w[k] = (q - zero) * scale or q *
// scale + minimum, rounded once.
// bf16 activations (u4 and u8 weights without minimums or q8 scales): that of TDPBF16PS. A group in
// ascending order is cut into steps of kBf16Step k, the last may be shorter; per step and group
//     even = fma(a[k], q - zero, even) over the even k of the step in ascending order, odd likewise
//     sum  = sum + (even + odd)                             from even = odd = 0 and sum = 0
//     acc  = fma(sum, w_scale, acc)                         at the end of the group
//   q - zero is a whole number of at most 8 bits and sign: exact in bf16, so that activations are
//   all that is rounded. They are what bf16_activation (float16.h) makes, which rules out subnormal
//   numbers everywhere, and finite: a row with infinities or NaN has no finite result, on no ISA.
// Then, in this order: acc += bias[n]; gate: out = act(acc_even_block) * acc_odd_block, else
// out = act(acc); out += residual.
struct GemmSpec {
  WeightFormat weight{};
  ActType act = ActType::s8;
  int64_t n = 0, k = 0;
  bool bias = false;
  bool residual = false;
  Activation activation = Activation::none;
  // Column blocks alternate 16 gate columns and 16 up columns; the output has half the columns.
  // n counts both halves including padding and is a multiple of 32.
  bool gate = false;
  friend bool operator==(const GemmSpec&, const GemmSpec&) = default;
};

// How rows are quantized to int8 for weights of a format: RowSpec has the same.
struct ActivationGroups {
  int64_t group = 0;
  int64_t sum_group = 0;
  bool word_sums = false;
  int32_t zero = 0;
  auto operator<=>(const ActivationGroups&) const = default;
};
ActivationGroups activation_groups(const WeightFormat& weights);

// Row kernels: one fp32 row at a time (row_kernels.h).
enum class RowOp : uint8_t {
  rms_norm,
  layer_norm,
  quantize,
  rope,
  softmax,
  activation,
  gate,
  add,
  scale,
  softcap,
  clip
};
// Whether the length of a row comes with the call (RowArgs::n; spec.n is 0).
inline constexpr bool length_at_run_time(RowOp op) {
  return op == RowOp::softmax || op == RowOp::scale || op == RowOp::softcap || op == RowOp::clip;
}
struct RowSpec {
  RowOp op = RowOp::rms_norm;
  int64_t n = 0;             // row length
  bool residual = false;     // norms: add a residual row first and store the sum
  bool bias = false;         // layer_norm
  bool quantize = false;     // norms: also write the quantized row
  bool bf16 = false;         // the quantized row is bf16: no groups, scales nor sums
  bool f32_out = true;       // norms: write the fp32 row
  int64_t group = 0;         // quantization group, 0 = whole row
  int64_t sum_group = 0;     // sums are of so many elements, a part of a group; 0 = of groups
  bool word_sums = false;    // they are int16, not int32
  int32_t zero = 8;          // quantizer stores -zero * sum(q); 1 for asymmetric weights
  int64_t rotary = 0;        // rope: rotated dimensions (n is the head size)
  bool interleaved = false;  // rope: pairs (2i, 2i+1) instead of (i, i + rotary/2)
  Activation activation = Activation::none;
  friend bool operator==(const RowSpec&, const RowSpec&) = default;
};

// Elements of the KV cache. int16 and int8 are symmetric, with an f32 scale a position and head.
// bf16_pairs: bf16 that are multiplied as TDPBF16PS does, and lie in its order; no user asks for
// them by that name: they are what a bf16 cache is where matmuls compute in bf16 too.
enum class KvType : uint8_t { f32, f16, bf16, int8, int16, bf16_pairs };
inline constexpr int kKvTypes = 6;
inline constexpr bool is_integer(KvType type) {
  return type == KvType::int8 || type == KvType::int16;
}
// Whether elements of a product lie side by side, in one dword (kv_layout.h).
inline constexpr bool is_paired(KvType type) {
  return is_integer(type) || type == KvType::bf16_pairs;
}

// Attention of one query head over one KV head (attention.h).
struct AttentionSpec {
  int64_t head_dim = 0;
  KvType kv = KvType::f32;
  int rows = 1;  // query rows processed together
  bool alibi = false;
  bool softcap = false;
  friend bool operator==(const AttentionSpec&, const AttentionSpec&) = default;
};

// What a quantized row has: scales, and 32-bit words that its sums fill.
int64_t row_scales(const RowSpec& spec);
int64_t row_sum_words(const RowSpec& spec);
// Asks a kernel to quantize to int8 in these groups.
void set_groups(RowSpec& spec, const ActivationGroups& groups);

using KernelSpec = std::variant<GemmSpec, RowSpec, AttentionSpec>;

// How a GEMM runs: register tile mr x (nr * 16) columns, k unroll in quads, where nibbles are
// unpacked, and how far ahead weights are fetched: both where two steps are shorter than one.
struct Tiling {
  int mr = 1;
  int nr = 1;          // in column blocks of 16
  int k_unroll = 8;    // k quads per loop iteration
  bool panel = false;  // unpack through an L1 panel instead of in registers
  bool apart = false;  // a tile's column blocks begin at even parts of the call's, not side by side
  int prefetch_l1 = 0;  // bytes ahead into the L1, 0 = none
  int prefetch_l2 = 0;  // into the L2
  friend bool operator==(const Tiling&, const Tiling&) = default;
};

// A generated kernel's full identity. name() e.g.
// "gemm_u4s8f32_g128_n4096_k4096_avx512_vnni_1x64x8" (tile: mr x columns x k unroll; suffixes p for
// panel, a for apart, f<bytes> for prefetch_l1 and s<bytes> for prefetch_l2).
struct KernelKey {
  KernelSpec spec;
  Isa isa = Isa::avx2;
  Tiling tiling{};  // ignored (default) for row and attention kernels
  friend bool operator==(const KernelKey&, const KernelKey&) = default;
};

std::string name(const KernelSpec& spec);
std::string name(const KernelKey& key);
std::string name(const Tiling& tiling);  // the last field of a kernel's name: "8x16x8s8192"
// Throws Error when no kernel can compute this spec, or not exactly in int32. (Row and attention
// specs: check_row_spec, check_attention_spec.)
void check_gemm_spec(const GemmSpec& spec);
// Inverse of name(); nullopt when the text is no kernel's name.
std::optional<KernelKey> parse_kernel_name(std::string_view text);
std::optional<Tiling> parse_tiling_name(std::string_view text);

std::string_view act_type_name(ActType act);  // "s8", "f32", "bf16"
std::string_view activation_name(Activation activation);
std::optional<Activation> parse_activation(std::string_view name);
std::string_view kv_type_name(KvType type);
std::optional<KvType> parse_kv_type(std::string_view name);

struct KernelKeyHash {
  size_t operator()(const KernelKey& key) const;
};

}  // namespace nibble::jit
