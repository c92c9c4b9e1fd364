// Checkpoints whose weights are quantized already: GPTQ (v1 and v2), AWQ, AutoRound and
// compressed-tensors, 4 bits. Their numbers are read where they lie and taken as they are
// (graph/quantized_matrix.h); nothing is rounded here.
//
//   GPTQ                qweight i32 [k/8, n] along k, qzeros i32 [groups, n/8] along n, scales
//                       [groups, n], g_idx i32 [k]; v1 stores zero points less one
//   AWQ                 qweight i32 [k, n/8] and qzeros i32 [groups, n/8] along n, the eight of a
//                       word in the order 0, 2, 4, 6, 1, 3, 5, 7; scales [groups, n]
//   compressed-tensors  weight_packed i32 [n, k/8] along k, weight_scale [n, groups],
//                       weight_zero_point i32 [n/8, groups] along n (8 without it), weight_g_idx
#pragma once

#include <memory>
#include <string>

#include "frontends/decoder/checkpoint.h"
#include "frontends/decoder/config.h"
#include "graph/quantized_matrix.h"

namespace nibble::frontends::decoder {

struct QuantizationScheme {
  enum class Packing : uint8_t { none, gptq, awq, compressed };
  Packing packing = Packing::none;
  bool zeros_less_one = false;  // GPTQ v1
  int64_t group = 0;            // k a scale; 0: all of k
  bool group_varies = false;    // some tensors have groups of their own, which their shapes tell
};

// From quantization_config or compression_config. Throws Error for what is not supported.
QuantizationScheme read_quantization(const Config& config);

// Whether the checkpoint has `name` quantized (and not as plain weights).
bool is_quantized(const QuantizationScheme& scheme, const std::string& name,
                  const Checkpoint& checkpoint);

// The n x k matrix of `name`, which takes all tensors that belong to it but the bias. Throws Error
// naming the tensor.
std::shared_ptr<const graph::QuantizedMatrix> quantized_matrix(const QuantizationScheme& scheme,
                                                               const std::string& name, int64_t n,
                                                               int64_t k, Checkpoint& checkpoint);

}  // namespace nibble::frontends::decoder
