// What the matmuls of a model compute with: the attribute "compute" of a Linear, --compute of the
// command line, an option of lowering.
#pragma once

#include <cstdint>
#include <optional>
#include <string_view>

#include "jit/kernel_spec.h"

namespace nibble::graph {

// What activations are: quantized to s8 a group at a time, fp32, or rounded to bf16 (jit::GemmSpec
// states the arithmetic of each). f32 weights always compute in fp32.
enum class Compute : uint8_t { int8, f32, bf16 };

std::string_view compute_name(Compute compute);  // "int8", "f32", "bf16"
std::optional<Compute> parse_compute(std::string_view name);
// Of one matmul: where no kernel multiplies bf16 (jit::multiplies_bf16), fp32.
jit::ActType activations_of(Compute compute, const jit::WeightFormat& weights);

}  // namespace nibble::graph
