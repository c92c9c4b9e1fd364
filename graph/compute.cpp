#include "graph/compute.h"

namespace nibble::graph {

std::string_view compute_name(Compute compute) {
  switch (compute) {
    case Compute::int8:
      return "int8";
    case Compute::f32:
      return "f32";
    case Compute::bf16:
      return "bf16";
  }
  return "unknown";
}

std::optional<Compute> parse_compute(std::string_view name) {
  for (const Compute compute : {Compute::int8, Compute::f32, Compute::bf16}) {
    if (compute_name(compute) == name) return compute;
  }
  return std::nullopt;
}

jit::ActType activations_of(Compute compute, const jit::WeightFormat& weights) {
  if (weights.type == jit::WeightType::f32 || compute == Compute::f32) return jit::ActType::f32;
  if (compute == Compute::int8) return jit::ActType::s8;
  return jit::multiplies_bf16(weights) ? jit::ActType::bf16 : jit::ActType::f32;
}

}  // namespace nibble::graph
