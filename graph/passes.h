// The passes, one per file. Each is a free function that rewrites the graph and returns how many
// places it changed. fuse() runs the pipeline in order and verifies the graph after each pass.
#pragma once

#include <functional>
#include <string>
#include <vector>

#include "graph/graph.h"

namespace nibble::graph {

// What became of one expected fusion.
struct FusionEntry {
  int64_t layer = -1;  // -1: outside the layers
  std::string what;    // "attention", "qkv", "norm", "mlp", ...
  bool fused = false;
  std::string detail;  // what it became, or why not
  std::string node;    // the fused operator, or where the search for one ended
};

inline constexpr const char* kLeftOver = "no fused operator covers this node";

struct FusionReport {
  std::vector<FusionEntry> entries;
  int64_t nodes_before = 0, nodes_after = 0,
          nodes_unfused = 0;  // unfused: nodes outside domain "nibble"
  bool complete() const { return nodes_unfused == 0; }
  double coverage() const;  // share of the remaining nodes that are fused operators, 0..1
};

int fold_constants(Graph& graph);  // evaluates nodes whose inputs are all constant; drops casts
                                   // between float types
int eliminate_dead(Graph& graph);  // nodes and constants that no output needs
int expand_operators(Graph& graph,
                     FusionReport& report);  // whole-subgraph operators become the subgraph
int form_softmax(Graph& graph);              // from exponentials and their sum
int form_linears(Graph& graph);              // MatMul/Gemm by a constant (+ bias Add) -> Linear
int form_norms(Graph& graph);                // RMSNorm and LayerNorm in all their spellings
int form_clips(Graph& graph);                // to [-c, c]
int form_embeddings(Graph& graph);           // token (and position) embeddings
int simplify_shapes(Graph& graph);  // Shape of a hidden state -> from the shape of input_ids
int fuse_activations(Graph& graph,
                     FusionReport& report);  // elementwise regions between Linears, by probing
int fuse_attention(Graph& graph,
                   FusionReport& report);  // from Q, K, V projections to the output projection
int form_embeddings(Graph& graph);         // token (and position) embeddings
int fuse_residuals(Graph& graph);          // adds into norms and into Linear epilogues

int fuse_logits(Graph& graph, FusionReport& report);  // what scales or caps the logits

// Called after each pass with its name, the graph and the number of changes.
using PassObserver = std::function<void(const std::string&, const Graph&, int)>;
FusionReport fuse(Graph& graph, const PassObserver& observer = {});
std::vector<std::string> pass_names();

}  // namespace nibble::graph
