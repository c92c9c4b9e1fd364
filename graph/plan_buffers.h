// The arena of a plan under construction: buffers are made while steps are emitted, lives follow
// from the steps that mention them, and place() turns buffer numbers into offsets.
#pragma once

#include <cstdint>
#include <vector>

#include "runtime/plan.h"

namespace nibble::graph {

class PlanBuffers {
 public:
  // A new [rows][width] buffer of fp32, of 4-byte words with that very stride, of bytes. Until
  // place() an Operand's place is the buffer's number.
  runtime::Operand floats(int64_t width);
  runtime::Operand words(int64_t width);
  runtime::Operand bytes(int64_t width);

  // Marks the row kernels whose results every thread may compute for itself, and those results
  // wherever they are used, then rewrites the operands of all steps; returns the arena's bytes a
  // row.
  int64_t place(std::vector<runtime::Step>& steps) const;

 private:
  runtime::Operand add(int64_t row_bytes, int64_t width);
  void mark_replicable(std::vector<runtime::Step>& steps) const;
  std::vector<int64_t> row_bytes_;
};

}  // namespace nibble::graph
