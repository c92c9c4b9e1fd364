// Reads an ONNX decoder export into a Graph. Weights stay mapped: initializers inside the model
// file and in external data files alike. The file is never trusted beyond its length.
#pragma once

#include <string>

#include "graph/graph.h"

namespace nibble::frontends {

// `path`: an .onnx file, or a folder holding exactly one (model.onnx preferred, then Optimum's
// decoder_model_merged.onnx and decoder_model.onnx). Documents beside it (documents.h) are read
// along; context length, eos and bos come from them. An export without a cache has no io.layers.
// Throws Error naming the file, tensor or node, what was expected and what was found.
graph::Graph load_onnx(const std::string& path);

}  // namespace nibble::frontends
