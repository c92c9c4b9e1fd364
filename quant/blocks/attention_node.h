// A fused Attention for calibration: its shape and constants, and the steps that forward and
// backward share, for one query head of one sequence that begins at position 0. Scores are made by
// matrix products, kQueryRows queries at a time over the keys that these may see.
#pragma once

#include <cstdint>
#include <vector>

#include "graph/graph.h"
#include "jit/code_cache.h"
#include "quant/products/dense_matmul.h"
#include "runtime/plan.h"
#include "runtime/thread_pool.h"

namespace nibble::quant {

inline constexpr int64_t kQueryRows = 128;

struct AttentionNode {
  runtime::HeadLayout head;
  int64_t window = 0, rotary = 0;
  bool interleaved = false, norm_last = false;  // norms behind the rotation
  float scale = 1, softcap = 0, norm_epsilon = 0;
  runtime::RopeTable rope;
  std::vector<float> slopes, q_norm, k_norm;  // empty where absent
  int64_t share() const { return head.heads / head.kv_heads; }
};

// Throws Error naming the node when its attributes and operands do not fit.
AttentionNode read_attention(const graph::Graph& graph, const graph::Node& node);

// The cosines and sines of positions 0..length-1, [length][rotary / 2].
struct RopeRows {
  RopeRows(const AttentionNode& attention, int64_t length);
  std::vector<float> cos, sin;
};

// The kernels of one Attention.
struct AttentionKernels {
  explicit AttentionKernels(const AttentionNode& attention);
  const jit::Kernel* norm = nullptr;  // of a head; null: none
  const jit::Kernel* rope = nullptr;  // null: no rotation
  const jit::Kernel* scale = nullptr;
  const jit::Kernel* softmax = nullptr;
};

// Queries [first, first + rows) of a head and the keys [low, high) that any of them sees. The query
// at position p sees [visible_low(p), p].
struct QueryBlock {
  int64_t first = 0, rows = 0, low = 0, high = 0;
  int64_t keys() const { return high - low; }
};
std::vector<QueryBlock> query_blocks(const AttentionNode& attention, int64_t length);
int64_t visible_low(const AttentionNode& attention, int64_t position);

// A head of `length` positions from qkv (its column `column`, rows `stride` apart), normalised by
// `norm` where that is not empty and rotated (in the node's order), as out [length][head_dim].
void turn_head(const AttentionNode& attention, const AttentionKernels& kernels,
               const RopeRows& rope, const std::vector<float>& norm, const float* from,
               int64_t stride, int64_t length, float* out);
// Rotates heads [length][head_dim] of positions from 0 on, in place.
void rotate_head(const AttentionNode& attention, const AttentionKernels& kernels,
                 const RopeRows& rope, int64_t length, float* head);

// weights [rows][keys] of a block: the softmax of each query's scores, 0 for keys that it does not
// see. queries and keys are turned heads, from position 0 on. Where `capped` is not null it gets
// the scaled and capped scores (without ALiBi) in the same shape. Runs in its caller.
void attention_weights(runtime::ThreadPool& single, const AttentionNode& attention,
                       const AttentionKernels& kernels, const QueryBlock& block, int64_t query_head,
                       const float* queries, const float* keys, float* weights, float* capped);

// out [sequences * length][heads * head_dim] of qkv [sequences * length][head.width()].
void attention_forward(runtime::ThreadPool& pool, const AttentionNode& attention, int64_t sequences,
                       int64_t length, const float* qkv, float* out);

// Its derivative: dqkv, shaped as qkv, by dout = d loss / d out.
void attention_backward(runtime::ThreadPool& pool, const AttentionNode& attention,
                        int64_t sequences, int64_t length, const float* qkv, const float* dout,
                        float* dqkv);

// The placement of a pool that runs in its caller, for matmul inside a parallel region: threads may
// share the pool.
runtime::Placement single_thread();

}  // namespace nibble::quant
