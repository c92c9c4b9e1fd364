#include "runtime/numa_memory.h"

#include <algorithm>
#include <cstring>

#include "runtime/pages.h"

namespace nibble::runtime {
namespace {

// With fewer huge pages a node, one at the border is a loss: it is read from afar by half, or
// split.
constexpr size_t kHugePagesPerNode = 8;

size_t round_down(size_t value, size_t unit) { return value / unit * unit; }
size_t round_up(size_t value, size_t unit) { return round_down(value + unit - 1, unit); }

}  // namespace

std::vector<NodePages> plan_pages(size_t address, size_t bytes, int64_t blocks, size_t page,
                                  const Placement& placement) {
  std::vector<NodePages> plan;
  if (bytes == 0 || blocks < 1) return plan;
  const size_t block_bytes = bytes / static_cast<size_t>(blocks);
  const size_t last = round_up(address + bytes, page);
  size_t begin = round_down(address, page);
  for (int t = 0; t < placement.size(); ++t) {
    const int node = placement.threads[static_cast<size_t>(t)].node;
    const auto blocks_end = static_cast<size_t>(placement.home_range(blocks, 1, t).end);
    size_t end = round_down(address + blocks_end * block_bytes + page / 2, page);
    end = t + 1 == placement.size() ? last : std::min(end, last);
    if (end <= begin) continue;
    if (!plan.empty() && plan.back().node == node) {
      plan.back().end = end;
    } else {
      plan.push_back({begin, end, node});
    }
    begin = end;
  }
  return plan;
}

size_t place_pages(void* address, size_t bytes, int64_t blocks, const Placement& placement) {
  if (placement.nodes.size() < 2) return 0;
  const bool large = bytes >= placement.nodes.size() * kHugePagesPerNode * kHugePage;
  const auto base = reinterpret_cast<size_t>(address);
  size_t refused = 0;
  for (const NodePages& pages :
       plan_pages(base, bytes, blocks, large ? kHugePage : kPage, placement)) {
    void* begin = static_cast<std::byte*>(address) + (pages.begin - base);
    const size_t length = std::min(pages.end, round_up(base + bytes, kPage)) - pages.begin;
    const unsigned node = placement.nodes[static_cast<size_t>(pages.node)];
    if (!prefer_node(begin, length, node)) refused += length;
  }
  return refused;
}

PackedMatrix copy_to_nodes(const PackedMatrix& source, ThreadPool& pool) {
  const jit::PackedView& view = source.view;
  const jit::PackedShape shape = jit::packed_shape(view.format, view.n, view.k);
  const PackedBuffer copy = allocate_packed(view.format, view.n, view.k, &pool.placement());
  const auto copy_part = [&](void* to, const void* from, int64_t bytes, int thread) {
    if (bytes == 0) return;
    const Range home = pool.placement().home_range(shape.nblocks, 1, thread);
    const int64_t block = bytes / shape.nblocks;
    std::memcpy(static_cast<std::byte*>(to) + home.begin * block,
                static_cast<const std::byte*>(from) + home.begin * block,
                static_cast<size_t>((home.end - home.begin) * block));
  };
  pool.parallel_for(pool.size(), [&](int64_t, int64_t, int thread) {
    copy_part(copy.data, view.data, shape.data_bytes, thread);
    copy_part(copy.scales, view.scales, shape.scale_bytes, thread);
    copy_part(copy.zeros, view.zeros, shape.zero_bytes, thread);
  });
  return copy.matrix;
}

}  // namespace nibble::runtime
