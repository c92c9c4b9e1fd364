// HeadNorm of graph/ops.h as ONNX operators. Private to export_graph.cpp.
#pragma once

#include <string>

#include "frontends/onnx/export_attention.h"
#include "frontends/onnx/model_writer.h"
#include "graph/graph.h"

namespace nibble::frontends::onnx {

// Q and K of `node` normalised, and V. They stay apart, as other exporters have them.
QkvParts write_head_norm(const graph::Graph& graph, ModelWriter& writer, const graph::Node& node,
                         const QkvParts& rows);

}  // namespace nibble::frontends::onnx
