// The operands of one matmul, each in a buffer of its own between guard pages, and its reference
// result. What tests of generated matmuls share.
#pragma once

#include <cstdint>
#include <random>
#include <vector>

#include "jit/gemm.h"
#include "tests/support/guarded_buffer.h"

namespace nibble::test {

// What the operands are drawn from.
enum class Filling {
  random,    // all of the range
  extremes,  // weights at either end, activations of +-127 (s8) or at either end (bf16), scales of
             // both signs
  zeros,     // every second group of activations is all zero, with scale 0
};

class GemmProblem {
 public:
  GemmProblem(const jit::GemmSpec& spec, int64_t rows, Filling filling, uint64_t seed);

  // All operands but scratch, for the first m rows and some column blocks.
  jit::GemmArgs args(int64_t m, float* c) const;
  int64_t columns() const { return columns_; }  // of the output
  int64_t c_stride() const { return columns_ + 5; }
  int64_t rows() const { return rows_; }
  // Elements of an output buffer of m rows: none behind the last row's columns.
  int64_t c_count(int64_t m) const { return (m - 1) * c_stride() + columns_; }

  const jit::GemmSpec spec;
  const jit::PackedShape shape;
  jit::PackedView weights() const;
  const std::vector<float>& reference() const { return reference_; }  // [rows][columns]
  const GuardedBuffer<int8_t>& a_s8() const { return a_s8_; }
  const GuardedBuffer<float>& a_f32() const { return a_f32_; }
  int64_t a_stride() const { return a_stride_; }

 private:
  void fill_weights(Filling filling);
  void fill_block(Filling filling, int64_t nb);
  void fill_activations(Filling filling);
  void fill_row(Filling filling, int64_t row);
  void fill_bf16_row(Filling filling, int64_t row);
  void compute_reference();
  float uniform(float low, float high);
  int64_t integer(int64_t low, int64_t high);

  std::mt19937_64 random_;
  const int64_t rows_, columns_, a_stride_;
  GuardedBuffer<uint8_t> data_, scales_, zeros_;
  GuardedBuffer<int8_t> a_s8_;
  GuardedBuffer<uint16_t> a_bf16_;
  GuardedBuffer<float> a_f32_, a_scale_;
  GuardedBuffer<int32_t> a_sum_;
  GuardedBuffer<float> bias_, residual_;
  std::vector<float> reference_;
};

}  // namespace nibble::test
