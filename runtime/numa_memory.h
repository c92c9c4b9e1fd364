// Puts the parts of a packed matrix into the memory of the NUMA nodes whose threads read them. On
// one node nothing is done and nothing is paid. Called where weights get their memory: by
// allocate_packed before anything is written, and by the reader of .nib files, whose mapped pages
// stay where the page cache has them and are copied instead.
#pragma once

#include <cstddef>
#include <cstdint>
#include <vector>

#include "runtime/packed_matrix.h"
#include "runtime/placement.h"
#include "runtime/thread_pool.h"

namespace nibble::runtime {

// Bytes [begin, end) belong on a node.
struct NodePages {
  size_t begin = 0, end = 0;  // addresses, multiples of the page size
  int node = 0;               // index into Placement::nodes
  friend bool operator==(const NodePages&, const NodePages&) = default;
};

// Which pages of `bytes` bytes at `address`, a matrix of `blocks` column blocks of equal length,
// belong on which node: each thread's home range of the blocks on its node, a page that two share
// on the node that has the larger part of it. Covers every page once, in order; neighbours differ.
std::vector<NodePages> plan_pages(size_t address, size_t bytes, int64_t blocks, size_t page,
                                  const Placement& placement);

// Carries such a plan out on memory of the caller's own whole pages (huge ones where `bytes` is
// large enough for it not to matter which node has the page at a border). Returns how many bytes
// the system refused to place: 0, or all when placing is not permitted here.
size_t place_pages(void* address, size_t bytes, int64_t blocks, const Placement& placement);

// A copy of `source` in memory placed for the pool's threads, made by them.
PackedMatrix copy_to_nodes(const PackedMatrix& source, ThreadPool& pool);

}  // namespace nibble::runtime
