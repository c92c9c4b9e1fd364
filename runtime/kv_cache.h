// The KV cache of a session: pages of 256 positions of one KV head (jit/kv_layout.h), and a range
// of memory a layer, which begins with the first page of each of its heads:
//
//   layer    [context / 256][kv_head] page
//
// Memory is reserved for the whole context but touched only as positions are appended: in huge
// pages where asked for and the system has them, one of which holds many positions of all heads, or
// in small ones, each of which lies with the thread that first writes to it.
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
  KvCache(const std::vector<HeadLayout>& layers, jit::KvType type, int64_t capacity,
          bool huge_pages);
  ~KvCache();
  KvCache(const KvCache&) = delete;
  KvCache& operator=(const KvCache&) = delete;

  jit::KvType type() const { return type_; }
  int64_t capacity() const { return capacity_; }
  int64_t bytes() const { return bytes_; }
  jit::KvHead head(int64_t layer, int64_t kv_head) const noexcept;
  // Has the system give memory to the first `positions` positions, on the caller's node. What they
  // hold stays. A system that knows no such call gives it when they are written, as ever.
  void populate(int64_t positions) noexcept;

 private:
  struct Layer {
    int64_t offset, page_bytes, page_stride;
  };
  jit::KvType type_;
  int64_t capacity_;  // multiple of kKvPage
  int64_t bytes_ = 0;
  std::byte* memory_ = nullptr;
  std::vector<Layer> layers_;
};

}  // namespace nibble::runtime
