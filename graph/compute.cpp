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

}  // namespace nibble::graph
