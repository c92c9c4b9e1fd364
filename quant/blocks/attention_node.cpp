#include "quant/blocks/attention_node.h"

#include <algorithm>

#include "jit/error.h"
#include "quant/blocks/linear_node.h"
#include "quant/products/row_kernel.h"
#include "quant/products/sizes.h"

namespace nibble::quant {
namespace {

// A thread's room for one head.
struct HeadRoom {
  HeadRoom(int64_t length, int64_t head_dim)
      : queries(at(length * head_dim)),
        keys(at(length * head_dim)),
        weights(at(std::min(length, kQueryRows) * length)) {}
  std::vector<float> queries, keys, weights;
};

}  // namespace

AttentionNode read_attention(const graph::Graph& graph, const graph::Node& node) {
  AttentionNode a;
  a.head = {node.get_int("layer", 0), node.get_int("heads"), node.get_int("kv_heads"),
            node.get_int("head_dim")};
  a.window = node.get_int("window", 0);
  a.rotary = node.get_int("rotary", 0);
  a.interleaved = node.get_int("interleaved", 0) != 0;
  a.scale = node.get_float("scale");
  a.softcap = node.get_float("softcap", 0);
  a.norm_epsilon = node.get_float("norm_epsilon", 0);
  a.norm_last = node.get_int("norm_last", 0) != 0;
  a.rope = {read_vector(graph, node, 1), node.get_float("rope_scale", 1)};
  a.slopes = read_vector(graph, node, 2);
  a.q_norm = read_vector(graph, node, 3);
  a.k_norm = read_vector(graph, node, 4);
  const auto& h = a.head;
  if (h.heads < 1 || h.kv_heads < 1 || h.heads % h.kv_heads != 0 || h.head_dim < 1 ||
      a.rotary < 0 || a.rotary % 2 != 0 || a.rotary > h.head_dim || a.window < 0) {
    fail("{}: attention '{}' has {} heads of {}, {} KV heads, {} rotated dimensions, window {}.",
         graph.origin, node.name, h.heads, h.head_dim, h.kv_heads, a.rotary, a.window);
  }
  const auto expect = [&](const std::vector<float>& vector, int64_t count, const char* what) {
    if (vector.empty() || vector.size() == at(count)) return;
    fail("{}: attention '{}' needs {} {}, found {}.", graph.origin, node.name, count, what,
         vector.size());
  };
  if (a.rotary > 0 && a.rope.inv_freq.empty()) {
    fail("{}: attention '{}' rotates but has no frequencies.", graph.origin, node.name);
  }
  if (a.rotary > 0) expect(a.rope.inv_freq, a.rotary / 2, "frequencies");
  expect(a.slopes, h.heads, "ALiBi slopes");
  expect(a.q_norm, h.head_dim, "weights of the queries' norm");
  expect(a.k_norm, h.head_dim, "weights of the keys' norm");
  return a;
}

RopeRows::RopeRows(const AttentionNode& attention, int64_t length) {
  if (attention.rotary == 0) return;
  const int64_t half = attention.rotary / 2;
  cos.resize(at(length * half));
  sin.resize(cos.size());
  for (int64_t p = 0; p < length; ++p) {
    runtime::rope_row(attention.rope, p, cos.data() + p * half, sin.data() + p * half);
  }
}

AttentionKernels::AttentionKernels(const AttentionNode& attention) {
  jit::RowSpec spec;
  spec.n = attention.head.head_dim;
  spec.op = jit::RowOp::rms_norm;
  if (!attention.q_norm.empty() || !attention.k_norm.empty()) norm = &row_kernel(spec);
  spec.op = jit::RowOp::rope;
  spec.rotary = attention.rotary;
  spec.interleaved = attention.interleaved;
  if (attention.rotary > 0) rope = &row_kernel(spec);
  spec = {};
  spec.op = attention.softcap == 0 ? jit::RowOp::scale : jit::RowOp::softcap;
  scale = &row_kernel(spec);
  spec.op = jit::RowOp::softmax;
  softmax = &row_kernel(spec);
}

int64_t visible_low(const AttentionNode& attention, int64_t position) {
  return attention.window > 0 ? std::max<int64_t>(0, position + 1 - attention.window) : 0;
}

std::vector<QueryBlock> query_blocks(const AttentionNode& attention, int64_t length) {
  std::vector<QueryBlock> blocks;
  for (int64_t first = 0; first < length; first += kQueryRows) {
    const int64_t rows = std::min(kQueryRows, length - first);
    blocks.push_back({first, rows, visible_low(attention, first), first + rows});
  }
  return blocks;
}

void rotate_head(const AttentionNode& attention, const AttentionKernels& kernels,
                 const RopeRows& rope, int64_t length, float* head) {
  if (kernels.rope == nullptr) return;
  jit::RowArgs args;
  args.x2 = rope.cos.data();
  args.x3 = rope.sin.data();
  args.x2_stride = attention.rotary / 2;
  args.y = head;
  args.y_stride = attention.head.head_dim;
  args.rows = length;
  kernels.rope->run(args);
}

void turn_head(const AttentionNode& attention, const AttentionKernels& kernels,
               const RopeRows& rope, const std::vector<float>& norm, const float* from,
               int64_t stride, int64_t length, float* out) {
  const int64_t dim = attention.head.head_dim;
  const auto normalise = [&](const float* x, int64_t x_stride) {
    jit::RowArgs args;
    args.x = x;
    args.x_stride = x_stride;
    args.weight = norm.data();
    args.eps = attention.norm_epsilon;
    args.y = out;
    args.y_stride = dim;
    args.rows = length;
    kernels.norm->run(args);
  };
  if (norm.empty() || attention.norm_last) {
    for (int64_t p = 0; p < length; ++p) std::copy_n(from + p * stride, dim, out + p * dim);
  } else {
    normalise(from, stride);
  }
  rotate_head(attention, kernels, rope, length, out);
  if (!norm.empty() && attention.norm_last) normalise(out, dim);
}

void attention_weights(runtime::ThreadPool& single, const AttentionNode& attention,
                       const AttentionKernels& kernels, const QueryBlock& block, int64_t query_head,
                       const float* queries, const float* keys, float* weights, float* capped) {
  const int64_t dim = attention.head.head_dim, count = block.keys();
  matmul(single, {queries + block.first * dim, block.rows, dim, dim}, false,
         {keys + block.low * dim, count, dim, dim}, true, {weights, block.rows, count, count},
         false);
  jit::RowArgs scale;
  scale.x = scale.y = weights;
  scale.x_stride = scale.y_stride = scale.n = count;
  scale.cap = attention.softcap;
  scale.scale = attention.softcap == 0 ? attention.scale : attention.scale / attention.softcap;
  scale.rows = block.rows;
  kernels.scale->run(scale);
  if (capped != nullptr) std::copy_n(weights, block.rows * count, capped);
  for (int64_t r = 0; r < block.rows; ++r) {
    float* row = weights + r * count;
    const int64_t position = block.first + r;
    const int64_t low = visible_low(attention, position) - block.low;
    const int64_t high = position + 1 - block.low;
    if (!attention.slopes.empty()) {
      const float slope = attention.slopes[at(query_head)];
      for (int64_t t = low; t < high; ++t) row[t] -= slope * static_cast<float>(high - 1 - t);
    }
    jit::RowArgs softmax;
    softmax.x = softmax.y = row + low;
    softmax.n = high - low;
    softmax.rows = 1;
    kernels.softmax->run(softmax);
    std::fill(row, row + low, 0.0F);
    std::fill(row + high, row + count, 0.0F);
  }
}

runtime::Placement single_thread() {
  runtime::Placement placement;
  placement.threads.resize(1);
  return placement;
}

void attention_forward(runtime::ThreadPool& pool, const AttentionNode& attention, int64_t sequences,
                       int64_t length, const float* qkv, float* out) {
  const runtime::HeadLayout& head = attention.head;
  const int64_t dim = head.head_dim, width = head.width(), out_width = head.heads * dim;
  const AttentionKernels kernels(attention);
  const RopeRows rope(attention, length);
  const std::vector<QueryBlock> blocks = query_blocks(attention, length);
  runtime::ThreadPool single(single_thread());
  pool.parallel_for(sequences * head.heads, [&](int64_t begin, int64_t end, int) {
    HeadRoom room(length, dim);
    for (int64_t unit = begin; unit < end; ++unit) {
      const int64_t first = unit / head.heads * length, query_head = unit % head.heads;
      const int64_t kv_head = query_head / attention.share();
      const float* row = qkv + first * width;
      const float* values = row + head.value_column() + kv_head * dim;
      turn_head(attention, kernels, rope, attention.q_norm, row + query_head * dim, width, length,
                room.queries.data());
      turn_head(attention, kernels, rope, attention.k_norm, row + head.key_column() + kv_head * dim,
                width, length, room.keys.data());
      for (const QueryBlock& block : blocks) {
        attention_weights(single, attention, kernels, block, query_head, room.queries.data(),
                          room.keys.data(), room.weights.data(), nullptr);
        matmul(single, {room.weights.data(), block.rows, block.keys(), block.keys()}, false,
               {values + block.low * width, block.keys(), dim, width}, false,
               {out + (first + block.first) * out_width + query_head * dim, block.rows, dim,
                out_width},
               false);
      }
    }
  });
}

}  // namespace nibble::quant
