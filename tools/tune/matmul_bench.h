// Runs one matmul with one tiling after another as the executor would: all threads, work claimed in
// pieces, weights that take turns with copies so that they come from memory. Checks the bits of
// every tiling against those of the default, whose own are checked against the reference.
#pragma once

#include <cstdint>
#include <memory>
#include <vector>

#include "jit/code_cache.h"
#include "jit/kernel_spec.h"
#include "runtime/machine_roofs.h"
#include "runtime/packed_matrix.h"
#include "runtime/thread_pool.h"

namespace nibble::tune {

// Random copies of one weight matrix, together several times the last-level cache.
class RotatingWeights {
 public:
  // `least_bytes`: of all copies together; 0: as many as lie beyond the caches (machine_roofs.h).
  RotatingWeights(const jit::GemmSpec& spec, runtime::ThreadPool& pool, int64_t least_bytes = 0);
  int64_t copies() const { return static_cast<int64_t>(copies_.size()); }
  const jit::PackedView& view(int64_t copy) const {
    return copies_[static_cast<size_t>(copy)].view;
  }

 private:
  std::vector<runtime::PackedMatrix> copies_;
};

class MatmulBench {
 public:
  // Throws Error when this machine cannot run kernels of `isa`, or code is refused. The pool and
  // the weights must outlive it.
  MatmulBench(const jit::GemmSpec& spec, jit::Isa isa, int64_t m, const RotatingWeights& weights,
              runtime::ThreadPool& pool, const runtime::Roofs& roofs);
  ~MatmulBench();
  MatmulBench(const MatmulBench&) = delete;
  MatmulBench& operator=(const MatmulBench&) = delete;

  // Seconds of one matmul; unless `whole`, measured on a part of its columns where it is long.
  // Throws Error naming the kernel when it gives other bits than the default's, or cannot be made.
  double sample(const jit::Tiling& tiling, bool whole);
  // For tests: what the next new tiling writes is changed before it is compared.
  void spoil_next_result();

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nibble::tune
