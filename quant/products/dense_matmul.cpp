#include "quant/products/dense_matmul.h"

#include <algorithm>
#include <cstddef>
#include <memory>
#include <new>
#include <span>

#include "jit/code_cache.h"
#include "jit/error.h"
#include "jit/gemm.h"
#include "jit/isa.h"
#include "quant/products/parallel_rows.h"

namespace nibble::quant {
namespace {

using jit::kColumnBlock;

constexpr int64_t kSlab = 512;         // k that is multiplied at a time
constexpr int64_t kTaskRows = 256;     // of a slab, half of an L2
constexpr int64_t kTaskColumns = 384;  // a multiple of the columns of every tile
constexpr std::align_val_t kAlignment{64};

struct Free {
  void operator()(void* memory) const { ::operator delete(memory, kAlignment); }
};
using Buffer = std::unique_ptr<float, Free>;

Buffer allocate(int64_t count) {
  const size_t bytes = static_cast<size_t>(std::max<int64_t>(1, count)) * sizeof(float);
  return Buffer(static_cast<float*>(::operator new(bytes, kAlignment)));
}

int64_t ceil_div(int64_t a, int64_t b) { return (a + b - 1) / b; }

// The multiplication of one slab: c (+)= a w, w packed in blocks of 16 columns.
const jit::Kernel& slab_kernel(int64_t k, bool accumulate, jit::Isa isa) {
  jit::GemmSpec spec;
  spec.weight = {.type = jit::WeightType::f32};
  spec.act = jit::ActType::f32;
  spec.n = int64_t{1} << 30;  // as many columns as the call says
  spec.k = k;
  spec.residual = accumulate;
  const jit::Tiling tiling = jit::default_tiling(spec, isa, kTaskRows);
  return jit::CodeCache::instance().get({.spec = spec, .isa = isa, .tiling = tiling});
}

// Columns [block * 16, + 16) of rows [k0, k0 + depth) of op(b), as lines of 16.
void pack_columns(const ConstMatrix& b, bool transpose, int64_t columns, int64_t block, int64_t k0,
                  int64_t depth, float* out) {
  const int64_t first = block * kColumnBlock;
  const int64_t valid = std::min(kColumnBlock, columns - first);
  if (valid < kColumnBlock) std::fill(out, out + depth * kColumnBlock, 0.0F);
  if (!transpose) {
    for (int64_t kk = 0; kk < depth; ++kk) {
      std::copy_n(b.data + (k0 + kk) * b.stride + first, valid, out + kk * kColumnBlock);
    }
    return;
  }
  constexpr int64_t kLine = 16;  // of a row at a time
  for (int64_t begin = 0; begin < depth; begin += kLine) {
    const int64_t end = std::min(depth, begin + kLine);
    for (int64_t c = 0; c < valid; ++c) {
      const float* row = b.data + (first + c) * b.stride + k0;
      for (int64_t kk = begin; kk < end; ++kk) out[kk * kColumnBlock + c] = row[kk];
    }
  }
}

// Rows [begin, end) of a^T: columns of a, over a's rows [k0, k0 + depth).
void transpose_rows(const ConstMatrix& a, int64_t begin, int64_t end, int64_t k0, int64_t depth,
                    float* out) {
  constexpr int64_t kTile = 16;
  for (int64_t kk = 0; kk < depth; kk += kTile) {
    const int64_t k_end = std::min(depth, kk + kTile);
    for (int64_t r = begin; r < end; ++r) {
      float* row = out + r * depth;
      for (int64_t i = kk; i < k_end; ++i) row[i] = a.data[(k0 + i) * a.stride + r];
    }
  }
}

void multiply(runtime::ThreadPool& pool, ConstMatrix a, bool transpose_a, ConstMatrix b,
              bool transpose_b, Matrix c, bool accumulate, bool upper_only, const Steps& steps) {
  const int64_t m = c.rows, n = c.columns, k = transpose_a ? a.rows : a.columns;
  const jit::Isa isa = jit::selected_isa();
  const int64_t blocks = ceil_div(n, kColumnBlock);
  const int64_t row_tasks = ceil_div(m, kTaskRows), column_tasks = ceil_div(n, kTaskColumns);
  const Buffer packed = allocate(blocks * kColumnBlock * std::min(k, kSlab));
  const Buffer turned = allocate(transpose_a ? m * std::min(k, kSlab) : 0);
  const jit::Kernel& first = slab_kernel(std::min(k, kSlab), accumulate, isa);
  const auto* spec = std::get_if<jit::GemmSpec>(&first.key.spec);
  const int64_t scratch_floats =
      ceil_div(jit::gemm_scratch_bytes(*spec, first.key.tiling), 64) * 16 + 16;
  const Buffer scratch = allocate(scratch_floats * row_tasks * column_tasks);

  for (int64_t k0 = 0; k0 < k; k0 += kSlab) {
    const int64_t depth = std::min(kSlab, k - k0);
    tell(steps, static_cast<double>(k0) / static_cast<double>(k));
    for_each_row(pool, blocks, [&](int64_t block, int) {
      pack_columns(b, transpose_b, n, block, k0, depth,
                   packed.get() + block * kColumnBlock * depth);
    });
    if (transpose_a) {
      for_each_row(pool, ceil_div(m, 64), [&](int64_t task, int) {
        transpose_rows(a, task * 64, std::min(m, task * 64 + 64), k0, depth, turned.get());
      });
    }
    const jit::Kernel& kernel = slab_kernel(depth, accumulate || k0 > 0, isa);
    for_each_row(pool, row_tasks * column_tasks, [&](int64_t task, int) {
      const int64_t row = task % row_tasks * kTaskRows;
      const int64_t column = task / row_tasks * kTaskColumns;
      if (upper_only && column + kTaskColumns <= row) return;
      jit::GemmArgs args;
      args.a = transpose_a ? turned.get() + row * depth : a.data + row * a.stride + k0;
      args.a_stride = transpose_a ? depth : a.stride;
      args.w = reinterpret_cast<const uint8_t*>(packed.get());
      args.c = c.data + row * c.stride;
      args.c_stride = c.stride;
      args.c_columns = n;
      args.residual = args.c;
      args.residual_stride = c.stride;
      args.m = std::min(kTaskRows, m - row);
      args.nb_begin = column / kColumnBlock;
      args.nb_end = std::min(blocks, (column + kTaskColumns) / kColumnBlock);
      args.scratch = scratch.get() + task * scratch_floats;
      kernel.run(args);
    });
  }
}

void check(const ConstMatrix& matrix, const char* name) {
  if (matrix.rows < 0 || matrix.columns < 0 || matrix.stride < matrix.columns) {
    fail("The matrix {} is {} x {} with {} elements between rows, expected at least a row.", name,
         matrix.rows, matrix.columns, matrix.stride);
  }
}

}  // namespace

void matmul(runtime::ThreadPool& pool, ConstMatrix a, bool transpose_a, ConstMatrix b,
            bool transpose_b, Matrix c, bool accumulate) {
  check(a, "a");
  check(b, "b");
  check(c, "c");
  const int64_t m = transpose_a ? a.columns : a.rows, k = transpose_a ? a.rows : a.columns;
  const int64_t n = transpose_b ? b.rows : b.columns, kb = transpose_b ? b.columns : b.rows;
  if (k != kb || c.rows != m || c.columns != n) {
    fail("A product of {} x {} and {} x {} into {} x {}: the shapes do not fit.", m, k, kb, n,
         c.rows, c.columns);
  }
  if (m == 0 || n == 0) return;
  if (k == 0) {
    for (int64_t r = 0; r < m && !accumulate; ++r) std::fill_n(c.data + r * c.stride, n, 0.0F);
    return;
  }
  multiply(pool, a, transpose_a, b, transpose_b, c, accumulate, false, {});
}

void gram(runtime::ThreadPool& pool, ConstMatrix x, Matrix c, bool accumulate, const Steps& steps) {
  check(x, "x");
  check(c, "c");
  const int64_t k = x.columns;
  if (c.rows != k || c.columns != k) {
    fail("The products of {} columns go into {} x {}, expected {} x {}.", k, c.rows, c.columns, k,
         k);
  }
  if (k == 0) return;
  if (x.rows == 0) {
    for (int64_t r = 0; r < k && !accumulate; ++r) std::fill_n(c.data + r * c.stride, k, 0.0F);
    return;
  }
  multiply(pool, x, true, x, false, c, accumulate, true, steps);
  for_each_row(pool, ceil_div(k, 64), [&](int64_t task, int) {
    for (int64_t row = task * 64; row < std::min(k, task * 64 + 64); ++row) {
      for (int64_t column = 0; column < row; ++column) {
        c.data[row * c.stride + column] = c.data[column * c.stride + row];
      }
    }
  });
}

}  // namespace nibble::quant
