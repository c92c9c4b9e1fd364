// The nodes of one attention: from the projections that make Q, K and V, around a Softmax, to the
// value that the output projection multiplies. Only where they are; what they mean is
// attention_meaning.h's to find out. For fuse_attention.
#pragma once

#include <cstdint>
#include <memory>

#include "graph/attention_meaning.h"
#include "graph/graph.h"

namespace nibble::graph {

class RegionFinder {
 public:
  // Keeps a reference: the graph must outlive it and keep its nodes.
  explicit RegionFinder(const Graph& graph);
  ~RegionFinder();

  // The region around the Softmax with this node index. `number`: of its layer, where no cache
  // tells. Throws NotAttention with the reason.
  AttentionRegion around(int32_t softmax, int64_t number) const;

 private:
  struct Impl;
  std::unique_ptr<Impl> impl_;
};

}  // namespace nibble::graph
