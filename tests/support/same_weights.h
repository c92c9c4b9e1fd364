// Compares the packed weights of two fused graphs of one model, number for number.
#pragma once

#include <string>

#include "graph/graph.h"

namespace nibble::test {

// "" when every Linear and Embedding of `found`, in the order of the nodes, has the very bytes
// (values, scales, zero points) that `wanted` has, or fp32 of the very numbers that those stand
// for; else what differs first.
std::string packed_difference(const graph::Graph& wanted, const graph::Graph& found);

}  // namespace nibble::test
