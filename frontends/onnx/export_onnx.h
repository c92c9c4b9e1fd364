// Writes a quantized model as ONNX, for onnxruntime and whatever else reads its operators: the
// fused graph of graph/ops.h, each operator spelled out in those of opset 17 and, where weights are
// quantized, com.microsoft's MatMulNBits and GatherBlockQuantized. It depends on nothing but the
// graph, so models of every source can be written; load_onnx() reads them back to the same packed
// weights, bit for bit. onnxruntime has 8-bit weights of both operators from 1.23 on.
//
// What is shared in the model stays shared: a table that is tied to the output matrix is one tensor
// (where a row is whole blocks; else the same numbers are there twice).
#pragma once

#include <string>

#include "graph/graph.h"

namespace nibble::frontends {

// Writes model.onnx, model.onnx_data and the graph's documents into `folder`, which is made where
// it is missing; each file all or nothing. config.json says the graph's context length and its
// bos and eos ids, which nothing in an .onnx does. Throws Error naming the node or weight that ONNX
// has no form for: one that is not fused, or not packed, or in groups that MatMulNBits has not.
void write_onnx(const graph::Graph& graph, const std::string& folder);

}  // namespace nibble::frontends
