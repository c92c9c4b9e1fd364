// Scale folding, the transformation under AWQ and TEQ: the input channels of some Linears are
// multiplied by factors, and what makes those channels is divided by them, so that the model
// computes what it did while its weights quantize better. Here is which places of a fused graph
// allow it, and the folding itself; which factors are good is the business of those who call it.
//
// What absorbs the division:
//   norm     weight and bias of an RMSNorm or LayerNorm (Gemma's 1 + w is one number here)
//   columns  output columns and bias of a Linear without activation or gate; with ReLU, because
//            relu(c z) = c relu(z) for c > 0 (OPT's fc1 -> fc2)
//   up       the up columns of a gated Linear: act(g) (u / s); or the Linear behind a Gate's u
//   value    the V columns of a QKV Linear: attention is linear in V. Query heads that share a KV
//            head share its factors, whose number is kv_heads * head_dim and not k.
// What does not: GELU and SiLU without a gate (fc1 -> fc2 of GPT-2, BLOOM, Falcon, ...), and all
// that is not made for these Linears alone: a value that is also a residual, an output or an
// operand of something else. Nor is a weight scaled that another place shares (tied embeddings stay
// one table, layers with common weights stay common), that is packed, or that its file holds
// quantized.
//
// Rounding: a product of a channel and a weight keeps its value within a factor (1 + d)^2 for
// norms and (1 + d)^3 for columns, |d| <= 2^-24: the quotient or the reciprocal and its product,
// and the weight's product. Powers of two are exact, under- and overflow aside.
#pragma once

#include <cstdint>
#include <span>
#include <string>
#include <vector>

#include "graph/graph.h"

namespace nibble::quant {

enum class Absorber : uint8_t { norm, columns, up, value };
const char* absorber_name(Absorber absorber);

struct Fold {
  Absorber absorber = Absorber::norm;
  size_t node = 0;                  // of the norm, or of the Linear, that is divided
  std::vector<int64_t> columns{};   // [factors] the element of the norm, or the column of the
                                    // Linear's weight, that makes a factor's channels
  std::vector<size_t> consumers{};  // the Linears whose input channels are multiplied
  int64_t k = 0;                    // their input channels
  std::vector<int32_t> tied{};      // [k] the factor of each channel
  int64_t layer = -1;               // of the consumers; -1: outside the layers
  std::string name{};               // "layers.0.norm -> layers.0.qkv + layers.0.fc1", for reports
  int64_t factors() const { return static_cast<int64_t>(columns.size()); }
  // Whether some channels share a factor.
  bool shares_factors() const { return factors() != k; }
};

// All legal folds, in the order of the graph. No two have a consumer in common, so any of them can
// be applied together, in any order. Nodes are indices, good until nodes are added or moved, which
// apply_fold does not do.
std::vector<Fold> find_folds(const graph::Graph& graph);

// Multiplies weight column kk of every consumer by factors[tied[kk]] and divides the absorber by
// it. Weights stay where they are (scaled_columns.h); vectors are replaced by new ones, of this
// node's own where others use the same. Throws Error when a factor is not a positive number with a
// finite reciprocal, or the fold is not one of this graph's.
void apply_fold(graph::Graph& graph, const Fold& fold, std::span<const float> factors);

}  // namespace nibble::quant
