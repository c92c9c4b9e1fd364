// A packed weight matrix and whatever keeps its memory alive: a mapped .nib file, or the heap.
#pragma once

#include <cstdint>
#include <memory>

#include "jit/packed_layout.h"

namespace nibble::runtime {

struct Placement;

struct PackedMatrix {
  jit::PackedView view;
  std::shared_ptr<const void> owner;
};

// 64-byte aligned, zeroed memory for a packed matrix of this format; the mutable pointers are for
// the packer. With a placement of more than one NUMA node each thread's home range of the column
// blocks lies on its node (numa_memory.h).
struct PackedBuffer {
  PackedMatrix matrix;
  uint8_t* data = nullptr;
  void* scales = nullptr;
  uint8_t* zeros = nullptr;
};
PackedBuffer allocate_packed(const jit::WeightFormat& format, int64_t n, int64_t k,
                             const Placement* placement = nullptr);

// Bytes read per token when this matrix is multiplied: data, scales and zero points.
int64_t stored_bytes(const jit::PackedView& view);

}  // namespace nibble::runtime
