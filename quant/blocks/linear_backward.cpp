// Linear, backwards: see linear_node.h.
#include <algorithm>
#include <vector>

#include "quant/blocks/activation_gradient.h"
#include "quant/blocks/linear_node.h"
#include "quant/products/sizes.h"

namespace nibble::quant {
namespace {

using jit::kColumnBlock;

// z, products before the activation, becomes the gradient by them.
void through_activation(runtime::ThreadPool& pool, jit::Activation activation, ConstMatrix dy,
                        Matrix z) {
  const ActivationGradient gradient(activation, z.columns);
  std::vector<float> room(at(2 * z.columns * pool.size()));
  pool.parallel_for(z.rows, [&](int64_t begin, int64_t end, int thread) {
    float* y = room.data() + 2 * thread * z.columns;
    float* slope = y + z.columns;
    for (int64_t r = begin; r < end; ++r) {
      float* row = z.data + r * z.stride;
      const float* from = dy.data + r * dy.stride;
      gradient.run(row, y, slope);
      for (int64_t c = 0; c < z.columns; ++c) row[c] = from[c] * slope[c];
    }
  });
}

// The same for z in which 16 gate and 16 up columns alternate; columns past dy's are padding.
void through_gate(runtime::ThreadPool& pool, jit::Activation activation, ConstMatrix dy, Matrix z) {
  const int64_t half = z.columns / 2;
  const ActivationGradient gradient(activation, half);
  std::vector<float> room(at(4 * half * pool.size()));
  pool.parallel_for(z.rows, [&](int64_t begin, int64_t end, int thread) {
    float* gate = room.data() + 4 * thread * half;
    float* y = gate + half;
    float* slope = y + half;
    float* dout = slope + half;
    std::fill(dout, dout + half, 0.0F);
    for (int64_t r = begin; r < end; ++r) {
      float* row = z.data + r * z.stride;
      std::copy_n(dy.data + r * dy.stride, dy.columns, dout);
      for (int64_t c = 0; c < half; c += kColumnBlock) {
        std::copy_n(row + 2 * c, kColumnBlock, gate + c);
      }
      gradient.run(gate, y, slope);
      for (int64_t c = 0; c < half; ++c) {
        float* pair = row + c / kColumnBlock * 2 * kColumnBlock + c % kColumnBlock;
        float& up = pair[kColumnBlock];
        pair[0] = dout[c] * up * slope[c];
        up = dout[c] * y[c];
      }
    }
  });
}

}  // namespace

void linear_backward(runtime::ThreadPool& pool, const LinearNode& linear, WeightPanels& weight,
                     ConstMatrix x, ConstMatrix dy, Matrix dx, Matrix dw, const Steps& steps) {
  const bool recompute = linear.gate || linear.activation != jit::Activation::none;
  const int64_t used = linear.used();
  std::vector<float> room;
  if (recompute) room.resize(at(x.rows * std::min(kPanelColumns, used)));
  for (int64_t begin = 0; begin < used; begin += kPanelColumns) {
    const int64_t count = std::min(kPanelColumns, used - begin);
    const int64_t first = linear.gate ? begin / 2 : begin;
    const int64_t columns = std::min(linear.gate ? count / 2 : count, linear.columns - first);
    if (columns <= 0) break;
    tell(steps, static_cast<double>(begin) / static_cast<double>(used));
    const ConstMatrix panel = weight.panel(begin, count);
    ConstMatrix dz{dy.data + first, dy.rows, columns, dy.stride};
    if (recompute) {
      const Matrix z{room.data(), x.rows, count, count};
      matmul(pool, x, false, panel, true, z, false);
      if (!linear.bias.empty()) {
        add_bias(pool, std::span(linear.bias).subspan(at(begin), at(count)), z);
      }
      if (linear.gate) {
        through_gate(pool, linear.activation, dz, z);
      } else {
        through_activation(pool, linear.activation, dz, z);
      }
      dz = z;
    }
    if (dx.data != nullptr) matmul(pool, dz, false, panel, false, dx, true);
    if (dw.data != nullptr) {
      matmul(pool, dz, true, x, false, {dw.data + begin * dw.stride, count, dw.columns, dw.stride},
             true);
    }
  }
}

}  // namespace nibble::quant
