// What an attention subgraph computes, found by probing (probe.h) rather than by its operators: the
// columns of Q, K and V in the projections' outputs, rotation, scale, softcap, mask and ALiBi. The
// result is verified against the subgraph itself on random inputs, with and without cached
// positions.
#pragma once

#include <cstdint>
#include <stdexcept>
#include <string>
#include <vector>

#include "graph/graph.h"
#include "graph/interpreter.h"

namespace nibble::graph {

// A subgraph from projections to the attention output.
struct AttentionRegion {
  ValueId scores = kNoValue;                         // softmax input
  ValueId products = kNoValue;                       // Q K^T
  ValueId q = kNoValue, k = kNoValue, v = kNoValue;  // operands of the two matmuls
  ValueId out = kNoValue;                            // what the output projection multiplies
  std::vector<ValueId> chain;                        // from the product with V to `out`
  std::vector<ValueId> projections;                  // outputs of Linears, ascending
  std::vector<int64_t> widths;                       // their columns
  std::vector<int32_t> nodes;                        // the region's nodes
  int64_t layer = -1;                                // index into io.layers
  std::vector<int32_t> q_norms, k_norms;             // node indices of the norms of Q and K
};

// Norms of Q and K between their projections and the rotation: of each head by itself, or of all of
// Q's columns at once and of all of K's.
struct HeadNorms {
  bool whole = false, centre = false;  // centre: LayerNorm
  bool last = false;                   // behind the rotation
  float epsilon = 0;
  // Of each column of the heads, in their order; biases are empty where there are none.
  std::vector<float> q_weight, k_weight, q_bias, k_bias;
  // Where they are RMSNorms of heads that share their factors: those constants, [head_dim].
  ValueId q_shared = kNoValue, k_shared = kNoValue;
  bool any() const { return !q_weight.empty(); }
};

struct AttentionMeaning {
  int64_t heads = 0, kv_heads = 0, head_dim = 0;
  // Global column (over the projections one after another) of each element of the Q, K, V heads.
  std::vector<int64_t> q_columns, k_columns, v_columns;
  std::vector<int64_t> k_elements;  // the columns of K's elements, repeated heads and all
  // What multiplies Q and K, where it is the same for all columns; else 1, and it counts as part of
  // the norms.
  double q_factor = 1, k_factor = 1;
  bool uniform = true;
  float scale = 1, softcap = 0;
  int64_t window = 0;  // 0 = none
  int64_t rotary = 0;
  bool interleaved = false;
  std::vector<float> inv_freq;  // rotary / 2
  // Tables of cosines and sines in 16-bit floats are that exact, which the fused operator need not
  // repeat; 0: computed, or in fp32.
  double table_error = 0;
  std::vector<float> slopes;  // ALiBi, one a head, or empty
  HeadNorms norms;
  float clip = 0;          // of Q, K and V to [-clip, clip]; 0 = none
  bool clip_first = true;  // before the norms
};

// Why a region has no meaning that the fused operator can express. Caught by the pass and reported.
class NotAttention : public std::runtime_error {
 public:
  using std::runtime_error::runtime_error;
};

// Norms and clips of Q, K and V make them depend on the projections in a way that no probe of
// columns can see through: the probes run on a copy of the graph in which those do nothing.
struct ProbeGraphs {
  const Graph& graph;
  const Interpreter& interpreter;
  const Graph& plain;  // without norms and clips of heads
  const Interpreter& plain_interpreter;
};

// Throws NotAttention with the reason.
AttentionMeaning find_attention_meaning(const ProbeGraphs& probes, const AttentionRegion& region);

// The region's Q, K, V operands and scores for one token at position 0 with a projection row.
struct Operands {
  Array q, k, v, scores;
};
Operands operands_at_start(const Graph& graph, const Interpreter& interpreter,
                           const AttentionRegion& region, std::span<const float> row);

// The steps of it, in their order (and those of attention_norms.h).
void find_columns(const Graph& graph, const Interpreter& interpreter, const AttentionRegion& region,
                  AttentionMeaning& meaning);
void find_rotation(const Graph& graph, const Interpreter& interpreter,
                   const AttentionRegion& region, AttentionMeaning& meaning);
void find_scores(const Graph& graph, const Interpreter& interpreter, const AttentionRegion& region,
                 AttentionMeaning& meaning);
void verify_meaning(const Graph& graph, const Interpreter& interpreter,
                    const AttentionRegion& region, const AttentionMeaning& meaning);

// Feeds the region's projections: row s, column c of the concatenated projections = values[s *
// total + c].
void feed_projections(const AttentionRegion& region, int64_t tokens, std::span<const float> values,
                      Feeds& feeds);
int64_t total_width(const AttentionRegion& region);

}  // namespace nibble::graph
