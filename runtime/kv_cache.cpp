#include "runtime/kv_cache.h"

#include <sys/mman.h>

#include <algorithm>

#include "jit/error.h"
#include "jit/kv_layout.h"
#include "runtime/pages.h"

namespace nibble::runtime {
namespace {

int64_t round_up(int64_t value, int64_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

KvCache::KvCache(const std::vector<HeadLayout>& layers, jit::KvType type, int64_t capacity,
                 bool huge_pages)
    : type_(type), capacity_(round_up(capacity, jit::kKvPage)) {
  for (const HeadLayout& head : layers) {
    const int64_t page = jit::kv_page_bytes(type_, head.head_dim);
    const Layer layer{bytes_, page, page * head.kv_heads};
    layers_.push_back(layer);
    int64_t layer_bytes = 0;
    if (__builtin_mul_overflow(layer.page_stride, capacity_ / jit::kKvPage, &layer_bytes) ||
        __builtin_add_overflow(bytes_, layer_bytes, &bytes_)) {
      fail("The KV cache for {} positions needs more bytes than can be counted.", capacity);
    }
  }
  if (bytes_ == 0) return;
  void* memory = mmap(nullptr, static_cast<size_t>(bytes_), PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    fail(
        "The KV cache for {} positions needs {} bytes, and the system refused them. A smaller "
        "context needs less.",
        capacity, bytes_);
  }
  if (huge_pages) madvise(memory, static_cast<size_t>(bytes_), MADV_HUGEPAGE);
  memory_ = static_cast<std::byte*>(memory);
}

KvCache::~KvCache() {
  if (memory_ != nullptr) munmap(memory_, static_cast<size_t>(bytes_));
}

jit::KvHead KvCache::head(int64_t layer, int64_t kv_head) const noexcept {
  const Layer& l = layers_[static_cast<size_t>(layer)];
  return {memory_ + l.offset + kv_head * l.page_bytes, l.page_stride};
}

void KvCache::populate(int64_t positions) noexcept {
#ifdef MADV_POPULATE_WRITE
  const int64_t pages = round_up(std::min(positions, capacity_), jit::kKvPage) / jit::kKvPage;
  for (const Layer& layer : layers_) {
    const auto begin = static_cast<size_t>(layer.offset) / kPage * kPage;
    const auto end = static_cast<size_t>(layer.offset + pages * layer.page_stride);
    madvise(memory_ + begin, end - begin, MADV_POPULATE_WRITE);
  }
#else
  static_cast<void>(positions);
#endif
}

}  // namespace nibble::runtime
