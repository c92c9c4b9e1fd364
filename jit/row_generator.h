// Machine code of the row kernels (row_kernels.h), written once with asmjit's Compiler over the
// 16-lane machine of compiler_math.h. Called by the code cache, which owns the memory that runs it.
#pragma once

#include <cstdint>
#include <vector>

#include "jit/isa.h"
#include "jit/kernel_spec.h"

namespace nibble::jit {

// Position-independent code of a RowFn, its constants behind it, reached relative to rip. The bits
// of its results equal row_reference's on every ISA. ISAs differ by vector length alone: avx_vnni
// gets the avx2 code, avx512_vnni and amx_int8 get the avx512 code.
// Throws Error when no kernel has this spec (see check_row_spec).
std::vector<uint8_t> generate_row(const RowSpec& spec, Isa isa);

// Throws Error with the reason when the spec is no row kernel's.
void check_row_spec(const RowSpec& spec);

}  // namespace nibble::jit
