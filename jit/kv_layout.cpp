#include "jit/kv_layout.h"

#include <immintrin.h>

#include <array>
#include <bit>
#include <cstring>
#include <limits>

#include "jit/float16.h"
#include "jit/isa.h"
#include "jit/kv_quantize.h"

namespace nibble::jit {
namespace {

constexpr int64_t kChunk = 128;  // elements converted at a time

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
  }
  int64_t t;
  void *keys, *values;
  float *key_scales, *value_scales;
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
template <typename T>
T& paired_value(void* values, int64_t width, int64_t t, int64_t d) {
  return static_cast<T*>(values)[(t / 2 * width + d) * 2 + t % 2];
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

template <typename T>
void append_integers(int64_t head_dim, const float* key, const float* value,
                     const QuantizeRule& key_rule, const QuantizeRule& value_rule,
                     const Split& split) {
  constexpr int64_t kMostElements = 1024;
  const int64_t width = padded(KvType::int16, head_dim);
  std::array<int16_t, kMostElements> q;
  for (int64_t d = head_dim; d < width; ++d) q[static_cast<size_t>(d)] = 0;
  split.key_scales[split.t] = quantize_vector(key, head_dim, key_rule, q.data());
  T* to = &paired_key<T>(split.keys, width, split.t, 0);
  for (int64_t d = 0; d < width; d += 2) {
    const T pair[2] = {static_cast<T>(q[static_cast<size_t>(d)]),
                       static_cast<T>(q[static_cast<size_t>(d + 1)])};
    std::memcpy(to + d * kKeyBlock, pair, sizeof(pair));
  }
  split.value_scales[split.t] = quantize_vector(value, head_dim, value_rule, q.data());
  to = &paired_value<T>(split.values, width, split.t, 0);
  for (int64_t d = 0; d < width; ++d) to[d * 2] = static_cast<T>(q[static_cast<size_t>(d)]);
}

// ---- bf16 in pairs ----

bool is_finite(uint16_t bf16) { return (bf16 & 0x7F80U) != 0x7F80U; }

void append_pairs(int64_t head_dim, const float* key, const float* value, const Split& split) {
  const int64_t width = padded(KvType::bf16_pairs, head_dim);
  bool finite = true;
  for (int64_t d = 0; d < width; ++d) {
    const uint16_t bits = d < head_dim ? bf16_factor(value[d]) : 0;
    finite = finite && is_finite(bits);
    tiled_value(split.values, width, split.t, d) = is_finite(bits) ? bits : 0;
  }
  for (int64_t d = 0; d < width; d += 2) {
    uint16_t pair[2] = {0, 0};
    for (int64_t i = 0; i < 2 && d + i < head_dim; ++i) {
      pair[i] = bf16_factor(key[d + i]);
      finite = finite && is_finite(pair[i]);
    }
    std::memcpy(&paired_key<uint16_t>(split.keys, width, split.t, d), pair, sizeof(pair));
  }
  if (finite) return;
  paired_key<uint16_t>(split.keys, width, split.t, 0) =
      bf16_factor(std::numeric_limits<float>::quiet_NaN());
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
  const int64_t scales = is_integer(type) ? kKvSplit * static_cast<int64_t>(sizeof(float)) : 0;
  return {one, one + scales, one + 2 * scales, 2 * (one + scales)};
}

int64_t kv_page_bytes(KvType type, int64_t head_dim) {
  return kKvPage / kKvSplit * kv_record(type, head_dim).bytes;
}

std::byte* kv_split(const KvRecord& record, const KvHead& head, int64_t split) {
  constexpr int64_t kSplits = kKvPage / kKvSplit;
  return head.pages + split / kSplits * head.page_stride + split % kSplits * record.bytes;
}

void kv_append(KvType type, int64_t head_dim, int64_t position, const float* key,
               const float* value, const KvHead& head) {
  const Split split(type, head_dim, head, position);
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
      return append_integers<int8_t>(head_dim, key, value, kInt8Rule, kInt8Rule, split);
    case KvType::int16:
      return append_integers<int16_t>(head_dim, key, value, kNormRule, kInt16ValueRule, split);
    case KvType::bf16_pairs:
      return append_pairs(head_dim, key, value, split);
  }
}

float kv_key(KvType type, int64_t head_dim, const KvHead& head, int64_t position, int64_t d) {
  const Split split(type, head_dim, head, position);
  const int64_t t = split.t;
  const int64_t width = padded(type, head_dim);
  switch (type) {
    case KvType::int8:
      return split.key_scales[t] * static_cast<float>(paired_key<int8_t>(split.keys, width, t, d));
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
      return split.value_scales[t] *
             static_cast<float>(paired_value<int8_t>(split.values, width, t, d));
    case KvType::int16:
      return split.value_scales[t] *
             static_cast<float>(paired_value<int16_t>(split.values, width, t, d));
    case KvType::bf16_pairs:
      return bf16_to_f32(tiled_value(split.values, width, t, d));
    case KvType::f32:
      return static_cast<const float*>(split.values)[t * head_dim + d];
    default:
      return wide(type, static_cast<const uint16_t*>(split.values)[t * head_dim + d]);
  }
}

}  // namespace nibble::jit
