// A Graph in a .nib file: section "graph" (JSON: nodes, values, attributes, io), "doc/NAME" for
// documents, "const/ID" for tensor constants, "weight/ID/{data,scales,zeros}" for packed matrices.
// Reading maps; nothing is repacked, and nothing copied but the JSON, unless the pool's threads are
// on more than one NUMA node: then weights are copied to the nodes that read them.
#pragma once

#include <functional>
#include <string>

#include "graph/graph.h"
#include "runtime/thread_pool.h"

namespace nibble::graph {

// Packs one weight (a MatrixSource constant, or already packed); called once per weight in file
// order, and the result is released after it is written, so peak memory is one tensor.
using PackWeight = std::function<runtime::PackedMatrix(ValueId)>;

// Throws Error; on failure nothing is left at `path` that was not there before.
void write_nib_model(const Graph& graph, const std::string& path, const PackWeight& pack);
// Throws Error naming the file, the section or node, expected and found. `pool` verifies check
// sums; without one there is no copying.
Graph read_nib_model(const std::string& path, runtime::ThreadPool* pool);

}  // namespace nibble::graph
