// Runs generated matmuls over a GemmProblem and compares them with its reference, bit by bit and
// with what lies between rows. Shared by the tests of all emitters.
#pragma once

#include <gtest/gtest.h>

#include <algorithm>
#include <span>
#include <string>

#include "jit/gemm_generator.h"
#include "tests/jit/gemm_problem.h"
#include "tests/support/generated_code.h"

namespace nibble::test {

inline constexpr float kUntouched = -12345.5F;

inline std::string repro(const jit::GemmSpec& spec, jit::Isa isa, const jit::Tiling& tiling) {
  const std::string text = jit::name(jit::KernelKey{.spec = spec, .isa = isa, .tiling = tiling});
  return fmt::format("{}\nto repeat: nibble kernels check {}", text, text);
}

// One generated kernel and the scratch it may use.
class Runner {
 public:
  Runner(const jit::GemmSpec& spec, jit::Isa isa, const jit::Tiling& tiling)
      : code_(jit::generate_gemm(spec, isa, tiling)),
        scratch_(static_cast<size_t>(jit::gemm_scratch_bytes(spec, tiling))) {}
  void operator()(jit::GemmArgs args) {
    args.scratch = scratch_.data();
    code_(args);
  }

 private:
  GeneratedCode<jit::GemmFn> code_;
  GuardedBuffer<uint8_t> scratch_;
};

// Rows [0, m) equal the reference and the gaps between rows are untouched.
inline void expect_reference(const GemmProblem& problem, const GuardedBuffer<float>& c, int64_t m) {
  const int64_t columns = problem.columns();
  for (int64_t row = 0; row < m; ++row) {
    const std::span<const float> expected =
        std::span(problem.reference()).subspan(static_cast<size_t>(row * columns), columns);
    const size_t first = static_cast<size_t>(row * problem.c_stride());
    ASSERT_TRUE(same_bits(c.span().subspan(first, columns), expected)) << "row " << row;
    for (size_t gap = first + columns; gap < c.size() && gap < first + problem.c_stride(); ++gap) {
      ASSERT_EQ(c[gap], kUntouched) << "written past the columns of row " << row;
    }
  }
}

inline void check_rows(const GemmProblem& problem, Runner& run, int64_t m) {
  GuardedBuffer<float> c(static_cast<size_t>(problem.c_count(m)), kUntouched);
  run(problem.args(m, c.data()));
  expect_reference(problem, c, m);
}

// The same result from two calls that share the columns between them.
inline void check_split(const GemmProblem& problem, Runner& run, int64_t m) {
  const int64_t step = problem.spec.gate ? 2 : 1;
  const int64_t middle = (problem.shape.nblocks / 2 + step - 1) / step * step;
  GuardedBuffer<float> c(static_cast<size_t>(problem.c_count(m)), kUntouched);
  jit::GemmArgs args = problem.args(m, c.data());
  args.nb_begin = middle;
  run(args);
  args.nb_begin = 0;
  args.nb_end = middle;
  run(args);
  expect_reference(problem, c, m);
}

}  // namespace nibble::test
