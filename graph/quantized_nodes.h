// The operators with which ONNX files carry quantized weights, read as QuantizedMatrix:
// com.microsoft MatMulNBits and GatherBlockQuantized, and DequantizeLinear of a constant matrix.
// form_linears, form_embeddings and the interpreter ask here, so that all mean the same numbers.
#pragma once

#include <memory>
#include <optional>

#include "graph/graph.h"

namespace nibble::graph {

using SharedMatrix = std::shared_ptr<const QuantizedMatrix>;

// The constant tensor behind a value, through Reshape of a constant by a constant; nullopt when it
// is computed.
std::optional<TensorData> constant_behind(const Graph& graph, ValueId id);

// The weight of a MatMulNBits: n outputs of k. Throws Error saying what is not possible.
SharedMatrix matmul_nbits_weight(const Graph& graph, const Node& node);
// The table of a GatherBlockQuantized: one column an id. Throws Error likewise.
SharedMatrix gather_block_table(const Graph& graph, const Node& node);
// The constant matrix that a DequantizeLinear makes, as [k][n] when k_major, else [n][k]; null when
// it is computed, no matrix, or quantized along other groups than runs of k.
SharedMatrix dequantized_weight(const Graph& graph, const Node& node, bool k_major);

}  // namespace nibble::graph
