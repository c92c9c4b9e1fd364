// The numbers in the blocks of ggml's quantized types: small integers, and a scale for each group
// of them. Source: ggml's ggml-common.h and ggml-quants.c (block layouts); dequantize() rounds
// every product and sum as ggml's arithmetic does.
#pragma once

#include <cstddef>
#include <cstdint>
#include <optional>
#include <span>

#include "frontends/gguf/ggml_types.h"
#include "jit/packed_layout.h"

namespace nibble::frontends::gguf {

// The packed format that the numbers of a type have, scales of q8 those of K-quants; nullopt for
// types that are not quantized.
std::optional<jit::WeightFormat> packed_format(GgmlType type);

// The weights of whole blocks in that format: q[i], for each group scales[g] and, in a format with
// minimums, minimums[g], and for each block of K-quants the fp16 numbers that these are multiples
// of.
struct NumbersOfBlocks {
  std::span<uint8_t> q;
  std::span<float> scales, minimums;
  std::span<float> super_scales, super_minimums;
};
void read_numbers(GgmlType type, std::span<const std::byte> blocks, const NumbersOfBlocks& out);

// out[i] = the weight i of whole blocks of a quantized type; `blocks` holds out.size() of them.
void dequantize(GgmlType type, std::span<const std::byte> blocks, std::span<float> out);

}  // namespace nibble::frontends::gguf
