// The KV cache of a session: per layer and KV head the blocked layout of jit/attention.h. Memory is
// reserved for the whole context but touched only as positions are appended.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "jit/kernel_spec.h"
#include "jit/kv_layout.h"
#include "runtime/plan.h"

namespace nibble::runtime {

class KvCache {
 public:
  // Throws Error when the memory is refused, naming the bytes.
  KvCache(const std::vector<HeadLayout>& layers, jit::KvType type, int64_t capacity);
  ~KvCache();
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  jit::KvType type() const { return type_; }
  int64_t capacity() const { return capacity_; }
  int64_t bytes() const { return static_cast<int64_t>(bytes_); }
  jit::KvHead head(int64_t layer, int64_t kv_head) const noexcept;

 private:
  struct Layer {
    size_t offset, cache_bytes, scale_bytes;  // of each head: keys, values, and their scales
  };
  jit::KvType type_;
  int64_t capacity_;  // multiple of the KV split
  size_t bytes_ = 0;
  std::byte* memory_ = nullptr;
  std::vector<Layer> layers_;
};

}  // namespace nibble::runtime
