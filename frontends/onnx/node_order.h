// The order in which a graph's nodes are taken. ONNX asks that makers stand before users, and most
// files keep to it; converters that append their nodes at the end (casts of inputs, for one) do
// not, and onnxruntime runs what they write.
#pragma once

#include <cstddef>
#include <vector>

#include "frontends/onnx/model_proto.h"

namespace nibble::frontends::onnx {

// Indices of all nodes: makers before users, otherwise as the file has them. Nodes in a cycle or
// behind one come last, as the file has them: for the caller to find out.
std::vector<size_t> node_order(const std::vector<NodeProto>& nodes);

}  // namespace nibble::frontends::onnx
