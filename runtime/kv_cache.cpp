#include "runtime/kv_cache.h"

#include <sys/mman.h>

#include "jit/attention.h"
#include "jit/error.h"
#include "jit/kv_layout.h"

namespace nibble::runtime {
namespace {

constexpr size_t kLine = 64;

size_t round_up(size_t value, size_t unit) { return (value + unit - 1) / unit * unit; }

}  // namespace

KvCache::KvCache(const std::vector<HeadLayout>& layers, jit::KvType type, int64_t capacity)
    : type_(type),
      capacity_(static_cast<int64_t>(
          round_up(static_cast<size_t>(capacity), static_cast<size_t>(jit::kKvSplit)))) {
  for (const HeadLayout& head : layers) {
    const auto one = static_cast<size_t>(jit::kv_bytes(type_, head.head_dim, capacity_));
    const auto scales = static_cast<size_t>(jit::kv_scale_bytes(type_, capacity_));
    const Layer layer{bytes_, round_up(one, kLine), round_up(scales, kLine)};
    layers_.push_back(layer);
    size_t layer_bytes = 0;
    if (__builtin_mul_overflow(2 * (layer.cache_bytes + layer.scale_bytes),
                               static_cast<size_t>(head.kv_heads), &layer_bytes) ||
        __builtin_add_overflow(bytes_, layer_bytes, &bytes_)) {
      fail("The KV cache for {} positions needs more bytes than can be counted.", capacity);
    }
  }
  if (bytes_ == 0) return;
  void* memory = mmap(nullptr, bytes_, PROT_READ | PROT_WRITE,
                      MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
  if (memory == MAP_FAILED) {
    fail(
        "The KV cache for {} positions needs {} bytes, and the system refused them. A smaller "
        "context needs less.",
        capacity, bytes_);
  }
  memory_ = static_cast<std::byte*>(memory);
}

KvCache::~KvCache() {
  if (memory_ != nullptr) munmap(memory_, bytes_);
}

jit::KvHead KvCache::head(int64_t layer, int64_t kv_head) const noexcept {
  const Layer& l = layers_[static_cast<size_t>(layer)];
  std::byte* at =
      memory_ + l.offset + 2 * static_cast<size_t>(kv_head) * (l.cache_bytes + l.scale_bytes);
  jit::KvHead head{.keys = at, .values = at + l.cache_bytes};
  if (l.scale_bytes == 0) return head;
  head.key_scales = reinterpret_cast<float*>(at + 2 * l.cache_bytes);
  head.value_scales = reinterpret_cast<float*>(at + 2 * l.cache_bytes + l.scale_bytes);
  return head;
}

}  // namespace nibble::runtime
