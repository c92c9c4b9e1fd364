// Writing into the KV cache's blocked layout (drawn in attention.h). Called by whoever appends
// positions; the cache's memory is the caller's.
#pragma once

#include <cstdint>

#include "jit/kernel_spec.h"

namespace nibble::jit {

// Positions that lie side by side in the keys of one block; a capacity is a multiple of it.
inline constexpr int64_t kKeyBlock = 16;

// Bytes of the keys (or of the values, which need as many) of one KV head.
int64_t kv_bytes(KvType type, int64_t head_dim, int64_t capacity);

// Writes one position of one KV head: key and value hold head_dim floats. f16 is rounded to nearest
// even.
void kv_append(KvType type, int64_t head_dim, int64_t position, const float* key,
               const float* value, void* keys, void* values);

}  // namespace nibble::jit
