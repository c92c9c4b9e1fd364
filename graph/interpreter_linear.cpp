// Linear: fp32 over the dequantized weights, or, for packed weights with compute "int8" or "bf16",
// the generated kernels that the compiled plan uses too.
#include <algorithm>
#include <cstddef>
#include <new>
#include <optional>
#include <string>

#include "graph/compute.h"
#include "graph/interpreter_nibble.h"
#include "jit/code_cache.h"
#include "jit/error.h"
#include "jit/gemm.h"
#include "jit/isa.h"
#include "jit/packed_layout.h"
#include "jit/row_kernels.h"

namespace nibble::graph {
namespace {

// What the node asks for, checked.
struct LinearCall {
  const Array* x = nullptr;
  int64_t rows = 0, n = 0, k = 0;
  int64_t columns = 0;  // valid output columns
  bool gate = false;
  jit::Activation activation = jit::Activation::none;
  const float* bias = nullptr;      // [n]
  const float* residual = nullptr;  // [rows][columns]
  const jit::PackedView* packed = nullptr;
  jit::ActType act = jit::ActType::f32;  // s8 and bf16: by generated kernels
  Shape out_shape;
};

LinearCall read_linear_call(const OpCall& call) {
  LinearCall linear;
  linear.x = &call.in(0);
  const Constant* constant = call.constant(1);
  if (constant == nullptr) fail("The weight is no constant.");
  if (const auto* source = std::get_if<MatrixSource>(constant)) {
    linear.n = source->n, linear.k = source->k;
  } else if (const auto* packed = std::get_if<runtime::PackedMatrix>(constant)) {
    linear.packed = &packed->view;
    linear.n = packed->view.n, linear.k = packed->view.k;
  } else {
    fail("The weight is a plain tensor where a matrix is expected.");
  }
  const RowShape shape = row_shape(*linear.x);
  if (shape.width != linear.k) {
    fail("Rows of {} do not fit a weight with k = {}.", shape.width, linear.k);
  }
  linear.rows = shape.rows;
  linear.gate = call.node.get_int("gate", 0) != 0;
  const int64_t most = linear.gate ? linear.n / 2 : linear.n;
  linear.columns = call.node.get_int("columns", most);
  if (linear.columns < 0 || linear.columns > most || (linear.gate && linear.n % 32 != 0)) {
    fail("{} output columns do not fit a weight of {} columns{}.", linear.columns, linear.n,
         linear.gate ? " with a gate" : "");
  }
  linear.activation = activation_of(call);
  linear.out_shape = linear.x->shape;
  linear.out_shape.back() = linear.columns;
  linear.bias = weight_floats(call, 2, linear.n);
  if (const Array* residual = call.optional(3)) {
    if (residual->shape != linear.out_shape) {
      fail("A residual of shape {} does not fit an output of shape {}.", to_string(residual->shape),
           to_string(linear.out_shape));
    }
    linear.residual = residual->floats().data();
  }
  const std::string name = call.node.get_string("compute", "f32");
  const std::optional<Compute> compute = parse_compute(name);
  if (!compute) fail("The attribute compute is \"{}\", not int8, f32 or bf16.", name);
  if (linear.packed != nullptr) linear.act = activations_of(*compute, linear.packed->format);
  return linear;
}

std::vector<float> compute_f32(const OpCall& call, const LinearCall& linear) {
  const auto weight = call.matrices.k_major(call.node.input(1));
  const int64_t n = linear.n;
  std::vector<float> product(static_cast<size_t>(array_size({linear.rows, n})));
  multiply(linear.x->floats().data(), weight->data(), product.data(), linear.rows, linear.k, n);
  std::vector<float> out(static_cast<size_t>(array_size(linear.out_shape)));
  for (int64_t r = 0; r < linear.rows; ++r) {
    const float* row = product.data() + r * n;
    const auto biased = [&](int64_t c) {
      return linear.bias != nullptr ? row[c] + linear.bias[c] : row[c];
    };
    for (int64_t c = 0; c < linear.columns; ++c) {
      // With a gate, 16 gate columns and their 16 up columns alternate.
      const int64_t first = linear.gate ? c / 16 * 32 + c % 16 : c;
      float y = activate(linear.activation, biased(first));
      if (linear.gate) y *= biased(first + 16);
      const auto at = static_cast<size_t>(r * linear.columns + c);
      out[at] = linear.residual != nullptr ? y + linear.residual[at] : y;
    }
  }
  return out;
}

// Memory at 64-byte alignment, as the kernels' buffers are.
template <typename T>
class Aligned {
 public:
  explicit Aligned(int64_t count)
      : data_(static_cast<T*>(
            ::operator new (static_cast<size_t>(count) * sizeof(T) + 1, std::align_val_t{64}))) {
    std::fill(data_, data_ + count, T{});
  }
  ~Aligned() { ::operator delete (data_, std::align_val_t{64}); }
  Aligned(const Aligned&) = delete;
  Aligned& operator=(const Aligned&) = delete;
  T* get() const { return data_; }

 private:
  T* data_;
};

std::vector<float> compute_quantized(const LinearCall& linear) {
  const jit::PackedView& w = *linear.packed;
  const jit::PackedShape shape = jit::packed_shape(w.format, w.n, w.k);
  const jit::Isa isa = jit::selected_isa();
  jit::CodeCache& cache = jit::CodeCache::instance();
  const int64_t row_bytes = shape.kpad * jit::act_bytes(linear.act);
  Aligned<std::byte> q(linear.rows * row_bytes);
  jit::RowSpec quantize;
  quantize.op = jit::RowOp::quantize;
  quantize.n = w.k;
  quantize.bf16 = linear.act == jit::ActType::bf16;
  if (!quantize.bf16) jit::set_groups(quantize, jit::activation_groups(w.format));
  Aligned<float> scale(linear.rows * jit::row_scales(quantize));
  Aligned<int32_t> sum(linear.rows * jit::row_sum_words(quantize));

  jit::RowArgs row;
  row.x = linear.x->floats().data();
  row.x_stride = linear.k;
  row.q = q.get();
  row.q_stride = row_bytes;
  row.q_scale = scale.get();
  row.q_sum = sum.get();
  row.q_groups = jit::row_scales(quantize);
  row.q_sum_words = jit::row_sum_words(quantize);
  row.rows = linear.rows;
  cache.get({.spec = quantize, .isa = isa, .tiling = {}}).run(row);

  jit::GemmSpec spec;
  spec.weight = w.format;
  spec.act = linear.act;
  spec.n = w.n;
  spec.k = w.k;
  spec.bias = linear.bias != nullptr;
  spec.residual = linear.residual != nullptr;
  spec.activation = linear.activation;
  spec.gate = linear.gate;
  const jit::Tiling tiling = jit::default_tiling(spec, isa, linear.rows);
  Aligned<std::byte> scratch(jit::gemm_scratch_bytes(spec, tiling));
  std::vector<float> out(static_cast<size_t>(array_size(linear.out_shape)));
  jit::GemmArgs gemm;
  gemm.a = q.get();
  gemm.a_stride = shape.kpad;
  gemm.a_scale = scale.get();
  gemm.a_sum = sum.get();
  gemm.w = w.data;
  gemm.w_scale = w.scales;
  gemm.w_zero = w.zeros;
  gemm.bias = linear.bias;
  gemm.residual = linear.residual;
  gemm.residual_stride = linear.columns;
  gemm.c = out.data();
  gemm.c_stride = linear.columns;
  gemm.c_columns = linear.columns;
  gemm.m = linear.rows;
  gemm.nb_end = shape.nblocks;
  gemm.scratch = scratch.get();
  cache.get({.spec = spec, .isa = isa, .tiling = tiling}).run(gemm);
  return out;
}

}  // namespace

Outputs op_linear(const OpCall& call) {
  LinearCall linear = read_linear_call(call);
  std::vector<float> out = linear.act != jit::ActType::f32 && linear.rows > 0
                               ? compute_quantized(linear)
                               : compute_f32(call, linear);
  return {Array::of(std::move(linear.out_shape), std::move(out))};
}

}  // namespace nibble::graph
