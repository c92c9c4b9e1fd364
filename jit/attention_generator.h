// Machine code of the attention kernels (attention.h), written with asmjit's Compiler over the
// 16-lane machine of compiler_math.h. Called by the code cache, which owns the memory that runs it.
#pragma once

#include <cstdint>
#include <vector>

#include "jit/isa.h"
#include "jit/kernel_spec.h"

namespace nibble::jit {

// Position-independent code of an AttentionFn, its constants behind it, reached relative to rip.
// The bits of its results equal attention_reference's on every ISA, whatever spec.rows is. ISAs
// differ by vector length, by the dot products that they have of integers, and amx_int8 by the
// tiles of bf16_pairs. Throws Error when head_dim or rows are out of range (see
// check_attention_spec).
std::vector<uint8_t> generate_attention(const AttentionSpec& spec, Isa isa);

// Its parts for the integer cache types.
std::vector<uint8_t> generate_int16_attention(const AttentionSpec& spec, Isa isa);
std::vector<uint8_t> generate_int8_attention(const AttentionSpec& spec, Isa isa);
// That for bf16_pairs (attention_bf16_generator.cpp): tiles where the ISA has them.
std::vector<uint8_t> generate_bf16_attention(const AttentionSpec& spec, Isa isa);

// Throws Error with the reason when the spec is no attention kernel's.
void check_attention_spec(const AttentionSpec& spec);

}  // namespace nibble::jit
