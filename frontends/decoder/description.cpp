#include "frontends/decoder/description.h"

#include <fmt/format.h>

namespace nibble::frontends::decoder {

std::string line_of(const Description& d) {
  const char* residual = d.residual == Residual::parallel ? "parallel" : "serial";
  std::string line = fmt::format(
      "{}: {} layers of {}, {} heads of {} ({} for keys and values), MLP {} {}, {} residual",
      d.family, d.layers, d.hidden, d.heads, d.head_dim, d.kv_heads, d.mlp, d.activation, residual);
  if (d.rotation.rotary > 0) line += fmt::format(", {} dimensions rotated", d.rotation.rotary);
  if (!d.slopes.empty()) line += ", ALiBi";
  if (d.tied) line += ", tied";
  using Packing = QuantizationScheme::Packing;
  const Packing packing = d.quantization.packing;
  if (packing == Packing::gptq) line += ", GPTQ weights";
  if (packing == Packing::awq) line += ", AWQ weights";
  if (packing == Packing::compressed) line += ", compressed-tensors weights";
  return line;
}

}  // namespace nibble::frontends::decoder
