#include "runtime/packed_matrix.h"

#include <cstddef>
#include <cstring>
#include <new>

#include "jit/error.h"
#include "runtime/numa_memory.h"
#include "runtime/pages.h"

namespace nibble::runtime {
namespace {

constexpr size_t kLine = 64;
constexpr size_t kLeastPlaced = 16 * kPage;  // smaller matrices stay in caches
constexpr int64_t kMostElements = int64_t{1} << 48;

// Zeroed memory from the heap, where a sanitizer sees every overrun.
std::shared_ptr<std::byte> small_memory(size_t bytes) {
  auto* memory = static_cast<std::byte*>(::operator new (bytes, std::align_val_t{kLine}));
  std::memset(memory, 0, bytes);
  return {memory, [](std::byte* p) { ::operator delete (p, std::align_val_t{kLine}); }};
}

// Memory for one part of a matrix: data, scales or zero points of `blocks` column blocks.
std::shared_ptr<std::byte> part_memory(int64_t bytes, int64_t blocks, const Placement* placement) {
  const auto size = static_cast<size_t>(bytes);
  const bool placed = placement != nullptr && placement->nodes.size() > 1 && size >= kLeastPlaced;
  if (size < kHugePage && !placed) return small_memory(size);
  auto memory = map_pages(size);
  if (memory && placed) place_pages(memory.get(), size, blocks, *placement);
  return memory;
}

struct Parts {
  std::shared_ptr<std::byte> data, scales, zeros;
};

void check_format(const jit::WeightFormat& format, int64_t n, int64_t k) {
  if (n < 1 || k < 1 || n > kMostElements / k) {
    fail("A matrix of {} x {} weights cannot be packed.", n, k);
  }
  if (format.type != jit::WeightType::f32 && (format.group < 0 || format.group % 8 != 0)) {
    fail("The group of a packed matrix must be 0 (the whole of k) or a multiple of 8, found {}.",
         format.group);
  }
}

}  // namespace

PackedBuffer allocate_packed(const jit::WeightFormat& format, int64_t n, int64_t k,
                             const Placement* placement) {
  check_format(format, n, k);
  const jit::PackedShape shape = jit::packed_shape(format, n, k);
  auto parts = std::make_shared<Parts>();
  const auto zeroed = [&](int64_t bytes) {
    std::shared_ptr<std::byte> memory;
    if (bytes == 0) return memory;
    try {
      memory = part_memory(bytes, shape.nblocks, placement);
    } catch (const std::bad_alloc&) {
      memory = nullptr;
    }
    if (!memory) {
      fail("A packed {} x {} matrix needs {} bytes, and the system refused them.", n, k, bytes);
    }
    return memory;
  };
  parts->data = zeroed(shape.data_bytes);
  parts->scales = zeroed(shape.scale_bytes);
  parts->zeros = zeroed(shape.zero_bytes);

  PackedBuffer buffer;
  buffer.data = reinterpret_cast<uint8_t*>(parts->data.get());
  buffer.scales = parts->scales.get();
  buffer.zeros = reinterpret_cast<uint8_t*>(parts->zeros.get());
  jit::PackedView& view = buffer.matrix.view;
  view.format = format;
  view.n = n;
  view.k = k;
  view.data = buffer.data;
  view.scales = buffer.scales;
  view.zeros = buffer.zeros;
  buffer.matrix.owner = std::move(parts);
  return buffer;
}

int64_t stored_bytes(const jit::PackedView& view) {
  const jit::PackedShape shape = jit::packed_shape(view.format, view.n, view.k);
  return shape.data_bytes + shape.scale_bytes + shape.zero_bytes;
}

}  // namespace nibble::runtime
