// A HeadNorm of graph/ops.h for calibration: its spans and constants, forward and backward, over
// rows of [Q heads | K heads | V heads].
#pragma once

#include <cstdint>
#include <vector>

#include "graph/graph.h"
#include "runtime/plan.h"
#include "runtime/thread_pool.h"

namespace nibble::quant {

struct HeadNormNode {
  runtime::HeadLayout head;
  bool whole = false, centre = false;
  float epsilon = 0;
  std::vector<float> weight, bias;  // of each Q and K column; bias may be empty

  int64_t spans() const { return whole ? 2 : head.heads + head.kv_heads; }
  int64_t begin(int64_t span) const { return span * (whole ? head.heads : 1) * head.head_dim; }
  int64_t width(int64_t span) const {
    return head.head_dim * (!whole ? 1 : span == 0 ? head.heads : head.kv_heads);
  }
};

// Throws Error naming the node when its attributes and operands do not fit.
HeadNormNode read_head_norm(const graph::Graph& graph, const graph::Node& node);

// Normalises rows [rows][head.width()] in place.
void head_norm_forward(runtime::ThreadPool& pool, const HeadNormNode& norm, int64_t rows,
                       float* qkv);

// dx += its derivative at x by dy, all shaped as the rows.
void head_norm_backward(runtime::ThreadPool& pool, const HeadNormNode& norm, int64_t rows,
                        const float* x, const float* dy, float* dx);

}  // namespace nibble::quant
