// The operators with which ONNX files carry quantized weights, read as QuantizedMatrix:
// com.microsoft MatMulNBits and GatherBlockQuantized, and DequantizeLinear of a constant matrix.
// form_linears, form_embeddings and the interpreter ask here, so that all mean the same numbers.
#pragma once

#include <memory>
#include <optional>

#include "graph/graph.h"
#include "graph/rewrite.h"

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

// A product of integers with its scales, as onnxruntime's dynamic quantization writes it: `scaled`
// = Mul(Cast(MatMulInteger(q, W, zero, W_zero)), Mul(scale, W_scale)), where q, scale and zero are
// x's by DynamicQuantizeLinear. As x W^T it is more exact, not less.
struct IntegerProduct {
  ValueId x = kNoValue, weight = kNoValue;
  SharedMatrix matrix;
};
std::optional<IntegerProduct> integer_product(const Graph& graph, const Links& links,
                                              const Node& scaled);

}  // namespace nibble::graph
