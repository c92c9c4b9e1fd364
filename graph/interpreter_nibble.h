// Shared by the files of the "nibble" operators' reference implementations: shapes as rows.
#pragma once

#include <cstdint>

#include "graph/interpreter_ops.h"
#include "jit/kernel_spec.h"

namespace nibble::graph {

// x as a matrix: its last dimension is `width`, all others together are `rows`.
struct RowShape {
  int64_t rows = 0, width = 0;
};
RowShape row_shape(const Array& x);

// The floats of an input that must hold `count` of them (a norm's weight, a bias), or null.
const float* weight_floats(const OpCall& call, size_t i, int64_t count);
// The floats of an input that must have x's shape, or null.
const float* same_shape_floats(const OpCall& call, size_t i, const Array& x);

jit::Activation activation_of(const OpCall& call);
float activate(jit::Activation activation, float x);

Outputs op_linear(const OpCall& call);
Outputs op_attention(const OpCall& call);

}  // namespace nibble::graph
