// The numbers of a fused and quantized graph under the names that they have in a Hugging Face
// checkpoint: merged matrices taken apart, heads and gates in the checkpoint's order, norms as
// Gemma stores them. What the layout is follows from config.json alone, by building the graph that
// it describes and pairing it with the given one (graph/pair_graphs.h). For exports.
#pragma once

#include <string>
#include <vector>

#include "frontends/decoder/config.h"
#include "graph/graph.h"
#include "jit/packed_layout.h"

namespace nibble::frontends::safetensors {

// A matrix of the checkpoint; its column c is column columns[c] of the packed one.
struct HfMatrix {
  std::string name;  // without ".weight"
  const jit::PackedView* packed = nullptr;
  std::vector<int64_t> columns;
  bool in_layer = false;  // else the embedding or the output matrix
  int64_t n() const { return static_cast<int64_t>(columns.size()); }
  int64_t k() const { return packed->k; }
};

struct HfVector {
  std::string name;  // in full
  std::vector<float> values;
};

struct HfTable {
  std::string name;  // in full
  graph::TensorData tensor;
};

struct HfTensors {
  std::vector<HfMatrix> matrices;
  std::vector<HfVector> vectors;
  std::vector<HfTable> tables;  // learned positions
};

// `config`: of a model that is not quantized. Points into `graph`. Throws Error naming what the
// graph has and the configuration does not describe, or the other way round.
HfTensors hf_tensors(const graph::Graph& graph, const decoder::Config& config);

// Whether the embedding and the output matrix of a fused graph are the same numbers.
bool is_tied(const graph::Graph& graph);

}  // namespace nibble::frontends::safetensors
