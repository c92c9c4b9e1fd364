// Lowers a fully fused graph to a runtime Plan: buffers by liveness, a kernel and a tiling per
// step.
#pragma once

#include <cstdint>
#include <memory>

#include "graph/compute.h"
#include "graph/graph.h"
#include "graph/passes.h"
#include "jit/code_cache.h"
#include "runtime/plan.h"
#include "runtime/tuning_db.h"

namespace nibble::graph {

struct LowerOptions {
  Compute compute = Compute::int8;
  jit::Isa isa = jit::Isa::avx2;
  // Where tilings are looked up that were measured with so many threads; null: all are the default.
  const runtime::TuningDb* tunings = nullptr;
  int threads = 1;
};

// Throws Error naming the first node that is no fused operator or whose weights are not packed.
std::shared_ptr<const runtime::Plan> lower(const Graph& graph, const LowerOptions& options);

}  // namespace nibble::graph
