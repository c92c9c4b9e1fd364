// What MODEL means: which file, of which format, and its graph.
#pragma once

#include <string>

#include "graph/graph.h"

namespace nibble::cli {

// Where MODEL lies: an .onnx, a .nib, .safetensors or a .gguf, given itself or by the folder
// that holds it.
struct ModelPath {
  std::string path;
  bool nib = false;
  bool safetensors = false;
  bool gguf = false;
};
// Throws Error when there is none, or more than one. An .onnx goes before .safetensors beside it,
// and these before a .gguf.
ModelPath find_model(const std::string& model);

// The graph of a model that is no .nib, and the description that it was built by (empty for an
// .onnx, which describes itself).
struct SourceGraph {
  graph::Graph graph;
  std::string description;
};
SourceGraph load_source(const ModelPath& model);

}  // namespace nibble::cli
