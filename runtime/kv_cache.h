// The KV cache of a session: per layer and KV head the blocked layout of jit/attention.h. Memory is
// reserved for the whole context but touched only as positions are appended.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "jit/kernel_spec.h"
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
  void* keys(int64_t layer, int64_t kv_head) const noexcept;
  void* values(int64_t layer, int64_t kv_head) const noexcept;

 private:
  struct Layer {
    size_t offset, head_bytes;  // keys then values of each head
  };
  jit::KvType type_;
  int64_t capacity_;  // multiple of the KV split
  size_t bytes_ = 0;
  std::byte* memory_ = nullptr;
  std::vector<Layer> layers_;
};

}  // namespace nibble::runtime
