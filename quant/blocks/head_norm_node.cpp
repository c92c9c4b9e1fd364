#include "quant/blocks/head_norm_node.h"

#include "jit/error.h"
#include "quant/blocks/linear_node.h"
#include "quant/blocks/norm_gradient.h"
#include "quant/products/row_kernel.h"

namespace nibble::quant {

HeadNormNode read_head_norm(const graph::Graph& graph, const graph::Node& node) {
  HeadNormNode norm;
  norm.head = {0, node.get_int("heads"), node.get_int("kv_heads"), node.get_int("head_dim")};
  norm.whole = node.get_int("whole", 0) != 0;
  norm.centre = node.get_int("centre", 0) != 0;
  norm.epsilon = node.get_float("epsilon");
  norm.weight = read_vector(graph, node, 1);
  norm.bias = read_vector(graph, node, 2);
  const auto& h = norm.head;
  const int64_t columns = h.value_column();
  if (h.heads < 1 || h.kv_heads < 1 || h.head_dim < 1 || std::ssize(norm.weight) != columns ||
      (!norm.bias.empty() && std::ssize(norm.bias) != columns)) {
    fail("{}: node '{}' ({}) has {} heads of {}, {} KV heads and a weight of {}.", graph.origin,
         node.name, node.op, h.heads, h.head_dim, h.kv_heads, norm.weight.size());
  }
  return norm;
}

void head_norm_forward(runtime::ThreadPool& pool, const HeadNormNode& norm, int64_t rows,
                       float* qkv) {
  jit::RowSpec spec;
  spec.op = norm.centre ? jit::RowOp::layer_norm : jit::RowOp::rms_norm;
  spec.bias = !norm.bias.empty();
  for (int64_t span = 0; span < norm.spans(); ++span) {
    const int64_t column = norm.begin(span);
    spec.n = norm.width(span);
    const jit::Kernel& kernel = row_kernel(spec);
    pool.parallel_for(rows, [&](int64_t begin, int64_t end, int) {
      jit::RowArgs args;
      args.y = qkv + begin * norm.head.width() + column;
      args.x = args.y;
      args.x_stride = args.y_stride = norm.head.width();
      args.weight = norm.weight.data() + column;
      args.bias = norm.bias.empty() ? nullptr : norm.bias.data() + column;
      args.eps = norm.epsilon;
      args.rows = end - begin;
      kernel.run(args);
    });
  }
}

void head_norm_backward(runtime::ThreadPool& pool, const HeadNormNode& norm, int64_t rows,
                        const float* x, const float* dy, float* dx) {
  const int64_t width = norm.head.width(), values = norm.head.value_column();
  pool.parallel_for(rows, [&](int64_t begin, int64_t end, int) {
    for (int64_t r = begin; r < end; ++r) {
      const int64_t row = r * width;
      for (int64_t span = 0; span < norm.spans(); ++span) {
        const int64_t column = norm.begin(span), at = row + column;
        norm_gradient(x + at, norm.weight.data() + column, dy + at, norm.width(span), norm.epsilon,
                      norm.centre, dx + at);
      }
      for (int64_t c = values; c < width; ++c) dx[row + c] += dy[row + c];
    }
  });
}

}  // namespace nibble::quant
