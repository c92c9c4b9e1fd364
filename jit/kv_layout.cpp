#include "jit/kv_layout.h"

#include <immintrin.h>

#include <algorithm>
#include <array>
#include <bit>
#include <cmath>
#include <cstring>
#include <limits>
#include <type_traits>

#include "jit/float16.h"
#include "jit/isa.h"
#include "jit/kv_quantize.h"

namespace nibble::jit {
namespace {

constexpr int64_t kChunk = 128;  // elements converted at a time
constexpr int64_t kMostElements = 1024;

int64_t element_bytes(KvType type) {
  return type == KvType::f32 ? 4 : type == KvType::int8 ? 1 : 2;
}
int64_t padded(KvType type, int64_t head_dim) {
  const int64_t unit = type == KvType::bf16_pairs ? kBf16Step : 16;
  return (head_dim + unit - 1) / unit * unit;
}

// The record that holds a position, as its parts; t: the position in it.
struct Split {
  Split(KvType type, int64_t head_dim, const KvHead& head, int64_t position)
      : t(position % kKvSplit) {
    const KvRecord record = kv_record(type, head_dim);
    std::byte* at = kv_split(record, head, position / kKvSplit);
    keys = at;
    values = at + record.values;
    key_scales = reinterpret_cast<float*>(at + record.key_scales);
    value_scales = reinterpret_cast<float*>(at + record.value_scales);
    value_logs = reinterpret_cast<float*>(at + record.value_logs);
    value_inverses = reinterpret_cast<float*>(at + record.value_inverses);
  }
  int64_t t;
  void *keys, *values;
  float *key_scales, *value_scales, *value_logs, *value_inverses;
};

template <typename T>
T& blocked_key(void* keys, int64_t head_dim, int64_t t, int64_t d) {
  return static_cast<T*>(keys)[(t / kKeyBlock * head_dim + d) * kKeyBlock + t % kKeyBlock];
}

// Pairs of elements, positions side by side; pairs of positions, elements side by side.
template <typename T>
T& paired_key(void* keys, int64_t width, int64_t t, int64_t d) {
  return static_cast<T*>(
      keys)[t / kKeyBlock * width * kKeyBlock + (d / 2 * kKeyBlock + t % kKeyBlock) * 2 + d % 2];
}
int16_t& paired_value(void* values, int64_t width, int64_t t, int64_t d) {
  return static_cast<int16_t*>(values)[(t / 2 * width + d) * 2 + t % 2];
}
// The same of fours.
uint8_t& quad_key(void* keys, int64_t width, int64_t t, int64_t d) {
  return static_cast<uint8_t*>(
      keys)[t / kKeyBlock * width * kKeyBlock + (d / 4 * kKeyBlock + t % kKeyBlock) * 4 + d % 4];
}
int8_t& quad_value(void* values, int64_t width, int64_t t, int64_t d) {
  return static_cast<int8_t*>(values)[(t / 4 * width + d) * 4 + t % 4];
}
// Positions 16 apart in a pair.
uint16_t& tiled_value(void* values, int64_t width, int64_t t, int64_t d) {
  const int64_t line = t / kBf16Step * kKeyBlock + t % kKeyBlock;
  return static_cast<uint16_t*>(values)[(line * width + d) * 2 + t % kBf16Step / kKeyBlock];
}

// ---- fp32 as 16-bit floats ----

__attribute__((target("avx,f16c"))) void halves_f16c(const float* from, int64_t count,
                                                     uint16_t* to) {
  int64_t i = 0;
  for (; i + 8 <= count; i += 8) {
    const __m128i half =
        _mm256_cvtps_ph(_mm256_loadu_ps(from + i), _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), half);
  }
  for (; i < count; ++i) {
    to[i] = static_cast<uint16_t>(
        _mm_extract_epi16(_mm_cvtps_ph(_mm_set_ss(from[i]), _MM_FROUND_TO_NEAREST_INT), 0));
  }
}

void convert(KvType type, const float* from, int64_t count, uint16_t* to) {
  if (type == KvType::bf16) {
    for (int64_t i = 0; i < count; ++i) to[i] = f32_to_bf16(from[i]);
  } else if (cpu().f16c) {
    halves_f16c(from, count, to);
  } else {
    for (int64_t i = 0; i < count; ++i) to[i] = f32_to_f16(from[i]);
  }
}

void append_16bit(KvType type, int64_t head_dim, const float* key, const float* value,
                  const Split& split) {
  std::array<uint16_t, kChunk> chunk;
  for (int64_t d = 0; d < head_dim; d += kChunk) {
    const int64_t count = head_dim - d < kChunk ? head_dim - d : kChunk;
    convert(type, key + d, count, chunk.data());
    uint16_t* to = &blocked_key<uint16_t>(split.keys, head_dim, split.t, d);
    for (int64_t i = 0; i < count; ++i) to[i * kKeyBlock] = chunk[static_cast<size_t>(i)];
  }
  convert(type, value, head_dim, static_cast<uint16_t*>(split.values) + split.t * head_dim);
}

// ---- integers ----

using Integers = std::array<int16_t, kMostElements>;

// A key and a value as integers, zeros up to `width`, and their scales. `key_scale` is NaN where
// either has an element that is not finite, since only who sees a NaN notices.
struct Quantized {
  Integers key, value;
  float key_scale, value_scale;
};
void quantize(int64_t head_dim, int64_t width, const float* key, const float* value,
              const QuantizeRule& key_rule, const QuantizeRule& value_rule, Quantized& to) {
  std::fill(to.key.begin() + head_dim, to.key.begin() + width, int16_t{0});
  std::fill(to.value.begin() + head_dim, to.value.begin() + width, int16_t{0});
  to.key_scale = quantize_vector(key, head_dim, key_rule, to.key.data());
  to.value_scale = quantize_vector(value, head_dim, value_rule, to.value.data());
  if (!std::isfinite(to.key_scale) || !std::isfinite(to.value_scale)) {
    to.key_scale = std::numeric_limits<float>::quiet_NaN();
  }
}

// Writes the elements of position t from `first` on, a dword lane apart; the rest of each lane is
// other positions'. (Whole lanes, which a compiler takes several at a time, as it does not take
// words that lie apart.)
template <typename T>
void merge_lanes(const Integers& q, int64_t count, int64_t t, T* first) {
  constexpr int64_t kSharing = sizeof(uint32_t) / sizeof(T);
  const int64_t place = t % kSharing;
  const auto shift = place * std::numeric_limits<std::make_unsigned_t<T>>::digits;
  const uint32_t mask = uint32_t{std::numeric_limits<std::make_unsigned_t<T>>::max()} << shift;
  for (int64_t d = 0; d < count; ++d) {
    T* const at = first - place + d * kSharing;
    uint32_t lane;
    std::memcpy(&lane, at, sizeof(lane));
    const uint32_t moved = static_cast<uint32_t>(q[static_cast<size_t>(d)]) << shift;
    lane = (lane & ~mask) | (moved & mask);
    std::memcpy(at, &lane, sizeof(lane));
  }
}

// Positions that are written together.
constexpr int64_t kTogether = 4;
using Together = std::array<Quantized, kTogether>;

// The keys of four positions, from the first one's place on: pairs of elements, transposed four by
// eight.
__attribute__((target("avx2"))) void store_four_keys(const Together& q, int64_t width,
                                                     int16_t* to) {
  const auto load = [&](size_t row, int64_t d) __attribute__((target("avx2"))) {
    return _mm256_castsi256_ps(
        _mm256_loadu_si256(reinterpret_cast<const __m256i*>(q[row].key.data() + d)));
  };
  constexpr int kLow = 0x44, kHigh = 0xEE;  // halves of both operands
  for (int64_t d = 0; d < width; d += 16) {
    const __m256 a = load(0, d), b = load(1, d), c = load(2, d), e = load(3, d);
    const __m256 ab_low = _mm256_unpacklo_ps(a, b), ab_high = _mm256_unpackhi_ps(a, b);
    const __m256 ce_low = _mm256_unpacklo_ps(c, e), ce_high = _mm256_unpackhi_ps(c, e);
    const __m256 pairs[4] = {
        _mm256_shuffle_ps(ab_low, ce_low, kLow), _mm256_shuffle_ps(ab_low, ce_low, kHigh),
        _mm256_shuffle_ps(ab_high, ce_high, kLow), _mm256_shuffle_ps(ab_high, ce_high, kHigh)};
    for (int64_t i = 0; i < 4; ++i) {  // pair i and, in the upper half, pair i + 4
      auto* low = reinterpret_cast<float*>(to + (d + 2 * i) * kKeyBlock);
      _mm_storeu_ps(low, _mm256_castps256_ps128(pairs[i]));
      _mm_storeu_ps(low + 4 * kKeyBlock, _mm256_extractf128_ps(pairs[i], 1));
    }
  }
}

void store_key(const Quantized& q, int64_t width, int16_t* to) {
  for (int64_t d = 0; d < width; d += 2) {
    std::memcpy(to + d * kKeyBlock, &q.key[static_cast<size_t>(d)], 2 * sizeof(int16_t));
  }
}

// The values of an even position and of the next one.
void store_two_values(const Integers& even, const Integers& odd, int64_t width, int16_t* to) {
  for (size_t d = 0; d < static_cast<size_t>(width); ++d) {
    const auto lane = static_cast<uint32_t>(static_cast<uint16_t>(even[d])) |
                      static_cast<uint32_t>(static_cast<uint16_t>(odd[d])) << 16;
    std::memcpy(to + 2 * d, &lane, sizeof(lane));
  }
}

// At most kTogether positions of a kKeyBlock.
void append_int16(int64_t head_dim, const float* key, const float* value, const Split& split,
                  int64_t rows, int64_t stride) {
  const int64_t width = padded(KvType::int16, head_dim);
  Together q;
  for (int64_t r = 0; r < rows; ++r) {
    Quantized& row = q[static_cast<size_t>(r)];
    quantize(head_dim, width, key + r * stride, value + r * stride, kNormRule, kInt16ValueRule,
             row);
    split.key_scales[split.t + r] = row.key_scale;
    split.value_scales[split.t + r] = row.value_scale;
  }
  auto* to = &paired_key<int16_t>(split.keys, width, split.t, 0);
  if (rows == kTogether && cpu().avx2) {
    store_four_keys(q, width, to);
  } else {
    for (int64_t r = 0; r < rows; ++r) store_key(q[static_cast<size_t>(r)], width, to + 2 * r);
  }
  for (int64_t r = 0; r < rows;) {
    const int64_t t = split.t + r;
    const Integers& first = q[static_cast<size_t>(r)].value;
    int16_t* at = &paired_value(split.values, width, t, 0);
    if (t % 2 == 0 && r + 1 < rows) {
      store_two_values(first, q[static_cast<size_t>(r) + 1].value, width, at);
      r += 2;
    } else {
      merge_lanes(first, width, t, at);
      r += 1;
    }
  }
}

void append_int8(int64_t head_dim, const float* key, const float* value, const Split& split) {
  const int64_t width = padded(KvType::int8, head_dim);
  Quantized q;
  quantize(head_dim, width, key, value, kInt8Rule, kInt8Rule, q);
  split.key_scales[split.t] = q.key_scale;
  split.value_logs[split.t] = log2_of_scale(q.value_scale);
  split.value_inverses[split.t] = 1 / q.value_scale;
  uint8_t* keys = &quad_key(split.keys, width, split.t, 0);
  for (int64_t d = 0; d < width; d += 4) {
    std::array<uint8_t, 4> four;
    for (size_t i = 0; i < four.size(); ++i) {
      four[i] = static_cast<uint8_t>(q.key[static_cast<size_t>(d) + i] + kInt8KeyOffset);
    }
    std::memcpy(keys + d * kKeyBlock, four.data(), four.size());
  }
  merge_lanes(q.value, width, split.t, &quad_value(split.values, width, split.t, 0));
}

// ---- bf16 in pairs ----

// bf16_factor of eight numbers at a time.
__attribute__((target("avx2"))) void factors_avx2(const float* from, int64_t count, uint16_t* to) {
  const __m256i below = _mm256_set1_epi32(std::bit_cast<int32_t>(kLeastBf16Factor) - 1);
  const __m256i infinity = _mm256_set1_epi32(0x7F800000);
  for (int64_t i = 0; i < count; i += 8) {
    const __m256i x = _mm256_castps_si256(_mm256_loadu_ps(from + i));
    const __m256i magnitude = _mm256_and_si256(x, _mm256_set1_epi32(0x7FFFFFFF));
    const __m256i odd = _mm256_and_si256(_mm256_srli_epi32(x, 16), _mm256_set1_epi32(1));
    const __m256i sum = _mm256_add_epi32(_mm256_add_epi32(x, odd), _mm256_set1_epi32(0x7FFF));
    const __m256i kept =
        _mm256_and_si256(_mm256_srli_epi32(sum, 16), _mm256_cmpgt_epi32(magnitude, below));
    const __m256i bits = _mm256_blendv_epi8(kept, _mm256_set1_epi32(0x7FC0),
                                            _mm256_cmpgt_epi32(magnitude, infinity));
    const __m256i words = _mm256_permute4x64_epi64(_mm256_packus_epi32(bits, bits), 0x08);
    _mm_storeu_si128(reinterpret_cast<__m128i*>(to + i), _mm256_castsi256_si128(words));
  }
}

// A vector of the cache, padded with zeros.
using Factors = std::array<uint16_t, kMostElements>;
void round_factors(const float* from, int64_t head_dim, int64_t width, Factors& to) {
  std::fill(to.begin() + head_dim, to.begin() + width, uint16_t{0});
  const int64_t whole = cpu().avx2 ? head_dim / 8 * 8 : 0;
  if (whole > 0) factors_avx2(from, whole, to.data());
  for (int64_t d = whole; d < head_dim; ++d) to[static_cast<size_t>(d)] = bf16_factor(from[d]);
}

bool is_finite(uint16_t bf16) { return (bf16 & 0x7F80U) != 0x7F80U; }
bool all_finite(const Factors& x, int64_t count) {
  return std::all_of(x.begin(), x.begin() + count, is_finite);
}

void append_pairs(int64_t head_dim, const float* key, const float* value, const Split& split) {
  const int64_t width = padded(KvType::bf16_pairs, head_dim);
  Factors k, v;
  round_factors(key, head_dim, width, k);
  round_factors(value, head_dim, width, v);
  const bool finite_value = all_finite(v, width);
  if (!finite_value) {
    for (uint16_t& x : v) x = is_finite(x) ? x : uint16_t{0};
  }
  if (!finite_value || !all_finite(k, width)) {
    k[0] = bf16_factor(std::numeric_limits<float>::quiet_NaN());
  }
  uint16_t* to = &paired_key<uint16_t>(split.keys, width, split.t, 0);
  for (int64_t d = 0; d < width; d += 2) {
    std::memcpy(to + d * kKeyBlock, &k[static_cast<size_t>(d)], 2 * sizeof(uint16_t));
  }
  to = &tiled_value(split.values, width, split.t, 0);
  for (int64_t d = 0; d < width; ++d) to[d * 2] = v[static_cast<size_t>(d)];
}

// `rows` is more than one of a type that writes several together.
void append(KvType type, int64_t head_dim, const float* key, const float* value, const Split& split,
            int64_t rows, int64_t stride) {
  switch (type) {
    case KvType::f32:
      for (int64_t d = 0; d < head_dim; ++d) {
        blocked_key<float>(split.keys, head_dim, split.t, d) = key[d];
      }
      std::memcpy(static_cast<float*>(split.values) + split.t * head_dim, value,
                  static_cast<size_t>(head_dim) * sizeof(float));
      return;
    case KvType::f16:
    case KvType::bf16:
      return append_16bit(type, head_dim, key, value, split);
    case KvType::int8:
      return append_int8(head_dim, key, value, split);
    case KvType::int16:
      return append_int16(head_dim, key, value, split, rows, stride);
    case KvType::bf16_pairs:
      return append_pairs(head_dim, key, value, split);
  }
}

float wide(KvType type, uint16_t bits) {
  return type == KvType::f16 ? f16_to_f32(bits) : bf16_to_f32(bits);
}

}  // namespace

int64_t kv_bytes(KvType type, int64_t head_dim, int64_t positions) {
  return positions * (is_paired(type) ? padded(type, head_dim) : head_dim) * element_bytes(type);
}

KvRecord kv_record(KvType type, int64_t head_dim) {
  const int64_t one = kv_bytes(type, head_dim, kKvSplit);
  KvRecord record;
  int64_t next = one;
  const auto number_a_position = [&next](int64_t& field) {
    field = next;
    next += kKvSplit * static_cast<int64_t>(sizeof(float));
  };
  if (is_integer(type)) number_a_position(record.key_scales);
  if (type == KvType::int16) number_a_position(record.value_scales);
  if (type == KvType::int8) {
    number_a_position(record.value_logs);
    number_a_position(record.value_inverses);
  }
  record.values = next;
  record.bytes = next + one;
  return record;
}

int64_t kv_page_bytes(KvType type, int64_t head_dim) {
  return kKvPage / kKvSplit * kv_record(type, head_dim).bytes;
}

std::byte* kv_split(const KvRecord& record, const KvHead& head, int64_t split) {
  constexpr int64_t kSplits = kKvPage / kKvSplit;
  return head.pages + split / kSplits * head.page_stride + split % kSplits * record.bytes;
}

void kv_append(KvType type, int64_t head_dim, int64_t position, const float* key,
               const float* value, const KvHead& head, int64_t rows, int64_t stride) {
  const int64_t together = type == KvType::int16 ? kTogether : 1;
  while (rows > 0) {
    const int64_t count = std::min({rows, together, kKeyBlock - position % kKeyBlock});
    append(type, head_dim, key, value, Split(type, head_dim, head, position), count, stride);
    rows -= count;
    position += count;
    key += count * stride;
    value += count * stride;
  }
}

float kv_key(KvType type, int64_t head_dim, const KvHead& head, int64_t position, int64_t d) {
  const Split split(type, head_dim, head, position);
  const int64_t t = split.t;
  const int64_t width = padded(type, head_dim);
  switch (type) {
    case KvType::int8:
      return split.key_scales[t] *
             static_cast<float>(quad_key(split.keys, width, t, d) - kInt8KeyOffset);
    case KvType::int16:
      return split.key_scales[t] * static_cast<float>(paired_key<int16_t>(split.keys, width, t, d));
    case KvType::bf16_pairs:
      return bf16_to_f32(paired_key<uint16_t>(split.keys, width, t, d));
    case KvType::f32:
      return blocked_key<float>(split.keys, head_dim, t, d);
    default:
      return wide(type, blocked_key<uint16_t>(split.keys, head_dim, t, d));
  }
}

float kv_value(KvType type, int64_t head_dim, const KvHead& head, int64_t position, int64_t d) {
  const Split split(type, head_dim, head, position);
  const int64_t t = split.t;
  const int64_t width = padded(type, head_dim);
  switch (type) {
    case KvType::int8:
      return static_cast<float>(quad_value(split.values, width, t, d)) / split.value_inverses[t];
    case KvType::int16:
      return split.value_scales[t] * static_cast<float>(paired_value(split.values, width, t, d));
    case KvType::bf16_pairs:
      return bf16_to_f32(tiled_value(split.values, width, t, d));
    case KvType::f32:
      return static_cast<const float*>(split.values)[t * head_dim + d];
    default:
      return wide(type, static_cast<const uint16_t*>(split.values)[t * head_dim + d]);
  }
}

}  // namespace nibble::jit
