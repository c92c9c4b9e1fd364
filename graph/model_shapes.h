// Fused graphs of well-known architectures with weights of the true shapes but no values: what
// `--shape` measures when the model itself is not at hand.
#pragma once

#include <string>
#include <vector>

#include "graph/graph.h"

namespace nibble::graph {

// Names that shape_graph accepts.
std::vector<std::string> shape_names();

// A fused Llama-architecture graph whose Linear and Embedding weights are MatrixSource constants
// with n and k but no parts: the packer fills them with random values. Throws Error listing the
// names for an unknown one.
Graph shape_graph(const std::string& name);

}  // namespace nibble::graph
