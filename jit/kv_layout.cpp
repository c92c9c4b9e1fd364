#include "jit/kv_layout.h"

#include <immintrin.h>

#include <cstring>

#include "jit/float16.h"
#include "jit/isa.h"

namespace nibble::jit {
namespace {

template <typename T>
void scatter_key(int64_t head_dim, int64_t position, const T* key, void* keys) {
  T* block = static_cast<T*>(keys) + (position / kKeyBlock) * head_dim * kKeyBlock;
  T* lane = block + position % kKeyBlock;
  for (int64_t d = 0; d < head_dim; ++d) lane[d * kKeyBlock] = key[d];
}

__attribute__((target("avx,f16c"))) void convert_f16c(const float* from, int64_t count,
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

void convert(const float* from, int64_t count, uint16_t* to) {
  if (cpu().f16c) {
    convert_f16c(from, count, to);
    return;
  }
  for (int64_t i = 0; i < count; ++i) to[i] = f32_to_f16(from[i]);
}

void append_f16(int64_t head_dim, int64_t position, const float* key, const float* value,
                void* keys, void* values) {
  constexpr int64_t kChunk = 128;
  uint16_t half[kChunk];
  auto* blocked = static_cast<uint16_t*>(keys) + (position / kKeyBlock) * head_dim * kKeyBlock +
                  position % kKeyBlock;
  for (int64_t d = 0; d < head_dim; d += kChunk) {
    const int64_t count = head_dim - d < kChunk ? head_dim - d : kChunk;
    convert(key + d, count, half);
    for (int64_t i = 0; i < count; ++i) blocked[(d + i) * kKeyBlock] = half[i];
  }
  convert(value, head_dim, static_cast<uint16_t*>(values) + position * head_dim);
}

}  // namespace

int64_t kv_bytes(KvType type, int64_t head_dim, int64_t capacity) {
  return capacity * head_dim * (type == KvType::f16 ? 2 : 4);
}

void kv_append(KvType type, int64_t head_dim, int64_t position, const float* key,
               const float* value, void* keys, void* values) {
  if (type == KvType::f16) {
    append_f16(head_dim, position, key, value, keys, values);
    return;
  }
  scatter_key(head_dim, position, key, keys);
  std::memcpy(static_cast<float*>(values) + position * head_dim, value,
              static_cast<size_t>(head_dim) * sizeof(float));
}

}  // namespace nibble::jit
